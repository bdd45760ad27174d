"""Records with personal data, as a file gives them: marked texts, or prompts with a secret.

A row is one of

* ``{"text": ..., "spans": [{"start": ..., "end": ..., "category": ...}]}``, offsets in characters
  (Unicode code points), the end exclusive;
* ``{"prompt": ..., "target": ..., "category": ...}``, the target being the personal data that
  follows the prompt; the category may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from neuropatch.data.formats import json_type
from neuropatch.data.tables import Table
from neuropatch.errors import DataError

DEFAULT_CATEGORY = "pii"
"""Category of a span whose row names none."""

_EXAMPLES = (
    'write {"text": "...", "spans": [{"start": 0, "end": 3, "category": "name"}]} '
    'or {"prompt": "...", "target": "...", "category": "phone"}'
)


@dataclass(frozen=True, order=True)
class Span:
    """Personal data in a text.

    Attributes:
        start: Its first character.
        end: The character behind its last.
        category: What it is, such as ``phone``.
    """

    start: int
    end: int
    category: str


@dataclass(frozen=True)
class Record:
    """One text with its personal data.

    Attributes:
        row: Row number in the file, from 0.
        text: The whole text.
        spans: Its personal data, in order and without overlap.
    """

    row: int
    text: str
    spans: tuple[Span, ...]


def is_marked(table: Table) -> bool:
    """Whether the columns of a table are those of rows that mark their personal data."""
    columns = set(table.columns)
    return {"text", "spans"} <= columns or {"prompt", "target"} <= columns


def marked_records(table: Table) -> tuple[list[Record], tuple[str, ...]]:
    """Read rows that say themselves where their personal data is.

    Args:
        table: Rows of one of the two forms above; all rows of a table have the same form.

    Returns:
        The records, one for each row, and sentences for the user.

    Raises:
        DataError: The columns fit neither form, or a row breaks it; the message names the row.
    """
    columns = set(table.columns)
    if {"text", "spans"} <= columns:
        return [_from_spans(table, row, fields) for row, fields in enumerate(table.rows)], ()
    if {"prompt", "target"} <= columns:
        records = [_from_target(table, row, fields) for row, fields in enumerate(table.rows)]
        joined = sum(
            len(record.text) > len(str(fields["prompt"])) + len(str(fields["target"]))
            for record, fields in zip(records, table.rows, strict=True)
        )
        if not joined:
            return records, ()
        return records, (
            f"{table.source}: a space was put between prompt and target in {joined} of "
            f"{len(records)} rows",
        )
    raise DataError(
        f"{table.source} does not say where its personal data is; its columns are "
        f"{', '.join(map(repr, table.columns))}",
        hint=f"{_EXAMPLES}, or let it be found with --pii auto",
    )


def sorted_spans(spans: list[Span]) -> tuple[Span, ...]:
    """Spans in the order of the text.

    Raises:
        ValueError: Two of them overlap.
    """
    ordered = sorted(spans)
    for before, after in pairwise(ordered):
        if after.start < before.end:
            raise ValueError(
                f"its spans {before.start} to {before.end} and {after.start} to {after.end} overlap"
            )
    return tuple(ordered)


def _from_spans(table: Table, row: int, fields: Mapping[str, object]) -> Record:
    text = _string(table, row, fields, "text")
    spans = fields.get("spans")
    if not isinstance(spans, list):
        raise _bad(table, row, f"'spans' is {json_type(spans)}, not a list")
    read = [_span(table, row, number, span, text) for number, span in enumerate(spans, start=1)]
    try:
        return Record(row, text, sorted_spans(read))
    except ValueError as error:
        raise _bad(table, row, str(error)) from error


def _span(table: Table, row: int, number: int, span: object, text: str) -> Span:
    where = f"span {number}"
    if not isinstance(span, dict):
        raise _bad(table, row, f"{where} is {json_type(span)}, not an object")
    start, end = span.get("start"), span.get("end")
    category = span.get("category", DEFAULT_CATEGORY)
    if not (isinstance(category, str) and category.strip()):
        raise _bad(table, row, f"{where} has no category that is a text")
    # A truth value is an int to Python.
    if any(not isinstance(x, int) or isinstance(x, bool) for x in (start, end)):
        raise _bad(table, row, f"{where} has no whole numbers 'start' and 'end'")
    assert isinstance(start, int)
    assert isinstance(end, int)
    if not 0 <= start < end <= len(text):
        raise _bad(
            table,
            row,
            f"{where} runs from {start} to {end}, and the text has {len(text)} characters",
        )
    return Span(start, end, category.strip())


def _from_target(table: Table, row: int, fields: Mapping[str, object]) -> Record:
    prompt = _string(table, row, fields, "prompt")
    target = _string(table, row, fields, "target")
    secret = target.strip()
    if not secret:
        raise _bad(table, row, "'target' is blank")
    category = fields.get("category")
    if category is None:
        category = DEFAULT_CATEGORY
    if not (isinstance(category, str) and category.strip()):
        raise _bad(table, row, "'category' is not a text")
    apart = not prompt or prompt[-1].isspace() or target[0].isspace()
    text = prompt + ("" if apart else " ") + target
    start = text.rindex(secret)
    return Record(row, text, (Span(start, start + len(secret), category.strip()),))


def _string(table: Table, row: int, fields: Mapping[str, object], column: str) -> str:
    value = fields.get(column)
    if not isinstance(value, str):
        problem = "is missing" if column not in fields else f"is {json_type(value)}, not a string"
        raise _bad(table, row, f"'{column}' {problem}")
    return value


def _bad(table: Table, row: int, problem: str) -> DataError:
    return DataError(f"{table.source}: row {row + 1}: {problem}", hint=_EXAMPLES)
