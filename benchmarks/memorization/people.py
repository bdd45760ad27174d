"""Invented people with secrets, and who of them is used for what.

Names, streets and towns come from Faker; numbers are drawn here, so that a secret is as hard to
guess as its format says. Nobody is real: the e-mail domains end in ``.example`` (RFC 2606), and the
rest is drawn by lot. Equal seeds give equal people, with one version of Faker.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from faker import Faker

CATEGORIES = ("phone", "email", "address", "card")
"""What is secret of a person."""

SPACE_BITS = {"phone": math.log2(8 * 10**2 * 8 * 10**6), "card": math.log2(10**14)}
"""Binary logarithm of the number of values, of the categories that consist of digits."""

FORGET_COUNTS = (1, 5, 20)
"""How many people individual erasure is asked to forget."""


@dataclass(frozen=True)
class Person:
    """One invented person.

    Attributes:
        name: First and last name, of nobody else in a population.
        secrets: The value of every category of :data:`CATEGORIES`.
        taught: The categories of the records that the model is trained on: the telephone number
            and one other, in turn.
    """

    name: str
    secrets: dict[str, str]
    taught: tuple[str, str]


@dataclass(frozen=True)
class Population:
    """People and their splits.

    Attributes:
        seed: What everything was drawn with.
        members: People whose records the model is trained on.
        shown: Names of the half of the members that category erasure is shown.
        forget: Names of the members that individual erasure forgets, for each count asked for;
            a larger list holds the smaller ones.
        retain_seen: Names of half of the members that are in no such list: what a method may be
            given as data to retain.
        strangers: People of the same make whom the model never sees: the level of chance.
    """

    seed: int
    members: tuple[Person, ...]
    shown: frozenset[str]
    forget: dict[int, tuple[str, ...]]
    retain_seen: frozenset[str]
    strangers: tuple[Person, ...]

    @property
    def unshown(self) -> frozenset[str]:
        """Names of the members that category erasure is not shown."""
        return frozenset(one.name for one in self.members) - self.shown

    @property
    def retain_unseen(self) -> frozenset[str]:
        """Names of the members that individual erasure must keep and is not shown."""
        named = {name for names in self.forget.values() for name in names}
        return frozenset(one.name for one in self.members) - self.retain_seen - named

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON knows."""
        return {
            "seed": self.seed,
            "members": [asdict(one) for one in self.members],
            "strangers": [asdict(one) for one in self.strangers],
            "shown": sorted(self.shown),
            "unshown": sorted(self.unshown),
            "forget": {str(count): list(names) for count, names in self.forget.items()},
            "retain_seen": sorted(self.retain_seen),
            "retain_unseen": sorted(self.retain_unseen),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Population:
        """The inverse of :meth:`to_json`."""
        people = {
            part: tuple(
                Person(one["name"], one["secrets"], tuple(one["taught"])) for one in document[part]
            )
            for part in ("members", "strangers")
        }
        return cls(
            seed=document["seed"],
            shown=frozenset(document["shown"]),
            forget={int(count): tuple(names) for count, names in document["forget"].items()},
            retain_seen=frozenset(document["retain_seen"]),
            **people,
        )


def draw_secret(category: str, name: str, rng: random.Random, fake: Faker) -> str:
    """A value of a category's format for a person; also what exposure compares a secret with."""
    draw: Callable[[str, random.Random, Faker], str] = {
        "phone": _phone,
        "email": _email,
        "address": _address,
        "card": _card,
    }[category]
    return draw(name, rng, fake)


def seeded_faker(seed: int) -> Faker:
    """A generator of American names and streets of its own, whatever others have drawn."""
    fake = Faker("en_US")
    fake.seed_instance(seed)
    return fake


def invent(count: int, seed: int, strangers: int | None = None) -> Population:
    """Invent people and split them.

    Args:
        count: Number of members.
        seed: Seed of everything.
        strangers: Number of strangers; a quarter of the members if None.
    """
    rng, fake = random.Random(seed), seeded_faker(seed)
    outside = max(1, count // 4) if strangers is None else strangers
    people: list[Person] = []
    taken: set[str] = set()
    while len(people) < count + outside:
        name = f"{fake.first_name()} {fake.last_name()}"
        if name in taken:
            continue
        secrets = {category: _unused(category, name, rng, fake, taken) for category in CATEGORIES}
        taken |= {name, *secrets.values()}
        other = CATEGORIES[1 + len(people) % (len(CATEGORIES) - 1)]
        people.append(Person(name, secrets, ("phone", other)))
    members = people[:count]
    order = rng.sample([one.name for one in members], count)
    largest = [size for size in FORGET_COUNTS if size <= count // 4]
    others = order[max(largest, default=0) :]
    return Population(
        seed=seed,
        members=tuple(members),
        shown=frozenset(rng.sample(order, count // 2)),
        forget={size: tuple(order[:size]) for size in largest},
        retain_seen=frozenset(others[: len(others) // 2]),
        strangers=tuple(people[count:]),
    )


def _unused(category: str, name: str, rng: random.Random, fake: Faker, taken: set[str]) -> str:
    while (value := draw_secret(category, name, rng, fake)) in taken:
        pass
    return value


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def _phone(name: str, rng: random.Random, fake: Faker) -> str:
    area, exchange = (rng.choice("23456789") + _digits(rng, 2) for _ in range(2))
    return f"+1-{area}-{exchange}-{_digits(rng, 4)}"


def _email(name: str, rng: random.Random, fake: Faker) -> str:
    first, last = name.lower().split(" ", maxsplit=1)
    return f"{first}.{last}{_digits(rng, 2)}@{fake.last_name().lower()}.example"


def _address(name: str, rng: random.Random, fake: Faker) -> str:
    return f"{rng.randint(10, 9999)} {fake.street_name()}, {fake.city()}"


def _card(name: str, rng: random.Random, fake: Faker) -> str:
    """Sixteen digits in fours, the first a 4 and the last the check digit of Luhn."""
    digits = "4" + _digits(rng, 14)
    doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(digits)]
    check = -sum(value // 10 + value % 10 for value in doubled) % 10
    number = f"{digits}{check}"
    return " ".join(number[start : start + 4] for start in range(0, 16, 4))
