"""Inputs and output gradients of linear layers, as they pass in a forward and backward pass.

For a linear layer ``y_t = W x_t`` the gradient of one sample's loss is
``dL_b/dW = sum over its tokens t of g_t x_t^T``, with ``g_t = dL/dy_t``. So all that scores of
weights need passes a hook; the weights stay frozen, and their gradients are never made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neuropatch.data.batching import PackedBatch
from neuropatch.errors import ModelError
from neuropatch.models.modules import ParameterSlot


@dataclass
class Seen:
    """What one linear layer did in one batch.

    Attributes:
        name: Name of the layer's weight.
        grad: ``[tokens, out]``, gradients at its output.
        input: ``[tokens, in]``, its inputs; layers that share an input are given the same memory.
        offsets: ``[samples + 1]`` int64 on the CPU: the tokens of each sample.
    """

    name: str
    grad: torch.Tensor
    input: torch.Tensor
    offsets: torch.Tensor


class LinearTap:
    """Watches the linear layers of some matrices.

    Args:
        model: The model; its parameters must be frozen.
        slots: The matrices, as resolved in the model.

    Raises:
        ModelError: If a matrix is not the weight of a linear module.
    """

    def __init__(self, model: nn.Module, slots: Sequence[ParameterSlot]) -> None:
        self._modules = {slot.name: linear_module(model, slot) for slot in slots}

    @contextmanager
    def watching(self, batch: PackedBatch, take: Callable[[Seen], None]) -> Iterator[None]:
        """Call ``take`` for every layer that a backward pass inside the block goes through.

        The graph starts at the lowest of the layers: nothing below them is differentiated.
        """
        handles = [
            module.register_forward_hook(_hook(name, batch.offsets, take))
            for name, module in self._modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hook(name: str, offsets: torch.Tensor, take: Callable[[Seen], None]) -> Any:
    def forward(_: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        inputs = args[0].detach()
        if not output.requires_grad:
            # With frozen weights nothing has asked for gradients yet.
            output.requires_grad_()

        def backward(gradient: torch.Tensor) -> None:
            take(Seen(name, gradient.flatten(0, -2), inputs.flatten(0, -2), offsets))

        output.register_hook(backward)
        return output

    return forward


def linear_module(model: nn.Module, slot: ParameterSlot) -> nn.Module:
    """The linear module whose weight holds a matrix.

    Raises:
        ModelError: If there is none, as for experts that are stored as one tensor.
    """
    path, _, attribute = slot.name.rpartition(".")
    module = model.get_submodule(path)
    if attribute != "weight" or len(slot.slot.stored_shape) != 2:
        raise ModelError(
            f"'{slot.name}' is not the weight of a linear layer, so its inputs cannot be seen",
            hint="choose other roles with --target",
        )
    return module
