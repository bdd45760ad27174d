"""Gates on the outputs of linear layers of a model in memory, role by role.

What :mod:`neuropatch.models.unit_gates` is for the units of MLPs, this is for the output neurons of
any linear role, in attention as well. A closed gate is a row of zeros in the role's weight, which
is how a patch switches the neuron off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuropatch.errors import ModelError
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.gates import Gates
from neuropatch.models.layout import Layout
from neuropatch.models.modules import ParameterSlot, resolve_parameters


@contextmanager
def output_gates(
    model: nn.Module, layout: Layout, masks: Mapping[MatrixId, Tensor]
) -> Iterator[Gates[MatrixId]]:
    """Multiply outputs of linear layers by gates, one for each output, for a ``with`` block.

    Differentiable in the masks and in what the layers are given.

    Args:
        model: A transformers model.
        layout: Its layout.
        masks: The gates ``[out]`` of each matrix; they may require gradients.

    Yields:
        The gates, which can be replaced without leaving the block.

    Raises:
        ModelError: If a matrix has a bias, or is one of several experts stored as one tensor.
    """
    gates = Gates(masks)
    layers = _layers(model, layout, list(gates.masks))
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.module.register_forward_hook(_hook(layer, gates)).remove)
        yield gates


@dataclass(frozen=True)
class _Layer:
    """A module, and which of its ``width`` outputs belong to gated matrices."""

    module: nn.Module
    width: int
    rows: Mapping[MatrixId, Tensor]

    def mask(self, masks: Mapping[MatrixId, Tensor]) -> Tensor:
        """The gates of all outputs ``[width]``; one where there is none."""
        (first, *_) = self.rows
        if len(self.rows) == 1 and len(masks[first]) == self.width:
            return masks[first]
        whole = masks[first].new_ones(self.width)
        for matrix, rows in self.rows.items():
            whole = whole.index_copy(0, rows, masks[matrix])
        return whole


def _hook(layer: _Layer, gates: Gates[MatrixId]) -> Any:
    def multiply(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        # The mask is wider than the output of a 16-bit model: multiplied first, rounded once.
        return (output * layer.mask(gates.masks)).to(output.dtype)

    return multiply


def _layers(model: nn.Module, layout: Layout, matrices: list[MatrixId]) -> list[_Layer]:
    """The modules behind matrices; a fused tensor's roles share one."""
    by_module: dict[str, list[ParameterSlot]] = {}
    for slot in resolve_parameters(model, layout, matrices):
        by_module.setdefault(slot.name.removesuffix(".weight"), []).append(slot)
    layers = []
    for name, slots in by_module.items():
        first = slots[0]
        if first.slot.expert is not None:
            raise ModelError(
                f"{first.matrix}: gates inside experts stored as one tensor are not possible",
                hint="gate blocks that are no mixture of experts",
            )
        module = model.get_submodule(name)
        if getattr(module, "bias", None) is not None:
            raise ModelError(
                f"{first.matrix} has a bias, which would stay when a patch zeroes its weights",
                hint="choose roles without a bias, or units",
            )
        device = first.parameter.device
        rows = {slot.matrix: _rows(slot).to(device) for slot in slots}
        transposed = first.slot.transposed
        width = first.slot.stored_shape[-1 if transposed else -2]
        layers.append(_Layer(module, width, rows))
    return layers


def _rows(slot: ParameterSlot) -> Tensor:
    """Which outputs of the module are the matrix's: ``[out]``."""
    every = np.arange(slot.slot.shape[0])
    return torch.from_numpy(every if slot.slot.row_map is None else slot.slot.row_map.rows(every))
