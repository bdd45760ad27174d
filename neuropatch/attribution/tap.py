"""Inputs and output gradients of linear layers, as they pass in a forward and backward pass.

For a linear layer ``y_t = W x_t`` the gradient of one sample's loss is
``dL_b/dW = sum over its tokens t of g_t x_t^T``, with ``g_t = dL/dy_t``. So all that scores of
weights need passes a hook; the weights stay frozen, and their gradients are never made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from neuropatch.attribution.expert_tap import ExpertWatch
from neuropatch.attribution.seen import Seen, started
from neuropatch.data.batching import PackedBatch
from neuropatch.errors import ModelError
from neuropatch.models.modules import ParameterSlot


class LinearTap:
    """Watches the linear layers of some matrices.

    Args:
        model: The model; its parameters must be frozen.
        slots: The matrices, as resolved in the model.

    Raises:
        ModelError: If a matrix is neither the weight of a linear module nor one of stacked experts.
    """

    def __init__(self, model: nn.Module, slots: Sequence[ParameterSlot]) -> None:
        stacked = [slot for slot in slots if slot.slot.expert is not None]
        self._modules = {
            slot.name: linear_module(model, slot) for slot in slots if slot.slot.expert is None
        }
        self._experts: dict[str, dict[str, str]] = {}
        for slot in stacked:
            path, _, attribute = slot.name.rpartition(".")
            self._experts.setdefault(path, {})[attribute] = slot.name
        self._model = model

    @contextmanager
    def watching(self, batch: PackedBatch, take: Callable[[Seen], None]) -> Iterator[None]:
        """Call ``take`` for every layer that a backward pass inside the block goes through.

        The graph starts at the lowest of the layers: nothing below them is differentiated.
        """
        with ExitStack() as stack:
            for name, module in self._modules.items():
                layer = _Layer(name, batch.offsets, take)
                stack.callback(layer.finish)
                stack.callback(module.register_forward_hook(layer.forward).remove)
            for path, names in self._experts.items():
                module = self._model.get_submodule(path)
                watch = ExpertWatch(module, names, batch.offsets, take)
                stack.enter_context(watch.watching())
            yield


class _Layer:
    """One linear layer in one batch.

    A layer may be called more than once in a pass (DeBERTa projects the embeddings of positions
    with the weights of the tokens). The gradient of its weight is then one sum over all calls.
    """

    def __init__(self, name: str, offsets: torch.Tensor, take: Callable[[Seen], None]) -> None:
        self._name, self._offsets, self._take = name, offsets, take
        self._calls = 0
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(
        self, _: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        """The hook; the inputs of this call are kept until its gradients come."""
        inputs = args[0].detach()
        self._calls += 1
        if self._calls > 1 and len(self._offsets) > 2:
            raise ModelError(
                f"the layer of '{self._name}' is called more than once in a pass",
                hint="give the model one sample at a time",
            )
        output = started(output)

        def backward(gradient: torch.Tensor) -> None:
            self._waiting.append((gradient.flatten(0, -2), inputs.flatten(0, -2)))
            if len(self._waiting) == self._calls:
                self.finish()

        output.register_hook(backward)
        return output

    def finish(self) -> None:
        """Hand on what has been seen, if anything waits: a call may lead to no gradient."""
        if not self._waiting:
            return
        grads, inputs = zip(*self._waiting, strict=True)
        self._waiting = []
        grad, x = (grads[0], inputs[0]) if len(grads) == 1 else map(torch.cat, (grads, inputs))
        offsets = self._offsets
        if len(offsets) == 2:
            # All rows are those of the single sample, also in an encoder of another length.
            offsets = torch.tensor([0, len(grad)])
        self._take(Seen(self._name, grad, x, offsets))


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
