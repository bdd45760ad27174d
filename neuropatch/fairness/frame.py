"""A labelled table as columns of plain strings, each cell with its place in a file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from neuropatch.data.tables import Table
from neuropatch.errors import DataError

Cells = NDArray[np.object_]
"""``[n]`` strings. An object array: a fixed width would cost the longest text for every row."""

Mask = NDArray[np.bool_]

_MOST_NAMED = 12
# Codes of a column that was once read with gaps are written 1.0, 2.0.
_CODE = re.compile(r"(-?\d+)\.0+")


@dataclass(frozen=True, eq=False)
class Frame:
    """Rows of one or more files with the same columns.

    Attributes:
        columns: Cells by column name, trimmed of blanks at both ends; an absent field, a null and
            whatever a schema says is missing are the empty string.
        file: ``[n]``, index into ``sources``.
        row: ``[n]``, row number in the file from 0.
        sources: Display names of the files.
        names: Readable names of coded values by column: ``{"SEX": {"1": "male"}}``. The cells
            hold the readable names; conditions may use either.
    """

    columns: dict[str, Cells]
    file: NDArray[np.int64]
    row: NDArray[np.int64]
    sources: tuple[str, ...]
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, tables: Sequence[Table]) -> Frame:
        """Join tables, whose columns must have the same names.

        Raises:
            DataError: If one of them lacks a column of another.
        """
        names = tables[0].columns
        for table in tables[1:]:
            if set(table.columns) != set(names):
                odd = sorted(set(table.columns) ^ set(names))
                raise DataError(
                    f"{tables[0].source} and {table.source} differ in the column {odd[0]!r}",
                    hint="give both files the same columns",
                )
        rows = [row for table in tables for row in table.rows]
        return cls(
            columns={
                name: np.array([_text(row.get(name)) for row in rows], dtype=object)
                for name in names
            },
            file=np.repeat(np.arange(len(tables)), [len(table.rows) for table in tables]),
            row=np.concatenate([np.arange(len(table.rows)) for table in tables]),
            sources=tuple(table.source for table in tables),
        )

    def __len__(self) -> int:
        return len(self.row)

    def select(self, mask: Mask) -> Frame:
        """The rows where ``mask`` (``[n]``) is true."""
        return replace(
            self,
            columns={name: cells[mask] for name, cells in self.columns.items()},
            file=self.file[mask],
            row=self.row[mask],
        )

    def place(self, position: int) -> str:
        """File and row of a position, for messages."""
        return f"{self.sources[self.file[position]]}: row {self.row[position] + 1}"

    def find(self, column: str) -> str | None:
        """The column of that name, or else the one that differs in case and ``-_.`` only."""
        if column in self.columns:
            return column
        return next((name for name in self.columns if normal(name) == normal(column)), None)

    def cells(self, column: str) -> Cells:
        """The cells of a column, whose name is found as :meth:`find` does.

        Raises:
            DataError: If there is no such column.
        """
        found = self.find(column)
        if found is None:
            raise DataError(
                f"{self.sources[0]} has no column {column!r}",
                hint=f"its columns are {listed(tuple(self.columns))}",
            )
        return self.columns[found]

    def numbers(self, column: str) -> NDArray[np.float64]:
        """The cells of a column as numbers; NaN where the cell is missing.

        Raises:
            DataError: If a cell is no finite number; the message names file, row and column.
        """
        values = np.empty(len(self))
        for position, cell in enumerate(self.cells(column)):
            number = as_number(cell) if cell else math.nan
            if number is None:
                raise DataError(
                    f"{self.place(position)}: {column!r} is {shortened(cell)}, not a number",
                    hint="correct the cell, or remove the row",
                )
            values[position] = number
        return values


def as_number(cell: str) -> float | None:
    """The finite number that a cell holds, or None."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def code(cell: str) -> str:
    """A category, with the whole number that ``2.0`` stands for written ``2``."""
    match = _CODE.fullmatch(cell)
    return match[1] if match else cell


def normal(name: str) -> str:
    """A column's name without what the styles of the same data set differ in."""
    return name.strip().casefold().replace("_", "-").replace(".", "-")


def listed(values: Sequence[str]) -> str:
    """Names for a message, the first of them if there are many."""
    named = ", ".join(repr(value) for value in values[:_MOST_NAMED])
    others = len(values) - _MOST_NAMED
    return named + (f" and {others} more" if others > 0 else "")


def shortened(cell: str, length: int = 40) -> str:
    """A cell for a message: quoted, a long text cut."""
    return repr(cell if len(cell) <= length else f"{cell[:length]}...")


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.17g}"
    return str(value).strip()
