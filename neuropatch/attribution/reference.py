"""The slow, obvious way to the same scores: what tests and benchmarks compare with."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from neuropatch.data.tokenize import Sample
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.modules import model_layout, resolve_parameters


def snip_scores(
    model: nn.Module, samples: Sequence[Sample], matrices: Sequence[MatrixId]
) -> dict[MatrixId, torch.Tensor]:
    """``mean over samples of |W_ij * dL/dW_ij|`` by autograd, in float64, one sample at a time.

    Whole samples, all logits, the weight gradients themselves: none of the shortcuts of
    :class:`~neuropatch.attribution.accumulator.GradientAccumulator`.

    Args:
        model: A causal language model; it is copied.
        samples: Samples with their labels.
        matrices: The matrices to score.

    Returns:
        Scores ``[out, in]`` in float64.
    """
    exact = copy.deepcopy(model).double().eval()
    slots = resolve_parameters(exact, model_layout(exact), list(matrices))
    for slot in slots:
        slot.parameter.requires_grad_(True)
    totals = {slot.name: torch.zeros_like(slot.parameter) for slot in slots}
    for sample in samples:
        exact.zero_grad()
        ids = torch.tensor([sample.ids], device=slots[0].parameter.device)
        logits = exact(input_ids=ids, use_cache=False).logits[0]
        start = sample.label_start
        F.cross_entropy(logits[start - 1 : -1], ids[0, start:]).backward()
        for name, parameter in {slot.name: slot.parameter for slot in slots}.items():
            if parameter.grad is not None:
                totals[name] += (parameter.detach() * parameter.grad).abs()
    return {slot.matrix: slot.view_of(totals[slot.name]) / len(samples) for slot in slots}
