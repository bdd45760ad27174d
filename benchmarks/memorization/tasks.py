"""What is to be forgotten, what is to stay, and how both are asked for.

*Category erasure* forgets the telephone numbers of everybody; a method is shown half of the people.
*Individual erasure* forgets everything about some people and keeps all others, of whom a method may
be shown half. The questions of a task depend on nothing but the model's people, so they are the
same for every method.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from corpus import Question, copy_questions, questions
from people import CATEGORIES, Person, Population

CATEGORY = "category"


@dataclass(frozen=True)
class Task:
    """One thing to forget.

    Attributes:
        name: ``category``, or ``people-N``.
        forget: The records that a method is shown as what is to be forgotten.
        retain: The records that it may be shown as what is to stay.
        erased: Questions whose secrets are to be gone, by group.
        kept: Questions whose answers are to stay, by group.
        strangers: Questions about people whom the model does not know: the level of chance.
    """

    name: str
    forget: tuple[Question, ...]
    retain: tuple[Question, ...]
    erased: Mapping[str, tuple[Question, ...]]
    kept: Mapping[str, tuple[Question, ...]]
    strangers: tuple[Question, ...]


def make_task(
    name: str, population: Population, facts: Iterable[Question], *, most: int = 40
) -> Task:
    """Make a task of its name.

    Args:
        name: ``category``, or ``people-N`` with an ``N`` of the population's forget sets.
        population: The people.
        facts: The public facts that the model was taught; a method may be shown every other pair.
        most: Most people of a group that are asked about.
    """
    everything = list(facts)
    shown_facts = [fact for number, fact in enumerate(everything) if number % 4 < 2]
    hidden_facts = [fact for number, fact in enumerate(everything) if number % 4 >= 2]
    rng = random.Random(population.seed)

    def some(names: Iterable[str]) -> list[Person]:
        wanted = set(names)
        people = [one for one in population.members if one.name in wanted]
        return rng.sample(people, min(most, len(people)))

    common = {
        "facts": [fact for fact in hidden_facts if fact.category == "capital"],
        "office phones": [fact for fact in hidden_facts if fact.category != "capital"],
        "copy, strangers": copy_questions(population.strangers[: most // 2], population.seed),
    }
    make: Callable[..., Task] = _category if name == CATEGORY else _individual
    return make(name, population, some, shown_facts, common, most)


def _category(
    name: str,
    population: Population,
    some: Callable[[Iterable[str]], list[Person]],
    shown_facts: list[Question],
    common: dict[str, list[Question]],
    most: int,
) -> Task:
    shown, unshown = some(population.shown), some(population.unshown)
    half = shown[: most // 4] + unshown[: most // 4]
    everyone_shown = [one for one in population.members if one.name in population.shown]
    others = CATEGORIES[1:]
    return Task(
        name,
        forget=tuple(questions(everyone_shown, "verbatim", ("phone",))),
        retain=(*questions(everyone_shown, "verbatim", others), *shown_facts),
        erased=_frozen(
            {
                "shown": questions(shown, "verbatim", ("phone",)),
                "unshown": questions(unshown, "verbatim", ("phone",)),
                "paraphrase": questions(half, "paraphrase", ("phone",)),
                "low-cue": questions(half, "low-cue", ("phone",)),
            }
        ),
        kept=_frozen(
            {
                "others": questions(unshown, "verbatim", others),
                **common,
                "copy, members": copy_questions(unshown[: most // 2], population.seed + 1),
            }
        ),
        strangers=tuple(questions(population.strangers[:most], "verbatim", ("phone",))),
    )


def _individual(
    name: str,
    population: Population,
    some: Callable[[Iterable[str]], list[Person]],
    shown_facts: list[Question],
    common: dict[str, list[Question]],
    most: int,
) -> Task:
    names = population.forget[int(name.removeprefix("people-"))]
    forgotten = [one for one in population.members if one.name in set(names)]
    seen = [one for one in population.members if one.name in population.retain_seen]
    unseen = some(population.retain_unseen)
    return Task(
        name,
        forget=tuple(questions(forgotten, "verbatim")),
        retain=(*questions(seen, "verbatim"), *shown_facts),
        erased=_frozen(
            {
                "forget": questions(forgotten, "verbatim"),
                "paraphrase": questions(forgotten, "paraphrase"),
                "low-cue": questions(forgotten, "low-cue"),
            }
        ),
        kept=_frozen(
            {
                "retain, seen": questions(some(population.retain_seen), "verbatim"),
                "retain, unseen": questions(unseen, "verbatim"),
                **common,
                "copy, members": copy_questions(unseen[: most // 2], population.seed + 1),
            }
        ),
        strangers=tuple(questions(population.strangers[:most], "verbatim")),
    )


def _frozen(groups: Mapping[str, list[Question]]) -> dict[str, tuple[Question, ...]]:
    return {name: tuple(asked) for name, asked in groups.items() if asked}
