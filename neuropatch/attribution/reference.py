"""The slow, obvious way to the same scores: what tests and benchmarks compare with."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from neuropatch.attribution.integrated import Attributions, Question
from neuropatch.attribution.run import frozen
from neuropatch.data.tokenize import Sample
from neuropatch.models.coordinates import BlockId, MatrixId
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
    if any(hasattr(module, "has_gate") for module in exact.modules()):
        # The grouped product of experts knows no float64.
        exact.set_experts_implementation("eager")  # type: ignore[operator]
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


def integrated_gradients(
    model: nn.Module, question: Question, *, kind: str = "causal", steps: int = 20
) -> Attributions:
    """:meth:`~neuropatch.attribution.integrated.IntegratedGradients.attribute` by whole passes.

    One layer after the other, and all points of a layer as a batch of whole texts with all their
    logits: ``layers * steps`` forward passes of the text, and backward passes down to the layer.

    Args:
        model: A language model in evaluation mode; it is used in its own number format.
        question: The tokens.
        kind: ``causal`` or ``masked``.
        steps: Points of a layer.

    Returns:
        Attributions in the model's number format.
    """
    layout = model_layout(model)
    device = next(model.parameters()).device
    parts: dict[BlockId, list[torch.Tensor]] = {}
    probabilities = []
    for position, target in zip(question.positions, question.targets, strict=True):
        length = position + 1 if kind == "causal" else len(question.ids)
        ids = torch.tensor([question.ids[:length]], device=device)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, position]
        probabilities.append(logits.softmax(dim=-1)[target])
        for slot in resolve_parameters(model, layout, layout.matrices(("down",))):
            down = model.get_submodule(slot.name.removesuffix(".weight"))
            score = _layer_gradients(model, down, ids, position, target, steps)
            parts.setdefault(slot.matrix.block, []).append(score)
    scores = {block: torch.stack(tokens) for block, tokens in parts.items()}
    return Attributions(scores, torch.stack(probabilities))


def _layer_gradients(
    model: nn.Module, down: nn.Module, ids: torch.Tensor, position: int, target: int, steps: int
) -> torch.Tensor:
    """Attributions ``[units]`` of one layer, in front of whose down projection a hook scales."""
    plain: list[torch.Tensor] = []
    points: list[torch.Tensor] = []

    def scale(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden = args[0].detach().clone()
        plain.append(hidden[0, position].clone())
        factors = torch.arange(1, steps + 1, device=hidden.device, dtype=hidden.dtype) / steps
        points.append((factors[:, None] * plain[0]).requires_grad_())
        hidden[:, position] = points[0]
        return (hidden,)

    handle = down.register_forward_pre_hook(scale)
    try:
        with frozen(model), torch.enable_grad():
            logits = model(input_ids=ids.expand(steps, -1), use_cache=False).logits[:, position]
            probability = logits.softmax(dim=-1)[:, target].sum()
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(probability, points)
    return plain[0] * gradient.mean(dim=0)
