"""Per-sample weight attribution without weight gradients.

For a linear layer ``y_t = W x_t`` the gradient of one sample's loss is
``dL_b/dW = sum over its tokens t of g_t x_t^T``, with ``g_t = dL/dy_t``. So the sum over samples
of ``|dL_b/dW|`` needs only the layer's inputs and output gradients, which hooks see as they pass;
the weights stay frozen and their gradients are never made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from neuropatch.data.batching import Batch
from neuropatch.errors import ModelError
from neuropatch.kernels import snip_accumulate_
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.modules import ParameterSlot


@dataclass(frozen=True)
class _Layer:
    """One linear module and the sum of its per-sample absolute gradients."""

    name: str
    module: nn.Module
    score: torch.Tensor


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
        self._layers: dict[str, _Layer] = {}
        for slot in slots:
            if slot.name not in self._layers:
                self._layers[slot.name] = _layer(model, slot)
        self.samples = 0
        self._shared: tuple[torch.Tensor, torch.Tensor] | None = None

    @contextmanager
    def recording(self, batch: Batch) -> Iterator[None]:
        """Accumulate from the forward and backward pass of one batch inside the block.

        The loss inside the block must be the *sum* over samples of each sample's loss, so that
        one sample's gradient does not depend on which others are in the batch.
        """
        lengths = batch.lengths.cpu()
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
        offsets[1:] = lengths.cumsum(0)
        padded = bool((lengths < batch.input_ids.shape[1]).any())
        valid = batch.attention_mask.flatten().nonzero().squeeze(1) if padded else None
        handles = [
            layer.module.register_forward_hook(self._hook(layer, valid, offsets))
            for layer in self._layers.values()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._shared = None
        self.samples += len(lengths)

    def _hook(self, layer: _Layer, valid: torch.Tensor | None, offsets: torch.Tensor) -> Any:
        def forward(
            _: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor
        ) -> torch.Tensor:
            inputs = args[0].detach()

            def backward(gradient: torch.Tensor) -> None:
                x = self._rows_of_input(inputs, valid)
                snip_accumulate_(layer.score, _rows(gradient, valid), x, offsets)

            output.register_hook(backward)
            return output

        return forward

    def _rows_of_input(self, inputs: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Layers that share an input (gate and up; q, k and v) share its gathered rows."""
        if self._shared is None or self._shared[0].data_ptr() != inputs.data_ptr():
            self._shared = (inputs, _rows(inputs, valid))
        return self._shared[1]

    def score(self, matrix: MatrixId) -> torch.Tensor:
        """``I(W_ij) = mean over samples of |W_ij * dL_b/dW_ij|``, ``[out, in]``.

        Float32, or float64 for a float64 model. Source: SPIN (arXiv 2410.16672), equation 2; the
        absolute value is inside the mean.
        """
        slot = self._slots[matrix]
        total = self._layers[slot.name].score
        if slot.slot.row_map is not None:
            rows = slot.slot.row_map.rows(np.arange(slot.slot.shape[0]))
            total = total[torch.from_numpy(rows).to(total.device)]
        return total * slot.weight().abs().to(total.dtype) / self.samples

    def state(self) -> dict[str, torch.Tensor]:
        """The sums by parameter name: views, for saving."""
        return {name: layer.score for name, layer in self._layers.items()}

    def load(self, state: dict[str, torch.Tensor], samples: int) -> None:
        """Continue from saved sums of ``samples`` samples."""
        for name, layer in self._layers.items():
            layer.score.copy_(state[name])
        self.samples = samples


def _rows(values: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """``[B, T, n]`` to ``[tokens, n]``, padding left out."""
    flat = values.reshape(-1, values.shape[-1])
    return flat if valid is None else flat.index_select(0, valid)


def _layer(model: nn.Module, slot: ParameterSlot) -> _Layer:
    path, _, attribute = slot.name.rpartition(".")
    module = model.get_submodule(path)
    if attribute != "weight" or len(slot.slot.stored_shape) != 2:
        raise ModelError(
            f"'{slot.name}' is not the weight of a linear layer, so its inputs cannot be seen",
            hint="choose other roles with --target",
        )
    stored = slot.slot.stored_shape
    shape = stored[::-1] if slot.slot.transposed else stored
    wide = slot.parameter.dtype == torch.float64
    dtype = torch.float64 if wide else torch.float32
    return _Layer(slot.name, module, torch.zeros(shape, dtype=dtype, device=slot.parameter.device))
