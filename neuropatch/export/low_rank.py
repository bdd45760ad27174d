"""A change of few rows or few columns of a matrix as a product of two small matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """What is added to some weights of a matrix ``W``, seen as ``[out, in]``.

    Attributes:
        shape: ``(out, in)``.
        rows: Output index of each weight, int64 ``[n]``.
        columns: Input index of each weight, int64 ``[n]``; pairs are unique.
        delta: What is added, float32 ``[n]``.
    """

    shape: tuple[int, int]
    rows: Index
    columns: Index
    delta: Matrix

    @property
    def rank(self) -> int:
        """How many rows, or columns if they are fewer, have a weight that changes."""
        return min(len(np.unique(self.rows)), len(np.unique(self.columns)))

    @property
    def is_small(self) -> bool:
        """Whether the two factors hold fewer numbers than the matrix."""
        out, into = self.shape
        return self.rank * (out + into) < out * into

    def factors(self) -> tuple[Matrix, Matrix]:
        """``B [out, rank]`` and ``A [rank, in]`` whose product is the change, exactly.

        One of them holds the changed rows (or columns), and the other says which these are: it has
        a single 1 for each, so that the product rounds nothing.
        """
        out, into = self.shape
        by_rows = len(np.unique(self.rows)) <= len(np.unique(self.columns))
        chosen, where = np.unique(self.rows if by_rows else self.columns, return_inverse=True)
        rank = len(chosen)
        b, a = np.zeros((out, rank), np.float32), np.zeros((rank, into), np.float32)
        if by_rows:
            b[chosen, np.arange(rank)] = 1
            a[where, self.columns] = self.delta
        else:
            a[np.arange(rank), chosen] = 1
            b[self.rows, where] = self.delta
        return b, a
