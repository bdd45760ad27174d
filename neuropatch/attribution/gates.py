"""Gradients of losses with respect to gates on MLP units, of all layers and samples in one pass.

A gate ``m_k`` multiplies the activation ``h_tk`` of unit ``k`` at every token ``t``. Where it is 1,

    dL_b/dm_k = sum over tokens t of sample b of h_tk * dL_b/dh_tk,

so that the gradients of every single sample of a batch fall out of one backward pass, and neither
gates nor gradients of weights are ever made. ``-dL/dm`` is the first-order estimate of what
switching the unit off adds to the loss (Molchanov et al., arXiv 1611.06440; LeCun et al.'s optimal
brain damage is the second order).

Inside :func:`neuropatch.models.unit_gates.unit_gates` the activations are those behind its gates:
the gradients are then with respect to a factor on each gate, ``m_k * dL/dm_k``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuropatch.attribution.activations import unit_modules
from neuropatch.attribution.run import frozen, score_batch
from neuropatch.data.batching import PackedBatch, longest_first
from neuropatch.data.tokenize import Sample
from neuropatch.errors import UsageError
from neuropatch.models.coordinates import BlockId
from neuropatch.models.layout import Layout
from neuropatch.models.likelihood import TokenLoss
from neuropatch.models.packing import batches_for
from neuropatch.models.token_nll import token_nll, token_odds
from neuropatch.progress import Progress, Silent
from neuropatch.world import ALONE, World

UnitValues = dict[BlockId, NDArray[np.float64]]
"""``[units]`` of each block, in canonical order."""

REDUCTIONS = ("mean", "absolute", "square")
"""What is taken of the gradients of single samples: their mean, that of their absolute values, or
that of their squares (the diagonal of the empirical Fisher information of the gates)."""


OBJECTIVES: dict[str, TokenLoss] = {"nll": token_nll, "odds": token_odds}
"""The loss of a token: its negative log likelihood, or its negative log odds."""


@dataclass(frozen=True)
class SampleGradients:
    """Gradients of the losses of some samples.

    Attributes:
        places: Place of each sample in the sequence that was given.
        values: ``[samples, units]`` of each block, float64 on the model's device.
    """

    places: tuple[int, ...]
    values: dict[BlockId, torch.Tensor]


def sample_gate_gradients(
    model: nn.Module,
    layout: Layout,
    samples: Sequence[Sample],
    *,
    objective: str = "nll",
    batch_tokens: int = 1024,
    progress: Progress | None = None,
    label: str = "gates",
) -> Iterator[SampleGradients]:
    """Gradients of every sample's loss with respect to gates on all units, batch by batch.

    A sample's loss is the mean of the objective over its labels.

    Args:
        model: A causal language model in evaluation mode.
        layout: Its layout.
        samples: Samples with at least one label each.
        objective: One of :data:`OBJECTIVES`.
        batch_tokens: Most tokens of a batch. It changes results by rounding only.
        progress: Told of every batch.
        label: What the progress is of.

    Yields:
        Gradients ``dL_b/dm``, longest samples first; products and passes are in the model's
        number format, sums over tokens in float64.

    Raises:
        ModelError: If a loss is not finite, or units cannot be watched.
    """
    progress = progress or Silent()
    recorder = _GateRecorder(unit_modules(model, layout))
    device = next(model.parameters()).device
    order = longest_first(samples)
    progress.start(label, len(samples))
    for batch in batches_for(model, samples, batch_tokens=batch_tokens):
        with frozen(model), torch.enable_grad():
            score_batch(model, recorder, batch.to(device), OBJECTIVES[objective])
        start = recorder.samples - len(batch.rows)
        # The backward pass comes from above.
        values = dict(sorted(recorder.values.items()))
        yield SampleGradients(tuple(order[start : recorder.samples]), values)
        progress.advance(len(batch.rows))


def gate_gradients(
    model: nn.Module,
    layout: Layout,
    samples: Sequence[Sample],
    *,
    reduce: str = "mean",
    objective: str = "nll",
    batch_tokens: int = 1024,
    progress: Progress | None = None,
    label: str = "gates",
    world: World = ALONE,
) -> UnitValues:
    """Gradients of losses with respect to gates on all units, reduced over samples.

    Args:
        model: A causal language model in evaluation mode.
        layout: Its layout.
        samples: Samples with at least one label each.
        reduce: One of :data:`REDUCTIONS`.
        objective: One of :data:`OBJECTIVES`.
        batch_tokens: Most tokens of a batch. It changes results by rounding only.
        progress: Told of every batch.
        label: What the progress is of.
        world: The processes that share the samples; the progress is of this one's share.

    Returns:
        ``[units]`` of each block, float64.

    Raises:
        ModelError: If a loss is not finite, or units cannot be watched.
        UsageError: If the reduction is unknown, or there are fewer samples than processes.
    """
    if reduce not in REDUCTIONS:
        raise UsageError(f"unknown reduction '{reduce}'", hint=f"choose {', '.join(REDUCTIONS)}")
    totals: dict[BlockId, torch.Tensor] = {}
    for part in sample_gate_gradients(
        model,
        layout,
        world.share(samples),
        objective=objective,
        batch_tokens=batch_tokens,
        progress=progress,
        label=label,
    ):
        for block, values in part.values.items():
            total = _of(reduce, values).sum(dim=0)
            totals[block] = totals[block] + total if block in totals else total
    world.sum_(totals.values())
    return {block: (total / len(samples)).cpu().numpy() for block, total in totals.items()}


def _of(reduce: str, values: torch.Tensor) -> torch.Tensor:
    if reduce == "mean":
        return values
    return values.abs() if reduce == "absolute" else values.square()


class _GateRecorder:
    """Keeps the gradients of the last batch: a :class:`neuropatch.attribution.run.Recorder`."""

    def __init__(self, modules: dict[BlockId, nn.Module]) -> None:
        self._modules = modules
        self.samples = 0
        self.values: dict[BlockId, torch.Tensor] = {}

    @contextmanager
    def recording(self, batch: PackedBatch) -> Iterator[None]:
        self.values = {}
        lengths = batch.lengths.tolist()
        handles = [
            module.register_forward_pre_hook(self._hook(block, lengths))
            for block, module in self._modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self.samples += len(batch.rows)

    def _hook(self, block: BlockId, lengths: list[int]) -> Any:
        def forward(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            hidden = args[0]
            if not hidden.requires_grad:
                # With frozen weights nothing has asked for gradients yet: the graph starts at the
                # units of the lowest block.
                hidden.requires_grad_()
            activations = hidden.detach()

            def backward(gradient: torch.Tensor) -> None:
                parts = (activations * gradient).flatten(0, -2).split(lengths)
                sums = [part.sum(dim=0, dtype=torch.float64) for part in parts]
                self.values[block] = torch.stack(sums)

            hidden.register_hook(backward)

        return forward

    def idle(self) -> None:
        pass

    def state(self) -> dict[str, torch.Tensor]:
        return {}
