"""How much is lost where a quantised checkpoint cannot hold an edited weight exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuropatch.storage.dtypes import Array


@dataclass(frozen=True)
class Rounding:
    """The error of writing weights into formats with scales.

    Attributes:
        weights: Number of weights written in such formats.
        rounded: How many of them could not be held exactly.
        largest: The largest error of one weight.
        difference: Sum of squared errors.
        norm: Sum of squared weights that were wanted.
    """

    weights: int = 0
    rounded: int = 0
    largest: float = 0.0
    difference: float = 0.0
    norm: float = 0.0

    @classmethod
    def of(cls, wanted: Array, held: Array) -> Rounding:
        """The error of holding some weights ``[n]`` instead of the wanted ones ``[n]``."""
        exact = wanted.astype(np.float64)
        errors = np.abs(held.astype(np.float64) - exact)
        return cls(
            weights=len(wanted),
            rounded=int((errors > 0).sum()),
            largest=float(errors.max(initial=0.0)),
            difference=float((errors**2).sum()),
            norm=float((exact**2).sum()),
        )

    @classmethod
    def total(cls, parts: Iterable[Rounding]) -> Rounding:
        """The error of several matrices together."""
        found = list(parts)
        return cls(
            weights=sum(part.weights for part in found),
            rounded=sum(part.rounded for part in found),
            largest=max((part.largest for part in found), default=0.0),
            difference=sum(part.difference for part in found),
            norm=sum(part.norm for part in found),
        )

    @property
    def relative(self) -> float:
        """Relative error ``||held - wanted|| / ||wanted||``; 0 where nothing was rounded."""
        return float(np.sqrt(self.difference / self.norm)) if self.norm else 0.0

    def sentence(self) -> str:
        """The error in words."""
        return (
            f"{self.rounded:,} of {self.weights:,} weights in quantised tensors were rounded to "
            f"what these can hold: relative error {self.relative:.2g}, {self.largest:.2g} at most"
        )

    def to_json(self) -> dict[str, Any]:
        """The error as a JSON document."""
        return {
            "weights": self.weights,
            "rounded": self.rounded,
            "relative_error": self.relative,
            "largest_error": self.largest,
        }
