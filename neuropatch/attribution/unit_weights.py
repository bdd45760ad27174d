"""Squared gradients of the weights that units own, summed unit by unit.

A unit owns a row of ``gate`` and of ``up`` and a column of ``down``. The gradient of a matrix is
reduced to one number a unit as soon as a backward pass has made it, so that no more than one of
them is ever kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuropatch.attribution.run import frozen
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout
from neuropatch.models.modules import ParameterSlot, resolve_parameters
from neuropatch.models.unit_weights import UNIT_ROLES


@contextmanager
def squared_unit_gradients(model: nn.Module, layout: Layout) -> Iterator[dict[MatrixId, Tensor]]:
    """Let every backward pass of a ``with`` block add to the squares of units' gradients.

    Nothing else of the model takes a gradient inside the block.

    Args:
        model: A transformers model.
        layout: Its layout.

    Yields:
        For each matrix of units ``[units]`` in float64: the sum, over backward passes, of the
        squared norm of the gradient of each unit's vector.

    Raises:
        ModelError: If a parameter is missing, or layers share it.
    """
    sums: dict[MatrixId, Tensor] = {}
    owners: defaultdict[int, list[ParameterSlot]] = defaultdict(list)
    for slot in resolve_parameters(model, layout, layout.matrices(UNIT_ROLES)):
        owners[id(slot.parameter)].append(slot)
        weight = slot.weight()
        units = weight.shape[1] if slot.matrix.role == "down" else weight.shape[0]
        sums[slot.matrix] = weight.new_zeros(units, dtype=torch.float64)
    with frozen(model):
        handles = []
        try:
            for slots in owners.values():
                parameter = slots[0].parameter.requires_grad_()
                hook = parameter.register_post_accumulate_grad_hook(_adding(slots, sums))
                handles.append(hook)
            yield sums
        finally:
            for handle in handles:
                handle.remove()


def _adding(slots: list[ParameterSlot], sums: dict[MatrixId, Tensor]) -> Any:
    def add(parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None  # the hook runs behind its accumulation
        parameter.grad = None
        for slot in slots:
            part = slot.view_of(gradient)
            squares = part.to(torch.promote_types(part.dtype, torch.float32)).square()
            over = 0 if slot.matrix.role == "down" else 1
            sums[slot.matrix] += squares.sum(dim=over, dtype=torch.float64)

    return add
