"""The second look of the certified mode: exact scores of weights that a pass left undecided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from neuropatch.attribution.bounds import Bound
from neuropatch.attribution.candidates import Candidates
from neuropatch.attribution.selection import TopSelector
from neuropatch.attribution.watching import Samples, Watcher
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.modules import ParameterSlot
from neuropatch.world import ALONE, World


class SecondLook(Watcher):
    """Exact scores of undecided weights from the first batch on.

    Args:
        model: The model; its parameters must be frozen.
        slots: The matrices with undecided weights, in canonical order.
        selector: Holds the top weights among the first candidates.
        samples: What the pass consists of.
        world: The processes that share the samples.
    """

    def __init__(
        self,
        model: nn.Module,
        slots: Sequence[ParameterSlot],
        selector: TopSelector,
        samples: Samples,
        world: World = ALONE,
    ) -> None:
        super().__init__(model, slots, world)
        self._selector = selector
        self._pass = samples
        self._looks = list(samples.looks())
        self._whole = {matrix: bound.whole() for matrix, bound in self.bounds.items()}

    def start(
        self,
        undecided: Mapping[MatrixId, Candidates],
        bounds: Mapping[MatrixId, Bound],
    ) -> None:
        """Begin with weights of :meth:`CertifiedPass.undecided`, and the bounds of that pass."""
        for matrix in self._slots:
            self.candidates[matrix] = undecided[matrix]
            self._whole[matrix] = bounds[matrix].whole()

    @property
    def done(self) -> bool:
        """Whether all weights are decided."""
        return self.batches == len(self._pass.batches) or not any(
            map(len, self.candidates.values())
        )

    def _after_batch(self) -> None:
        """Drop weights that now are proved to be below the threshold."""
        here = self._looks.index(self.batches) + 1 if self.batches in self._looks else None
        if here is None and self._world.size > 1:
            # Adding up takes time, and after these batches nothing is known that would pay it.
            return
        for matrix, mine in self.candidates.items():
            weights = mine.weights(self._slots[matrix].weight()).double()
            now = self.bounds[matrix].now.of_all(self._world)
            # A sum of parts that are rounded up is so once more.
            left = self._whole[matrix].without(now, self.batches + self._world.size - 1)
            rest = left.at(mine.index(self._into(matrix)))
            if here is not None:
                # All that is left of these is what they had summed after this batch.
                rest = torch.where(mine.cohort == here, torch.minimum(rest, mine.rest), rest)
            so_far = mine.sums.clone()
            self._world.sum_([so_far])
            sums = so_far.double() + rest.double()
            reach = self._pass.slack.raise_(weights, sums, self._pass.total)
            limit = self._selector.threshold(self._selector.group(matrix))
            self.candidates[matrix] = mine.pick(reach >= limit)

    def state(self) -> dict[str, torch.Tensor]:
        """Candidates and bounds by name, for saving."""
        known = super().state()
        for matrix, whole in self._whole.items():
            known |= {f"{matrix}/whole.rows": whole.rows, f"{matrix}/whole.columns": whole.columns}
        return known

    def load(self, state: Mapping[str, torch.Tensor], samples: int, batches: int) -> None:
        """Continue from a saved state after so many samples and batches."""
        super().load(state, samples, batches)
        for matrix, whole in self._whole.items():
            whole.rows = state[f"{matrix}/whole.rows"].to(whole.rows.device)
            whole.columns = state[f"{matrix}/whole.columns"].to(whole.columns.device)

    def finish(self) -> None:
        """Make sums those of all processes, at the end of the pass."""
        self._world.sum_(candidates.sums for candidates in self.candidates.values())

    def select(self, empty: TopSelector) -> TopSelector:
        """The top weights of all: those of the selector and those that were undecided.

        Args:
            empty: A new selector like the one before.
        """
        known = {matrix: (scores, index) for matrix, scores, index in self._selector.taken()}
        for matrix, mine in self.candidates.items():
            scores = mine.scores(self._slots[matrix].weight(), self._pass.total)
            index = mine.index(self._into(matrix))
            if matrix in known:
                scores, index = (
                    torch.cat(p) for p in zip(known[matrix], (scores, index), strict=True)
                )
            index, order = index.sort()
            known[matrix] = (scores[order], index)
        for matrix in empty.matrices:
            if matrix in known:
                empty.add_some(matrix, *known[matrix])
        return empty
