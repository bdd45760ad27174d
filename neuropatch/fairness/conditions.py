"""Conditions on a row, as users and schemas write them: ``sex=Female``, ``age>25``.

``COLUMN=VALUE`` and ``COLUMN!=VALUE`` compare categories; ``VALUE`` may be several, with commas
between them, unless the whole is itself a value of the column. ``<``, ``<=``, ``>`` and ``>=``
compare numbers. The first operator counts, so that ``income=>50K`` asks for the value ``>50K``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuropatch.errors import DataError, UsageError
from neuropatch.fairness.frame import Frame, Mask, as_number, code, listed

_PATTERN = re.compile(r"(?P<column>[^=<>!]+)(?P<operator>!=|<=|>=|=|<|>)(?P<value>.+)", re.DOTALL)

_ORDER: dict[str, Callable[[NDArray[np.float64], float], Mask]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


@dataclass(frozen=True)
class Condition:
    """One comparison of a column with a value."""

    column: str
    operator: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}{self.operator}{self.value}"

    @property
    def is_order(self) -> bool:
        """Whether it compares numbers."""
        return self.operator in _ORDER

    def opposite(self) -> str:
        """The condition that holds where this one does not, in words."""
        return f"{self.column}{_OPPOSITE[self.operator]}{self.value}"

    def holds(self, frame: Frame, *, strict: bool = False) -> Mask:
        """Where the condition is true, ``[n]``.

        Args:
            frame: The rows.
            strict: Whether a value that no row has is a mistake.

        Raises:
            DataError: If the column is missing, a cell that is compared as a number is none, or
                (strict) no row has one of the values.
        """
        if self.is_order:
            return _ORDER[self.operator](frame.numbers(self.column), float(self.value))
        cells = frame.cells(self.column)
        present = set(cells)
        values = self._values(present, frame)
        missing = [value for value in values if value not in present]
        if strict and missing:
            raise DataError(
                f"{frame.sources[0]}: no row has {self.column}={missing[0]}",
                hint=f"its values are {listed(sorted(present))}",
            )
        found = np.isin(cells, values)
        return ~found if self.operator == "!=" else found

    def _values(self, present: set[str], frame: Frame) -> list[str]:
        if self.value in present:
            return [self.value]
        names = frame.names.get(frame.find(self.column) or "", {})
        written = [code(value.strip()) for value in self.value.split(",")]
        return [names.get(value, value) for value in written]


def parse_condition(text: str, flag: str) -> Condition:
    """Read a condition.

    Args:
        text: What was written.
        flag: The option it was written for, for messages.

    Raises:
        UsageError: If it is no condition.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{flag} '{text}' is no condition",
            hint=f"write a column, an operator and a value, such as {flag} sex=Female or "
            f"{flag} 'age>25'",
        )
    condition = Condition(match["column"].strip(), match["operator"], match["value"].strip())
    if condition.is_order and as_number(condition.value) is None:
        raise UsageError(
            f"{flag} '{text}': {condition.value!r} is not a number",
            hint="compare names with = or !=",
        )
    return condition
