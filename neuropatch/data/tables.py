"""Tables: rows of named fields, read from CSV, JSONL, JSON, Parquet or plain text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neuropatch.data.formats import (
    Parsed,
    decode,
    parse_csv,
    parse_json,
    parse_jsonl,
    parse_parquet,
    parse_text,
)
from neuropatch.data.sources import Source, read_source

_TEXT_PARSERS: dict[str, Callable[[str, str], Parsed]] = {
    ".csv": parse_csv,
    ".jsonl": parse_jsonl,
    ".json": parse_json,
    ".txt": parse_text,
}


@dataclass(frozen=True)
class Table:
    """The rows of one data file.

    Attributes:
        source: Display name: the file name, or ``hf://datasets/user/name@commit/path``.
        columns: All field names. A row of a JSON file may lack some of them.
        rows: The rows in file order; row 0 is the first after a CSV header.
        sha256: Hexadecimal SHA-256 digest of the file's bytes.
        revision: The commit of a file on the Hub, None for a local file.
    """

    source: str
    columns: tuple[str, ...]
    rows: list[dict[str, object]]
    sha256: str
    revision: str | None = None


def read_table(spec: str) -> Table:
    """Read a data file.

    Args:
        spec: A path or a Hub data set, as :func:`neuropatch.data.sources.read_source` takes them.
            A ``.txt`` file gives one row for each line that is not blank, in the column ``text``.

    Raises:
        DataError: The file cannot be found, read or parsed, or has no rows.
        HubError: The Hub request failed.
    """
    return table_of(read_source(spec))


def table_of(source: Source) -> Table:
    """Parse the bytes of a data file; errors as :func:`read_table`."""
    if source.suffix == ".parquet":
        columns, rows = parse_parquet(source.data, source.label)
    else:
        text = decode(source.data, source.label)
        columns, rows = _TEXT_PARSERS[source.suffix](text, source.label)
    return Table(source.name, columns, rows, source.sha256, source.revision)
