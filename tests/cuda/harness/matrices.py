"""Matrices as the launchers of csrc/cuda take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


def type_code(dtype: np.dtype) -> int:
    """The number of ``ElementType`` in csrc/cuda/launchers.h."""
    return list(DTYPES.values()).index(dtype)


def with_pitch(matrix: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Data, columns and pitch: rows at multiples of 16 bytes, with NaN between them."""
    tokens, columns = matrix.shape
    vector = 16 // matrix.itemsize
    pitch = -(-columns // vector) * vector
    data = np.full((tokens, pitch), np.nan, matrix.dtype)
    data[:, :columns] = matrix
    return data, columns, pitch


def strided(matrix: np.ndarray | None) -> tuple[np.ndarray | None, int, int]:
    """Memory from the first element to the last, row and column stride in elements."""
    if matrix is None:
        return None, 0, 0
    row, column = (stride // matrix.itemsize for stride in matrix.strides)
    span = 1 + (matrix.shape[0] - 1) * row + (matrix.shape[1] - 1) * column
    return as_strided(matrix, (span,), (matrix.itemsize,)), row, column


class SnipBatch(NamedTuple):
    """Arguments of the operators behind SNIP scores: ragged samples of tokens."""

    grad: np.ndarray
    input: np.ndarray
    offsets: np.ndarray

    @classmethod
    def draw(
        cls, out: int, inp: int, lengths: Sequence[int], dtype: str = "float32", seed: int = 0
    ) -> SnipBatch:
        """Standard normal values, rounded."""
        rng = np.random.default_rng(seed)
        offsets = np.cumsum([0, *lengths])
        grad = rng.standard_normal((offsets[-1], out)).astype(DTYPES[dtype])
        x = rng.standard_normal((offsets[-1], inp)).astype(DTYPES[dtype])
        return cls(grad, x, offsets)

    def arguments(self) -> tuple[object, ...]:
        """What launchers take after the score."""
        code = type_code(self.grad.dtype)
        samples = len(self.offsets) - 1
        return (*with_pitch(self.grad), *with_pitch(self.input), code, self.offsets, samples)

    def exact(self) -> np.ndarray:
        """``sum_b |G_b^T X_b|`` in float64."""
        grad, x = self.grad.astype(np.float64), self.input.astype(np.float64)
        total = np.zeros((grad.shape[1], x.shape[1]))
        for start, stop in zip(self.offsets, self.offsets[1:], strict=False):
            total += np.abs(grad[start:stop].T @ x[start:stop])
        return total
