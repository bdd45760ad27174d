"""Exact, deterministic top-k over scores that arrive matrix by matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuropatch.errors import ModelError, UsageError
from neuropatch.kernels import product_topk
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout
from neuropatch.world import World

SCOPES = ("matrix", "layer", "model")
"""Within what the top weights are taken."""

IndexSets = dict[MatrixId, NDArray[np.int64]]
"""Sorted flat indices ``row * in + column`` of each matrix; matrices without any are absent."""


def parse_amount(option: str, value: float) -> float:
    """Check an amount: a fraction below 1, or a whole number of weights from 1 up.

    Raises:
        UsageError: If it is neither.
    """
    if not math.isfinite(value) or value <= 0 or (value >= 1 and value != int(value)):
        raise UsageError(
            f"{option} is {value:g}",
            hint="give a fraction between 0 and 1, or a whole number of weights",
        )
    return value


def amount_of(value: float, numel: int) -> int:
    """How many of ``numel`` weights an amount stands for: ``floor(value * numel)``, or a count."""
    return min(int(value), numel) if value >= 1 else math.floor(value * numel)


@dataclass(frozen=True)
class _Candidates:
    """The best weights so far of one group, in canonical order of coordinates."""

    scores: torch.Tensor
    matrix: torch.Tensor
    index: torch.Tensor


def _joined(a: _Candidates, b: _Candidates) -> _Candidates:
    return _Candidates(
        torch.cat([a.scores, b.scores.to(a.scores.device)]),
        torch.cat([a.matrix, b.matrix.to(a.matrix.device)]),
        torch.cat([a.index, b.index.to(a.index.device)]),
    )


class TopSelector:
    """The top weights of every group, from scores seen once.

    Ties at the boundary go to the lower coordinate, in canonical order of matrices, then rows,
    then columns. A weight whose score is 0 is never selected: nothing says that it matters.

    Args:
        layout: The model's layout.
        matrices: All matrices that will come, in the order in which they will come.
        scope: One of :data:`SCOPES`.
        amount: Fraction of each group's weights, or a count for each group; or a function that
            takes the size of a group and returns a count.

    Attributes:
        matrices: The matrices, in canonical order.
        counts: How many weights are taken of each group.
    """

    def __init__(
        self,
        layout: Layout,
        matrices: Sequence[MatrixId],
        scope: str,
        amount: float | Callable[[int], int],
    ) -> None:
        self.matrices = list(matrices)
        self._order = {matrix: i for i, matrix in enumerate(self.matrices)}
        self._widths = {matrix: layout.shape(matrix)[1] for matrix in self.matrices}
        self._scope = scope
        sizes: dict[Hashable, int] = {}
        for matrix in self.matrices:
            group = self.group(matrix)
            sizes[group] = sizes.get(group, 0) + math.prod(layout.shape(matrix))
        self.counts = {
            group: amount(size) if callable(amount) else amount_of(amount, size)
            for group, size in sizes.items()
        }
        self._best: dict[Hashable, _Candidates] = {}
        self._floors: dict[Hashable, float] = {}

    def group(self, matrix: MatrixId) -> Hashable:
        """The group within which a matrix's weights are counted."""
        if self._scope == "matrix":
            return matrix
        return (matrix.stack, matrix.layer) if self._scope == "layer" else "model"

    def threshold(self, group: Hashable) -> float:
        """The score that a weight to come must exceed: the lowest one taken, or 0."""
        best = self._pruned(group)
        k = self.counts[group]
        return 0.0 if best is None or len(best.scores) < k else float(best.scores.min())

    def _pruned(self, group: Hashable) -> _Candidates | None:
        """The best weights of a group; no more than are taken."""
        best = self._best.get(group)
        k = self.counts[group]
        if best is not None and len(best.scores) > k:
            keep = top_indices(best.scores, k)
            best = _Candidates(best.scores[keep], best.matrix[keep], best.index[keep])
            self._best[group] = best
            self._floors[group] = float(best.scores.min())
        return best

    def add(
        self,
        matrix: MatrixId,
        score: torch.Tensor,
        weight: torch.Tensor | None = None,
        divisor: float = 1,
        *,
        first_row: int = 0,
        first_column: int = 0,
    ) -> None:
        """See scores ``score * |weight| / divisor`` of a matrix, a product that is never stored.

        Args:
            matrix: The matrix.
            score: ``[rows, columns]``, float32 or float64.
            weight: ``[rows, columns]``, or None for ones.
            divisor: Positive.
            first_row: The row of the matrix where these begin; rows must come in order.
            first_column: The column of the matrix where these begin.

        Raises:
            ModelError: If a score is not finite.
        """
        group = self.group(matrix)
        k = self.counts[group]
        if weight is None:
            weight = score.new_ones(()).expand_as(score)
        # A group of which nothing is taken is looked at too: its scores must be finite.
        floor = self._floors.get(group, 0.0)
        values, index = product_topk(weight, score, divisor, max(k, 1), floor)
        _check_finite(matrix, values[:1])
        found = index >= 0
        index, order = index[found].sort()
        rows = torch.div(index, score.shape[1], rounding_mode="floor") + first_row
        columns = index % score.shape[1] + first_column
        self._keep(matrix, values[found][order], rows * self._widths[matrix] + columns)

    def add_some(self, matrix: MatrixId, score: torch.Tensor, index: torch.Tensor) -> None:
        """See the scores ``[n]`` of some weights of a matrix.

        Args:
            matrix: The matrix.
            score: ``[n]``.
            index: Flat indices ``[n]``, ascending.

        Raises:
            ModelError: If a score is not finite.
        """
        _check_finite(matrix, score)
        positive = score > 0
        self._keep(matrix, score[positive], index[positive])

    def _keep(self, matrix: MatrixId, score: torch.Tensor, index: torch.Tensor) -> None:
        group = self.group(matrix)
        k = self.counts[group]
        if k == 0 or len(score) == 0:
            return
        number = torch.full_like(index, self._order[matrix], dtype=torch.int32)
        new = _Candidates(score, number, index)
        old = self._best.get(group)
        self._best[group] = new if old is None else _joined(old, new)
        # Not every time: with many weights to take, sorting them out costs more than finding them.
        if len(self._best[group].scores) > 1.25 * k:
            self._pruned(group)

    def unite(self, world: World) -> None:
        """Where each process has seen its part of the weights, take the top of all parts.

        Ties go as if one process had seen all weights.
        """
        if not world.splits:
            return
        # Float64 holds all scores and indices exactly, and no process need know others' dtypes.
        parts = [world.pieces(column.astype(np.float64)) for column in self.state().values()]
        score, matrix, index = parts
        order = np.lexsort((index, matrix))
        self._best, self._floors = {}, {}
        self.load(
            {
                "score": score[order],
                "matrix": matrix[order].astype(np.int32),
                "index": index[order].astype(np.int64),
            }
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """What has been kept so far, for saving: ``score``, ``matrix``, ``index``."""
        best = [b for group in self._best if (b := self._pruned(group)) is not None]
        return {
            "score": np.concatenate([b.scores.cpu().numpy() for b in best] or [_NO_SCORES]),
            "matrix": np.concatenate([b.matrix.cpu().numpy() for b in best] or [_NO_ORDER]),
            "index": np.concatenate([b.index.cpu().numpy() for b in best] or [_NONE]),
        }

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a saved state."""
        for number in np.unique(state["matrix"]).tolist():
            rows = state["matrix"] == number
            score, order, index = (torch.from_numpy(state[k][rows]) for k in _COLUMNS)
            part = _Candidates(score, order.view(torch.int32), index.view(torch.int64))
            group = self.group(self.matrices[number])
            old = self._best.get(group)
            self._best[group] = part if old is None else _joined(old, part)

    def taken(self) -> Iterator[tuple[MatrixId, torch.Tensor, torch.Tensor]]:
        """Matrices with scores ``[n]`` and ascending flat indices ``[n]`` of selected weights."""
        for group in self._best:
            best = self._pruned(group)
            assert best is not None
            for number in best.matrix.unique().tolist():
                mine = best.matrix == number
                yield self.matrices[number], best.scores[mine], best.index[mine]

    @property
    def bytes(self) -> int:
        """Bytes that the best weights so far take."""
        return sum(t.nbytes for b in self._best.values() for t in (b.scores, b.matrix, b.index))

    def result(self) -> IndexSets:
        """The selected weights of every matrix."""
        return {matrix: index.cpu().numpy() for matrix, _, index in self.taken()}


def _check_finite(matrix: MatrixId, scores: torch.Tensor) -> None:
    if not torch.isfinite(scores).all():
        raise ModelError(
            f"scores of {matrix} are not finite",
            hint="the model overflows in this dtype; use --dtype float32",
        )


def top_indices(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Ascending indices of the ``k`` largest positive scores; ties go to the lower index.

    ``torch.topk`` leaves ties to the backend, which would make two runs differ.

    Args:
        scores: ``[n]``, finite.
        k: How many at the most.
    """
    k = min(k, len(scores))
    threshold = torch.topk(scores, k, sorted=False).values.min()
    above = torch.nonzero(scores > threshold).squeeze(1)
    if threshold <= 0:
        return torch.nonzero(scores > 0).squeeze(1)
    level = torch.nonzero(scores == threshold).squeeze(1)[: k - len(above)]
    return torch.cat([above, level]).sort().values


_NONE: NDArray[np.int64] = np.empty(0, dtype=np.int64)
_NO_ORDER: NDArray[np.int32] = np.empty(0, dtype=np.int32)
_NO_SCORES: NDArray[np.float32] = np.empty(0, dtype=np.float32)
_COLUMNS = ("score", "matrix", "index")
