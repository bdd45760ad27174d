"""Drift: how far a model's weights are from the values a patch was made for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neuropatch.models.coordinates import ROLES
from neuropatch.storage.dtypes import Array, bits, cast


@dataclass
class RoleDrift:
    """Drift of one role's edited weights.

    Attributes:
        weights: Number of edited weights.
        equal: How many hold exactly the expected value (in the model's own number format).
        difference: Sum of squared differences to the expected values.
        norm: Sum of squared expected values.
    """

    weights: int = 0
    equal: int = 0
    difference: float = 0.0
    norm: float = 0.0

    @property
    def relative(self) -> float:
        """Relative change ``||current - expected|| / ||expected||``; infinite from zero."""
        if self.difference == 0:
            return 0.0
        return float(np.sqrt(self.difference / self.norm)) if self.norm else float("inf")


@dataclass
class Drift:
    """Drift per role, collected matrix by matrix."""

    roles: dict[str, RoleDrift] = field(default_factory=dict)

    def add(self, role: str, expected: Array, current: Array) -> None:
        """Count one matrix's edited weights.

        Args:
            role: The matrix's role.
            expected: Values the patch was made for, as the model's dtype holds them.
            current: Values the model holds, in its own dtype.
        """
        there = cast(expected, current.dtype)
        entry = self.roles.setdefault(role, RoleDrift())
        entry.weights += len(current)
        entry.equal += int((bits(there) == bits(current)).sum())
        wide = there.astype(np.float64)
        # A damaged model may hold infinities; their drift is infinite or NaN, without a warning.
        with np.errstate(over="ignore", invalid="ignore"):
            entry.difference += float(((current.astype(np.float64) - wide) ** 2).sum())
            entry.norm += float((wide**2).sum())

    @property
    def weights(self) -> int:
        """Number of edited weights."""
        return sum(entry.weights for entry in self.roles.values())

    @property
    def unequal(self) -> int:
        """Number of edited weights that do not hold the expected value."""
        return sum(entry.weights - entry.equal for entry in self.roles.values())

    def __iter__(self) -> Iterator[tuple[str, RoleDrift]]:
        """Roles in canonical order with their drift."""
        return iter(sorted(self.roles.items(), key=lambda item: ROLES.index(item[0])))

    def sentences(self) -> list[str]:
        """One sentence a role that drifted."""
        return [
            f"{role}: {entry.equal} of {entry.weights} weights equal the patch's base, "
            f"relative change {entry.relative:.2g}"
            for role, entry in self
            if entry.equal != entry.weights
        ]

    def to_json(self) -> dict[str, Any]:
        """The drift as a JSON document; a relative change that is no finite number is null."""
        return {
            role: {
                "weights": entry.weights,
                "equal": entry.equal,
                "relative_change": entry.relative if math.isfinite(entry.relative) else None,
            }
            for role, entry in self
        }
