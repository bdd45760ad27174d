"""Preferred and dispreferred responses to the same prompt, joined from two tables."""

from __future__ import annotations

from dataclasses import dataclass

from neuropatch.data.columns import ColumnOptions, Example, choose_columns, examples
from neuropatch.data.tables import Table
from neuropatch.errors import DataError


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt; each example keeps the row of its own file."""

    preferred: Example
    dispreferred: Example


@dataclass(frozen=True)
class JoinedPairs:
    """The pairs of two tables, and what found no partner.

    Attributes:
        pairs: In the order of the preferred table.
        matched_prompts: Number of different prompts that both tables have.
        preferred_only: Number of different prompts that only the preferred table has.
        dispreferred_only: Number of different prompts that only the dispreferred table has.
        surplus: Number of responses to matched prompts that found no partner, in both tables.
        notes: Sentences for the user: guessed columns, and the numbers above.
    """

    pairs: tuple[Pair, ...]
    matched_prompts: int
    preferred_only: int
    dispreferred_only: int
    surplus: int
    notes: tuple[str, ...]


def join_pairs(
    preferred: Table, dispreferred: Table, *, columns: ColumnOptions | None = None
) -> JoinedPairs:
    """Join two tables of prompts and responses on the exact text of the prompt.

    Where a prompt has several responses, the first of one table meets the first of the other, the
    second the second, and so on.

    Args:
        preferred: Table of the responses that should be preferred.
        dispreferred: Table of the responses that should not.
        columns: The flags that choose columns, for both tables; None guesses.

    Raises:
        DataError: A table cannot be read as prompts and responses, or no prompt is in both.
    """
    left, left_notes = _by_prompt(preferred, columns or ColumnOptions())
    right, right_notes = _by_prompt(dispreferred, columns or ColumnOptions())
    matched = left.keys() & right.keys()
    if not matched:
        raise DataError(
            f"{preferred.source} and {dispreferred.source} have no prompt in common "
            f"({len(left)} and {len(right)} different prompts)",
            hint="pairs are joined on the exact text of the prompt; check both prompt columns",
        )
    pairs = [
        Pair(*both)
        for prompt in left
        if prompt in matched
        for both in zip(left[prompt], right[prompt], strict=False)
    ]
    pairs.sort(key=lambda pair: pair.preferred.row)
    responses = sum(len(left[prompt]) + len(right[prompt]) for prompt in matched)
    surplus = responses - 2 * len(pairs)
    note = (
        f"{preferred.source} and {dispreferred.source}: {len(pairs)} pairs from {len(matched)} "
        f"prompts in both; {len(left) - len(matched)} and {len(right) - len(matched)} prompts are "
        f"in one only, {surplus} responses found no partner"
    )
    return JoinedPairs(
        pairs=tuple(pairs),
        matched_prompts=len(matched),
        preferred_only=len(left) - len(matched),
        dispreferred_only=len(right) - len(matched),
        surplus=surplus,
        notes=(*left_notes, *right_notes, note),
    )


def _by_prompt(
    table: Table, columns: ColumnOptions
) -> tuple[dict[str, list[Example]], tuple[str, ...]]:
    chosen, notes = choose_columns(table, columns)
    if chosen.is_text:
        raise DataError(
            f"{table.source} holds plain texts where prompts and responses are needed",
            hint="choose their columns with --prompt-column and --response-column",
        )
    found: dict[str, list[Example]] = {}
    for example in examples(table, chosen):
        found.setdefault(example.prompt, []).append(example)
    return found, notes
