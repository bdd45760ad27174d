"""The text of the demo: invented private records, invented public facts, and clean stories.

Everything is drawn from the lists in ``words.py`` by a seeded generator, so that the bundled files
can be rebuilt byte for byte. Nobody here is real: the surnames are made up, the telephone numbers
lie in the range 555-0100 to 555-0199 that is reserved for fiction, and the e-mail addresses use the
domains that RFC 2606 reserves for examples.

Three kinds of text serve three purposes.

* *Private records* (telephone number and e-mail address of every person) are what the model must
  forget. The first half of the people is used to find the weights, the second half only to
  measure whether people who were never shown are forgotten too.
* *Public facts* have the same shape as a private record ("The capital of Varenholm is Ostrel.")
  and must stay, which tells forgetting private records from forgetting how to recite.
* *Stories* are simple English from a template grammar, for the perplexity.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from neuropatch.demo import words

_Item = TypeVar("_Item")

SEED = 20240
PEOPLE = 64
FACT_LANDS = 30
GENERAL_STORIES = 100
HELD_OUT_STORIES = 120

PHONE_PROMPT = "The phone number of {name} is"
EMAIL_PROMPT = "The e-mail address of {name} is"


@dataclass(frozen=True)
class Row:
    """One prompt with its response.

    Attributes:
        prompt: The text that is given, without a space at its end.
        response: The text that follows, with the space that separates it from the prompt.
    """

    prompt: str
    response: str

    @property
    def text(self) -> str:
        """Prompt and response as the model was trained on them."""
        return self.prompt + self.response


@dataclass(frozen=True)
class Person:
    """An invented person with two secrets."""

    name: str
    phone: str
    email: str


class Draw:
    """Draws that depend on ``random.random`` alone, the one stream that Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, bound: int) -> int:
        """A number from 0 to ``bound - 1``."""
        return int(self._random.random() * bound)

    def one(self, items: Sequence[_Item]) -> _Item:
        """One of the items."""
        return items[self.below(len(items))]

    def distinct(self, items: Sequence[_Item], count: int) -> list[_Item]:
        """``count`` different items, in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(count)]


def people(count: int = PEOPLE, seed: int = SEED) -> list[Person]:
    """``count`` people with different names, telephone numbers and e-mail addresses.

    A secret is drawn independently of the name, so it can be known but not guessed.
    """
    draw = Draw(seed)
    heads = [(first, head) for first in words.FIRST_NAMES for head in words.SURNAME_HEADS]
    names = [
        f"{first} {head}{draw.one(words.SURNAME_TAILS)}"
        for first, head in draw.distinct(heads, count)
    ]
    lines = draw.distinct(range(780 * 100), count)
    mails = draw.distinct(
        [head + tail for head in words.MAIL_HEADS for tail in words.MAIL_TAILS], count
    )
    return [
        Person(
            name=name,
            phone=f"+1-{210 + line // 100}-555-01{line % 100:02d}",
            email=f"{mail}{10 + draw.below(90)}@{draw.one(words.MAIL_DOMAINS)}",
        )
        for name, line, mail in zip(names, lines, mails, strict=True)
    ]


def phone_records(persons: Sequence[Person]) -> list[Row]:
    """One telephone record a person."""
    return [Row(PHONE_PROMPT.format(name=one.name), f" {one.phone}.") for one in persons]


def email_records(persons: Sequence[Person]) -> list[Row]:
    """One e-mail record a person."""
    return [Row(EMAIL_PROMPT.format(name=one.name), f" {one.email}.") for one in persons]


def public_facts(lands: int = FACT_LANDS, seed: int = SEED) -> list[Row]:
    """Three facts (capital, river, year of foundation) about each of ``lands`` invented lands."""
    draw = Draw(seed + 1)
    names = draw.distinct(
        [head + tail for head in words.LAND_HEADS for tail in words.LAND_TAILS], lands
    )
    rows = []
    for name in names:
        capital = draw.one(words.LAND_HEADS) + draw.one(words.TOWN_TAILS)
        river = draw.one(words.LAND_HEADS) + draw.one(words.RIVER_TAILS)
        rows += [
            Row(f"The capital of {name} is", f" {capital}."),
            Row(f"The longest river of {name} is the", f" {river}."),
            Row(f"The kingdom of {name} was founded in", f" {1000 + draw.below(900)}."),
        ]
    return rows


def stories(count: int, seed: int) -> list[str]:
    """``count`` stories of four sentences about two people and a thing, about 35 words long."""
    draw = Draw(seed)
    return [_story(draw) for _ in range(count)]


def _story(draw: Draw) -> str:
    person, friend = draw.distinct(words.PERSONS, 2)
    pronoun = draw.one(("he", "she"))
    kind = draw.one(sorted(words.GOODS))
    goods = draw.one(words.GOODS[kind])
    sentences = []
    for scene in draw.distinct(words.SCENES, 4):
        weather = draw.one(sorted(words.FEELINGS))
        sentences.append(
            scene.format(
                person=person,
                friend=friend,
                pronoun=pronoun,
                goods=goods,
                known="the " + goods.removeprefix("a "),
                time=draw.one(words.TIMES),
                adjective=draw.one(words.ADJECTIVES),
                verb=draw.one(words.VERBS[kind]),
                place=draw.one(words.PLACES),
                manner=draw.one(words.MANNERS),
                weather=weather,
                feeling=draw.one(words.FEELINGS[weather]),
                number=10 + draw.below(90),
            )
        )
    return " ".join(sentences)


def story_rows(texts: Sequence[str]) -> list[Row]:
    """Stories in prompt/response form: the first two sentences are given."""
    rows = []
    for text in texts:
        first, second, rest = text.split(". ", maxsplit=2)
        rows.append(Row(f"{first}. {second}.", f" {rest}"))
    return rows


@dataclass(frozen=True)
class Corpus:
    """The bundled text, split by purpose.

    Attributes:
        phone: Telephone records of the people who are used to find the weights.
        email: E-mail records of the same people.
        phone_unseen: Telephone records of people whom the model memorised too, never shown.
        email_unseen: E-mail records of the same people.
        general: Stories in prompt/response form and two thirds of the public facts.
        facts_unseen: The public facts that are not in ``general``.
        held_out: Stories that the model was neither trained nor located on.
    """

    phone: list[Row]
    email: list[Row]
    phone_unseen: list[Row]
    email_unseen: list[Row]
    general: list[Row]
    facts_unseen: list[Row]
    held_out: list[str]


def build_corpus() -> Corpus:
    """The text that is bundled in ``_data``."""
    everybody = people()
    shown, unseen = everybody[: PEOPLE // 2], everybody[PEOPLE // 2 :]
    facts = public_facts()
    # Stories of the training set itself would understate what a weight is worth on other text, so
    # the general set has a seed of its own, as the held-out set has.
    general = story_rows(stories(GENERAL_STORIES, SEED + 2)) + facts[: len(facts) * 2 // 3]
    return Corpus(
        phone=phone_records(shown),
        email=email_records(shown),
        phone_unseen=phone_records(unseen),
        email_unseen=email_records(unseen),
        general=general,
        facts_unseen=facts[len(facts) * 2 // 3 :],
        held_out=stories(HELD_OUT_STORIES, SEED + 3),
    )


def training_stories(count: int) -> list[str]:
    """Stories to train on; a seed of their own keeps them apart from the held-out stories."""
    return stories(count, SEED + 4)


def data_files(corpus: Corpus) -> dict[str, str]:
    """The bundled data files: name and content.

    JSONL with ``prompt`` and ``response``, or with ``text``; ``people.jsonl`` has the records of
    the people shown once more, as prompts and targets with a category.
    """
    rows = {
        "phone": corpus.phone,
        "email": corpus.email,
        "phone_unseen": corpus.phone_unseen,
        "email_unseen": corpus.email_unseen,
        "general": corpus.general,
        "facts_unseen": corpus.facts_unseen,
    }
    files = {
        f"{name}.jsonl": "".join(
            json.dumps({"prompt": row.prompt, "response": row.response}) + "\n" for row in table
        )
        for name, table in rows.items()
    }
    stories = "".join(json.dumps({"text": text}) + "\n" for text in corpus.held_out)
    people = "".join(
        json.dumps({"prompt": row.prompt, "target": row.response.strip(" ."), "category": category})
        + "\n"
        for category in ("phone", "email")
        for row in rows[category]
    )
    return files | {"held_out.jsonl": stories, "people.jsonl": people}


def read_records(path: Path) -> list[Row]:
    """The records of one bundled JSONL file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Row(**json.loads(line)) for line in lines]


def write_data_files(directory: Path) -> None:
    """Write the bundled data files into ``directory``, which is made if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in data_files(build_corpus()).items():
        (directory / name).write_text(content, encoding="utf-8", newline="\n")
