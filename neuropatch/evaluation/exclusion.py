"""Rows that a patch was localised on, which say nothing about other rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from neuropatch.data.columns import Columns, Example, examples
from neuropatch.data.tables import Table
from neuropatch.errors import PatchFormatError


@dataclass(frozen=True)
class UsedRows:
    """Which rows of which files were used, files being known by their content.

    Attributes:
        by_hash: For the SHA-256 digest of a file: the rows from 0, or None for all of them.
    """

    by_hash: Mapping[str, frozenset[int] | None]

    @classmethod
    def of(cls, datasets: Iterable[Mapping[str, Any]]) -> UsedRows:
        """Read the data set records of patches (:meth:`neuropatch.data.corpus.Corpus.record`).

        Raises:
            PatchFormatError: If a record does not say which rows it means.
        """
        found: dict[str, frozenset[int] | None] = {}
        for record in datasets:
            digest, used = record.get("sha256"), record.get("used")
            if not isinstance(digest, str):
                continue
            if used == "all":
                found[digest] = None
            elif isinstance(used, list) and all(type(row) is int for row in used):
                before = found.get(digest, frozenset())
                found[digest] = None if before is None else before | frozenset(used)
            else:
                raise PatchFormatError(
                    f"the patch does not say which rows of '{record.get('name')}' it used",
                    hint="the patch was not written by neuropatch, or is damaged",
                )
        return cls(found)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self.by_hash

    def examples(self, table: Table, columns: Columns) -> list[Example]:
        """The rows of a table that were used."""
        if table.sha256 not in self.by_hash:
            return []
        rows = self.by_hash[table.sha256]
        every = examples(table, columns)
        return every if rows is None else [example for example in every if example.row in rows]
