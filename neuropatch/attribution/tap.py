"""Inputs and output gradients of linear layers, as they pass in a forward and backward pass.

For a linear layer ``y_t = W x_t`` the gradient of one sample's loss is
``dL_b/dW = sum over its tokens t of g_t x_t^T``, with ``g_t = dL/dy_t``. So all that scores of
weights need passes a hook; the weights stay frozen, and their gradients are never made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from neuropatch.data.batching import Batch
from neuropatch.errors import ModelError
from neuropatch.models.modules import ParameterSlot


@dataclass
class Seen:
    """What one linear layer did in one batch.

    Attributes:
        name: Name of the layer's weight.
        grad: ``[tokens, out]``, gradients at its output, padding left out.
        input: ``[tokens, in]``, its inputs; layers that share an input are given the same tensor.
        offsets: ``[samples + 1]`` int64 on the CPU: the tokens of each sample.
    """

    name: str
    grad: torch.Tensor
    input: torch.Tensor
    offsets: torch.Tensor


@dataclass
class _Pass:
    """One batch: where its tokens are, and the last input that was gathered."""

    valid: torch.Tensor | None
    offsets: torch.Tensor
    take: Callable[[Seen], None]
    shared: tuple[torch.Tensor, torch.Tensor] | None = field(default=None)


class LinearTap:
    """Watches the linear layers of some matrices.

    Args:
        model: The model; its parameters must be frozen.
        slots: The matrices, as resolved in the model.

    Raises:
        ModelError: If a matrix is not the weight of a linear module.
    """

    def __init__(self, model: nn.Module, slots: Sequence[ParameterSlot]) -> None:
        self._modules = {slot.name: _linear_module(model, slot) for slot in slots}

    @contextmanager
    def watching(self, batch: Batch, take: Callable[[Seen], None]) -> Iterator[None]:
        """Call ``take`` for every layer that a backward pass inside the block goes through."""
        lengths = batch.lengths.cpu()
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
        offsets[1:] = lengths.cumsum(0)
        padded = bool((lengths < batch.input_ids.shape[1]).any())
        valid = batch.attention_mask.flatten().nonzero().squeeze(1) if padded else None
        one = _Pass(valid, offsets, take)
        handles = [
            module.register_forward_hook(_hook(name, one)) for name, module in self._modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hook(name: str, one: _Pass) -> Any:
    def forward(_: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        inputs = args[0].detach()

        def backward(gradient: torch.Tensor) -> None:
            x = _rows_of_input(inputs, one)
            one.take(Seen(name, _rows(gradient, one.valid), x, one.offsets))

        output.register_hook(backward)
        return output

    return forward


def _rows_of_input(inputs: torch.Tensor, one: _Pass) -> torch.Tensor:
    """Layers that share an input (gate and up; q, k and v) share its gathered rows."""
    if one.shared is None or one.shared[0].data_ptr() != inputs.data_ptr():
        one.shared = (inputs, _rows(inputs, one.valid))
    return one.shared[1]


def _rows(values: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """``[B, T, n]`` to ``[tokens, n]``, padding left out."""
    flat = values.reshape(-1, values.shape[-1])
    return flat if valid is None else flat.index_select(0, valid)


def _linear_module(model: nn.Module, slot: ParameterSlot) -> nn.Module:
    path, _, attribute = slot.name.rpartition(".")
    module = model.get_submodule(path)
    if attribute != "weight" or len(slot.slot.stored_shape) != 2:
        raise ModelError(
            f"'{slot.name}' is not the weight of a linear layer, so its inputs cannot be seen",
            hint="choose other roles with --target",
        )
    return module
