"""Exact top weights without a buffer of scores.

A weight is either a *candidate*, with exact scores, or its score is known to stay below a bound
(:mod:`~neuropatch.attribution.bounds`). One pass over a data set goes like this:

1. A pilot of a few samples gives bounds, and those give the first candidates.
2. The pass computes exact scores of candidates and bounds of all weights. Now and then weights
   whose bound approaches the threshold join; of the batches before, their bound at that time is
   kept.
3. After it the threshold is known: the k-th largest exact score. A weight outside, or one that
   joined late, is *undecided* if its bound reaches it. Without any, the top weights are proved.
4. Otherwise undecided weights get their exact scores from the start. One is dropped as soon as
   its exact part and a bound of the rest prove it below the threshold, and the batches end with
   the last of them.

Exact scores are the bits that the whole matrix would have, so the sets are those of a run with all
scores in memory, ties included.

On several processes each sums over its own batches. Bounds of the tokens since the last look, and
sums of candidates, are added up where weights are looked at, and all processes see the same.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import nn

from neuropatch.attribution.bounds import Bound
from neuropatch.attribution.candidates import Candidates
from neuropatch.attribution.selection import TopSelector
from neuropatch.attribution.watching import Samples, Watcher
from neuropatch.errors import ResourceError, UsageError
from neuropatch.kernels import backends
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.modules import ParameterSlot
from neuropatch.world import ALONE, World

PILOT_SAMPLES = 4
"""Samples of the pilot, at the most an eighth of all."""

FIRST_LEAST = 64
"""Candidates from the start of each group, at the least."""

FIRST_SHARE = 0.0015
"""Share of the weights that are candidates from the start, at the least."""

FIRST_PER_TAKEN = 100
"""Candidates from the start for each weight that will be taken, at the least."""

REACH = 0.5
"""A weight joins when its bound could reach this share of the threshold before the next look."""


def obstacle(dtype: torch.dtype, devices: int = 1, *, split: bool = False) -> UsageError | None:
    """Why a model in a dtype, on so many devices, can have no certified mode here, or None.

    Args:
        dtype: Type of the weights.
        devices: On how many devices of this process they are.
        split: Whether they are split among processes.
    """
    if split:
        return UsageError(
            "--memory certified takes weights that are not split among processes",
            hint="use --memory full or windows, or leave --tp out",
        )
    if devices > 1:
        return UsageError(
            "--memory certified takes a model on one device",
            hint="use --memory windows, or leave --device-map out",
        )
    if dtype == torch.float64:
        return UsageError(
            "--memory certified takes models in float32, bfloat16 or float16",
            hint="add --dtype float32",
        )
    # Its sums are made in another order than those of candidates, so the sets could differ.
    if any(backend.backend == "amx" for backend in backends()):
        return UsageError(
            "--memory certified cannot be had with NEUROPATCH_KERNELS=amx",
            hint="unset NEUROPATCH_KERNELS, or use --memory windows",
        )
    return None


def first_count(taken: int, size: int, room: float) -> int:
    """How many of a group's ``size`` weights start as candidates.

    Args:
        taken: How many are wanted.
        size: The group's weights.
        room: Most candidates for each weight, which is kept unless too few would be left.
    """
    if taken == 0:
        return 0
    usual = max(FIRST_LEAST, FIRST_PER_TAKEN * taken, math.ceil(FIRST_SHARE * size))
    return min(size, usual, max(2 * taken, int(room * size)))


class CertifiedPass(Watcher):
    """Bounds of all weights and exact scores of candidates, over one data set.

    Args:
        model: The model; its parameters must be frozen.
        slots: All matrices, in canonical order.
        selector: Says how weights are grouped, and how many of each group are wanted.
        samples: What the pass consists of.
        capacity: Most candidates at a time.
        world: The processes that share the samples.

    Attributes:
        most_bytes: Most bytes of candidates, bounds, and the choice of the former so far.
    """

    def __init__(
        self,
        model: nn.Module,
        slots: Sequence[ParameterSlot],
        selector: TopSelector,
        samples: Samples,
        capacity: int,
        world: World = ALONE,
    ) -> None:
        super().__init__(model, slots, world)
        self._selector = selector
        self._pass = samples
        self._capacity = capacity
        self._looks = samples.looks()
        self.most_bytes = 0

    def start(self, chooser: TopSelector) -> None:
        """Make the weights with the largest bounds so far candidates, and forget the bounds.

        Args:
            chooser: An empty selector of the counts to start with.
        """
        self._add_up_bounds()
        for matrix, slot in self._slots.items():
            weight = slot.weight()
            for row, tile in self.bounds[matrix].now.tiles():
                chooser.add(matrix, tile, weight[row : row + len(tile)], first_row=row)
        for matrix, _, index in chooser.taken():
            self.candidates[matrix] = Candidates.at(index, self._into(matrix))
        self.most_bytes = self.bytes + chooser.bytes
        for matrix, slot in self._slots.items():
            self.bounds[matrix] = Bound.none(slot.slot.shape, slot.parameter.device)
        self.samples = self.batches = 0

    def _after_batch(self) -> None:
        if self.batches in self._looks and any(map(len, self.candidates.values())):
            self._let_join(self._looks[self.batches])

    def _let_join(self, seen_next: int) -> None:
        """Make weights candidates whose bound may near the threshold until the next look.

        Sums grow with the samples, so the threshold in the end is about ``total / samples`` times
        that of now, and a bound at the next look ``seen_next / samples`` times that of now.
        """
        self._add_up_bounds()
        held = sum(map(len, self.candidates.values()))
        pool = _Strongest(self._capacity - held)
        for group, limit in self._limits().items():
            for matrix in self._matrices(group):
                weight, bound = self._slots[matrix].weight(), self.bounds[matrix]
                level = REACH * limit * self._pass.total / seen_next
                bound.check_finite(matrix, weight)
                index = bound.reaching(weight, level, 1, self._pass.slack)
                index = index[~torch.isin(index, self.candidates[matrix].index(self._into(matrix)))]
                found = Candidates.at(index, self._into(matrix), bound.at(index))
                pool.offer(matrix, found, found.weights(weight) * found.rest / limit)
        for bound in self.bounds.values():
            bound.settle()
        cohort = 1 + list(self._looks).index(self.batches)
        for matrix, found in pool.taken():
            found.cohort.fill_(cohort)
            mine = self.candidates[matrix]
            self.candidates[matrix] = mine.joined(found, self._into(matrix))
        self.most_bytes = max(self.most_bytes, self.bytes)

    def _add_up_bounds(self) -> None:
        """Make the bounds since the last look those of all processes; older ones are already."""
        for bound in self.bounds.values():
            bound.now = bound.now.of_all(self._world)

    def finish(self) -> None:
        """Make sums and bounds those of all processes, at the end of the pass."""
        self._add_up_bounds()
        self._world.sum_(candidates.sums for candidates in self.candidates.values())
        self.samples = self._pass.total

    def _matrices(self, group: Hashable) -> list[MatrixId]:
        return [matrix for matrix in self._slots if self._selector.group(matrix) == group]

    def _limits(self) -> dict[Hashable, float]:
        """The k-th largest exact ``|W| * sum`` of each group so far, where there are so many."""
        values: dict[Hashable, list[torch.Tensor]] = {}
        for matrix, candidates in self.candidates.items():
            exact = candidates.pick(candidates.cohort == 0)
            self._world.sum_([exact.sums])
            scores = exact.scores(self._slots[matrix].weight(), 1)
            values.setdefault(self._selector.group(matrix), []).append(scores)
        limits: dict[Hashable, float] = {}
        for group, parts in values.items():
            scores, k = torch.cat(parts), self._selector.counts[group]
            if 0 < k <= len(scores):
                limits[group] = float(scores.topk(k, sorted=False).values.min())
        return {group: limit for group, limit in limits.items() if limit > 0}

    def select(self) -> None:
        """Give the exact scores of the first candidates to the selector."""
        for matrix, candidates in self.candidates.items():
            exact = candidates.pick(candidates.cohort == 0)
            scores = exact.scores(self._slots[matrix].weight(), self.samples)
            self._selector.add_some(matrix, scores, exact.index(self._into(matrix)))

    def undecided(self) -> dict[MatrixId, Candidates]:
        """Weights that the bounds do not prove to be below the threshold, after :meth:`select`.

        Their ``rest`` is what they had summed since they joined, and their ``sums`` are 0.

        Raises:
            ModelError: If a bound is not finite.
            ResourceError: If they are too many.
        """
        left: dict[MatrixId, Candidates] = {}
        for matrix, slot in self._slots.items():
            weight, mine, bound = slot.weight(), self.candidates[matrix], self.bounds[matrix]
            group = self._selector.group(matrix)
            limit = self._selector.threshold(group)
            bound.check_finite(matrix, weight)
            if self._selector.counts[group] == 0:
                continue
            index = bound.reaching(weight, limit, self.samples, self._pass.slack)
            late = mine.pick(mine.cohort > 0)
            sums = late.rest.double() + late.sums.double()
            reach = self._pass.slack.raise_(late.weights(weight).double(), sums, self.samples)
            late = late.pick((reach >= limit) & (late.weights(weight) * sums > 0))
            late = Candidates(late.rows, late.columns, 0 * late.sums, late.sums, late.cohort)
            outside = index[~torch.isin(index, mine.index(self._into(matrix)))]
            never = torch.full_like(outside, len(self._looks) + 1, dtype=torch.uint8)
            others = Candidates.at(outside, self._into(matrix), cohort=never)
            both = late.joined(others, self._into(matrix))
            if len(both):
                left[matrix] = both
            self._check_count(sum(map(len, left.values())))
        return left

    def _check_count(self, count: int) -> None:
        if count > self._capacity:
            raise ResourceError(
                f"the bounds of {count:,} weights or more reach the threshold, "
                f"and the plan has room for {self._capacity:,} exact scores",
                hint="use --memory windows, a smaller --p and --q, or a larger --max-memory",
            )


class _Strongest:
    """The strongest weights that offer themselves, up to a number."""

    def __init__(self, room: int) -> None:
        self._room = max(0, room)
        self._found: list[tuple[MatrixId, Candidates, torch.Tensor]] = []

    def offer(self, matrix: MatrixId, candidates: Candidates, strength: torch.Tensor) -> None:
        """See candidates of a matrix, and the strength of each."""
        if len(candidates):
            self._found.append((matrix, candidates, strength))
        strengths = [strength for _, _, strength in self._found]
        if sum(map(len, strengths)) <= self._room:
            return
        # The weakest that has a place; of equal ones at the end it does not matter who joins.
        ranked = torch.cat(strengths).sort(descending=True).values
        cut = float(ranked[self._room])
        self._found = [
            (matrix, some.pick(strength > cut), strength[strength > cut])
            for matrix, some, strength in self._found
        ]

    def taken(self) -> list[tuple[MatrixId, Candidates]]:
        """Those that have a place."""
        return [(matrix, candidates) for matrix, candidates, _ in self._found]
