"""Texts without their personal data: every span replaced by a stand-in.

What steering toward the *desensitised text* needs (APNEAP: Wu et al., Findings of ACL 2024), and a
control for any measurement that asks whether it is the value or its form that a model knows.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from neuropatch.data.pii.records import Record, Span
from neuropatch.errors import UsageError

STAND_INS = ("value", "placeholder")
"""Another value of the same form (``+1-555-0100`` becomes ``+8-301-7742``), or ``[category]``."""

_BLOCK = 64
"""Size of the ranges of code points within which a character finds others of its kind."""


def desensitised(
    records: Sequence[Record], *, stand_in: str = "value", seed: int = 0
) -> list[Record]:
    """Records with the personal data replaced, and the spans moved accordingly.

    A value that occurs several times in one record is replaced by the same stand-in each time.

    Args:
        records: The records.
        stand_in: One of :data:`STAND_INS`.
        seed: Seed of the values; equal seeds give equal texts.

    Raises:
        UsageError: If the kind of stand-in is unknown.
    """
    if stand_in not in STAND_INS:
        raise UsageError(f"unknown stand-in '{stand_in}'", hint=f"choose {' or '.join(STAND_INS)}")
    rng = np.random.default_rng(seed)
    return [_replaced(record, stand_in, rng) for record in records]


def value_of_same_form(value: str, rng: np.random.Generator) -> str:
    """Another value of the same form: digits become digits, letters letters of the same case.

    A character becomes a random one of its Unicode category and neighbourhood, so letters of other
    scripts stay in their script; what is neither letter nor digit stays as it is. The value differs
    from the original wherever it has a letter or digit at all.

    Args:
        value: The value.
        rng: Where the random choices come from.
    """
    choices = [_alike(character) for character in value]
    if all(len(characters) == 1 for characters in choices):
        return value
    while True:
        found = "".join(characters[rng.integers(len(characters))] for characters in choices)
        if found != value:
            return found


def _alike(character: str) -> str:
    """The characters that may stand for one: itself alone, unless it is a letter or a digit."""
    category = unicodedata.category(character)
    if category[0] != "L" and category != "Nd":
        return character
    start = ord(character) // _BLOCK * _BLOCK
    near = (chr(point) for point in range(start, start + _BLOCK))
    return "".join(one for one in near if unicodedata.category(one) == category)


def _replaced(record: Record, stand_in: str, rng: np.random.Generator) -> Record:
    parts: list[str] = []
    spans: list[Span] = []
    known: dict[str, str] = {}
    length = read = 0
    for span in record.spans:
        value = record.text[span.start : span.end]
        if stand_in == "placeholder":
            known[value] = f"[{span.category}]"
        elif value not in known:
            known[value] = value_of_same_form(value, rng)
        new = known[value]
        before = record.text[read : span.start]
        start = length + len(before)
        spans.append(Span(start, start + len(new), span.category))
        parts += [before, new]
        length, read = start + len(new), span.end
    return Record(record.row, "".join([*parts, record.text[read:]]), tuple(spans))
