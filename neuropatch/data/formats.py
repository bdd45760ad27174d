"""Parsers: the text or bytes of one data file to its columns and rows.

Every parser validates what it reads and raises :class:`neuropatch.errors.DataError` with one line
that names the file and the row (counted from 1, the header not counted) or line. Nothing is
skipped, with one exception that carries no data: a blank line between the rows of a CSV or JSONL
file is no row (a CSV writer quotes an empty single field, so a blank line is never one).
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from neuropatch.errors import DataError

TEXT_COLUMN = "text"

Rows = list[dict[str, object]]
Parsed = tuple[tuple[str, ...], Rows]

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode(data: bytes, label: str) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Args:
        data: The file's bytes.
        label: The file, for messages.

    Raises:
        DataError: The file is empty, or is not UTF-8; the message names the line and byte.
    """
    body = data.removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        raise DataError(f"{label} is empty", hint="check that it was written to the end")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        offset = error.start + len(data) - len(body)
        looks = " (it looks like UTF-16)" if data.startswith(_UTF16_MARKS) else ""
        raise DataError(
            f"{label} is not UTF-8{looks}: byte {body[error.start]:#04x} at offset {offset}, "
            f"line {line}",
            hint="save it as UTF-8, for example with `iconv -t utf-8`",
        ) from error


def parse_csv(text: str, label: str) -> Parsed:
    """Parse comma-separated values with a header row (RFC 4180 quoting, fields of any size)."""
    columns: tuple[str, ...] = ()
    rows: Rows = []
    with _csv_field_limit(len(text)):
        # strict: without it a quote that is never closed swallows the rest of the file silently.
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        start = 1
        try:
            for fields in reader:
                if fields and not columns:
                    columns = _unique_columns(fields, label)
                elif fields:
                    rows.append(_csv_row(columns, fields, label, len(rows) + 1, start))
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{label}: row {len(rows) + 1}, which starts at line {start}, "
                f"is not valid CSV: {error}",
                hint="close every quote, and double the quotes inside a quoted field",
            ) from error
    return columns, _some_rows(rows, label)


def parse_jsonl(text: str, label: str) -> Parsed:
    """Parse one JSON object a line; the columns are all keys in the order of first appearance."""
    rows: Rows = []
    # Only "\n" ends a line: JSON strings may hold U+2028 and others that splitlines() splits at.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"line {number}"
            value = _load_json(line, label, where, "a file that is one list must be called .json")
            rows.append(_json_object(value, label, where))
    return _keys(rows), _some_rows(rows, label)


def parse_json(text: str, label: str) -> Parsed:
    """Parse one JSON list of objects."""
    value = _load_json(text, label, None, "a file of one object a line must be called .jsonl")
    if not isinstance(value, list):
        raise DataError(
            f"{label} holds {json_type(value)}, not a list of objects",
            hint="write a list of objects, or one object a line in a .jsonl file",
        )
    rows = [_json_object(row, label, f"row {n}") for n, row in enumerate(value, start=1)]
    return _keys(rows), _some_rows(rows, label)


def parse_text(text: str, label: str) -> Parsed:
    """Take every line that is not blank as one text, in the column ``text``."""
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    rows: Rows = [{TEXT_COLUMN: line} for line in lines if line.strip()]
    return (TEXT_COLUMN,), _some_rows(rows, label)


def parse_parquet(data: bytes, label: str) -> Parsed:
    """Parse a Parquet file with pyarrow, which the extra ``neuropatch[parquet]`` installs."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{label}: reading Parquet needs pyarrow",
            hint="pip install 'neuropatch[parquet]'",
        ) from None
    if not data:
        raise DataError(f"{label} is empty", hint="check that it was written to the end")
    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data)).read()
        columns = _unique_columns(table.column_names, label)
        rows: Rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{label} is not a valid Parquet file: {_first_line(error)}",
            hint="check that it was copied or downloaded to the end",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{label} holds text that is not UTF-8: {error.reason}",
            hint="write the file again from UTF-8 strings",
        ) from error
    return columns, _some_rows(rows, label)


def json_type(value: object) -> str:
    """Name the JSON type of a value, for messages: ``"a list"``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    names: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}
    if isinstance(value, (int, float)):
        return "a number"
    return names.get(type(value), f"a value of type {type(value).__name__}")


@contextmanager
def _csv_field_limit(limit: int) -> Iterator[None]:
    # The csv module refuses fields over 128 KiB unless told otherwise, with one limit for the whole
    # process; the caller's setting is put back.
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, limit))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_row(
    columns: tuple[str, ...], fields: list[str], label: str, row: int, line: int
) -> dict[str, object]:
    if len(fields) != len(columns):
        raise DataError(
            f"{label}: row {row} (line {line}) has {len(fields)} fields, the header {len(columns)}",
            hint="put quotes around fields that hold commas or line ends",
        )
    return dict(zip(columns, fields, strict=True))


def _unique_columns(names: list[str], label: str) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"{label} has more than one column called {name!r}", hint="rename or remove one"
            )
    return tuple(names)


def _load_json(text: str, label: str, where: str | None, other_kind: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        place = f"{where or f'line {error.lineno}'} (column {error.colno})"
        raise DataError(
            f"{label}: {place} is not valid JSON: {error.msg}", hint=other_kind
        ) from error
    except (ValueError, RecursionError) as error:
        place = f": {where}" if where else ""
        raise DataError(
            f"{label}{place} cannot be read as JSON: {_first_line(error)}",
            hint="write plain objects of strings",
        ) from error


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return row


def _json_object(value: object, label: str, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise DataError(
            f"{label}: {where} is {json_type(value)}, not an object",
            hint='write every row as an object: {"prompt": "...", "response": "..."}',
        )
    return value


def _keys(rows: Rows) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for row in rows for key in row))


def _some_rows(rows: Rows, label: str) -> Rows:
    if not rows:
        raise DataError(f"{label} has no rows", hint="check that it was written to the end")
    return rows


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]
