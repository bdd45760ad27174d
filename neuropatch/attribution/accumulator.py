"""Per-sample weight attribution without weight gradients: whole matrices of scores.

The sum over samples of ``|dL_b/dW|`` is made by a fused kernel from what a
:class:`~neuropatch.attribution.tap.LinearTap` sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from neuropatch.attribution.seen import Seen
from neuropatch.attribution.tap import LinearTap
from neuropatch.data.batching import PackedBatch
from neuropatch.kernels import snip_accumulate_
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.modules import ParameterSlot
from neuropatch.world import World


class GradientAccumulator:
    """Sums ``|dL_b/dW|`` over samples ``b`` for the linear layers of some matrices.

    Args:
        model: The model; its parameters must be frozen.
        slots: The matrices, as resolved in the model.

    Raises:
        ModelError: If a matrix is not the weight of a linear module.
    """

    def __init__(self, model: nn.Module, slots: Sequence[ParameterSlot]) -> None:
        self._slots = {slot.matrix: slot for slot in slots}
        self._tap = LinearTap(model, slots)
        self._sums: dict[str, torch.Tensor] = {}
        for slot in slots:
            if slot.name not in self._sums:
                self._sums[slot.name] = _zeros(slot)
        self.samples = 0

    @contextmanager
    def recording(self, batch: PackedBatch) -> Iterator[None]:
        """Accumulate from the forward and backward pass of one batch inside the block.

        The loss inside the block must be the *sum* over samples of each sample's loss, so that
        one sample's gradient does not depend on which others are in the batch.
        """
        with self._tap.watching(batch, self._take):
            yield
        self.samples += len(batch.rows)

    def _take(self, seen: Seen) -> None:
        sums = self._sums[seen.name]
        if seen.expert is not None:
            sums = sums[seen.expert]
        snip_accumulate_(sums, seen.grad, seen.input, seen.offsets)

    def idle(self) -> None:
        """Let a batch pass that other processes have, and this one has not."""

    def reduce(self, world: World, samples: int) -> None:
        """Make the sums those of all processes, which have seen ``samples`` samples together."""
        world.sum_(self._sums.values())
        self.samples = samples

    def factors(self, matrix: MatrixId) -> tuple[torch.Tensor, torch.Tensor, int]:
        """The sum over samples of ``|dL_b/dW|`` ``[out, in]``, ``W``, and the number of samples.

        The score of a weight is ``sum * |W| / samples``, in this order.
        """
        slot = self._slots[matrix]
        sums = self._sums[slot.name]
        if slot.slot.expert is not None:
            sums = sums[slot.slot.expert]
        return slot.rows_of(sums), slot.weight(), self.samples

    def score(self, matrix: MatrixId) -> torch.Tensor:
        """``I(W_ij) = mean over samples of |W_ij * dL_b/dW_ij|``, ``[out, in]``.

        Float32, or float64 for a float64 model. Source: SPIN (arXiv 2410.16672), equation 2; the
        absolute value is inside the mean.
        """
        sums, weight, samples = self.factors(matrix)
        return sums * weight.abs().to(sums.dtype) / samples

    def state(self) -> dict[str, torch.Tensor]:
        """The sums by parameter name: views, for saving."""
        return dict(self._sums)

    def load(self, state: Mapping[str, torch.Tensor], samples: int) -> None:
        """Continue from saved sums of ``samples`` samples."""
        for name, sums in self._sums.items():
            sums.copy_(state[name])
        self.samples = samples


def _zeros(slot: ParameterSlot) -> torch.Tensor:
    *experts, height, width = slot.stored.shape
    shape = (*experts, width, height) if slot.slot.transposed else (*experts, height, width)
    wide = slot.parameter.dtype == torch.float64
    dtype = torch.float64 if wide else torch.float32
    return torch.zeros(shape, dtype=dtype, device=slot.parameter.device)
