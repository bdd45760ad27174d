"""How a model's scores are computed within a memory budget: whole, in windows, or certified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from neuropatch.attribution.candidates import BYTES_EACH
from neuropatch.attribution.memory import format_size
from neuropatch.errors import ResourceError, UsageError
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout

PROCESS_BYTES = 400_000_000
"""Python, torch, transformers and the kernels' workspaces: measured with torch 2.13 on a CPU."""


MODES = ("auto", "full", "windows", "certified")
"""How scores may be kept: all at once, a window of layers at a time, or bounds and candidates."""

MODEST_SHARE = 1e-4
"""Largest share of the weights that is taken for which the certified mode is chosen by itself.

On SmolLM2 some 2 % of the weights become candidates at a share of 1e-5, and some 20 % at 1e-4.
"""


@dataclass(frozen=True)
class ScorePlan:
    """How scores will be computed, and the memory that takes in bytes.

    Attributes:
        windows: Matrices scored together, a run of layers each; every window is one pass over
            every data set.
        weights: The model's parameters.
        scores: Score buffers of the largest window, or bounds and candidates.
        activations: Estimate of what a batch's forward and backward pass holds.
        budget: What the plan may take.
        candidates: Most weights with exact scores at a time in the certified mode, else 0.
        reason: Why the certified mode, as a clause.
    """

    windows: tuple[tuple[MatrixId, ...], ...]
    weights: int
    scores: int
    activations: int
    budget: int
    candidates: int = 0
    reason: str = ""

    @property
    def total(self) -> int:
        """Estimated peak."""
        return PROCESS_BYTES + self.weights + self.scores + self.activations

    @property
    def mode(self) -> str:
        """One of :data:`MODES`, but ``auto``."""
        if self.candidates:
            return "certified"
        return "full" if len(self.windows) == 1 else "windows"

    def sentence(self) -> str:
        """The plan in words."""
        how = {
            "full": "all layers in one pass over each data set",
            "windows": f"{len(self.windows)} windows of layers over each data set",
            "certified": "certified top weights, a little more than one pass over each data set, "
            f"{self.reason}",
        }[self.mode]
        scores = "bounds and candidates" if self.candidates else "scores"
        return (
            f"{how}; about {format_size(self.total)} of memory: "
            f"{format_size(PROCESS_BYTES)} program, {format_size(self.weights)} weights, "
            f"{format_size(self.scores)} {scores}, {format_size(self.activations)} for a batch "
            f"(limit {format_size(self.budget)})"
        )

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON document."""
        return {
            "mode": self.mode,
            "windows": len(self.windows),
            "weights_bytes": self.weights,
            "scores_bytes": self.scores,
            "activations_bytes": self.activations,
            "budget_bytes": self.budget,
        }


def plan_scores(
    layout: Layout,
    matrices: Sequence[MatrixId],
    *,
    weights: int,
    batch_tokens: int,
    item_size: int,
    budget: int,
    mode: str = "auto",
    share: float = 1.0,
    obstacle: UsageError | None = None,
) -> ScorePlan:
    """Choose how scores are kept.

    All at once if that fits. If not, the certified mode takes about one pass, windows of layers
    take as many as there are; but the more weights are taken, the more candidates there are.

    Args:
        layout: The model's layout.
        matrices: The matrices to score, in canonical order.
        weights: Bytes of the model's parameters, already in memory.
        batch_tokens: Tokens of a batch.
        item_size: Bytes of one activation value.
        budget: Bytes that the whole run may take, weights included.
        mode: One of :data:`MODES`.
        share: Largest share of a group's weights that is taken.
        obstacle: Why there can be no certified mode, or None.

    Raises:
        UsageError: If the mode is unknown, or cannot be had.
        ResourceError: If not even one layer at a time fits.
    """
    if mode not in MODES:
        raise UsageError(f"unknown --memory '{mode}'", hint=f"choose {', '.join(MODES)}")
    if mode == "certified" and obstacle is not None:
        raise obstacle
    activations = _activation_bytes(layout, batch_tokens, item_size)
    base = ScorePlan((tuple(matrices),), weights, 0, activations, budget)
    if mode == "certified":
        return _plan_certified(layout, base, share, "as asked")
    found = _plan_windows(layout, base, least=2 if mode == "windows" else 1)
    if found is not None and (len(found.windows) == 1 or mode == "windows"):
        return found
    if mode == "full":
        whole = replace(base, scores=_score_bytes(layout, matrices))
        raise ResourceError(
            f"scores of all layers need about {format_size(whole.total)}, "
            f"the limit is {format_size(budget)}",
            hint="use --memory auto, or raise --max-memory",
        )
    if mode == "auto" and share <= MODEST_SHARE and obstacle is None:
        certified = _plan_instead(layout, base, share, found)
        if certified is not None:
            return certified
    if found is None:
        largest = max(_score_bytes(layout, group) for group in _layers(matrices).values())
        raise ResourceError(
            f"scoring one layer at a time needs about {format_size(base.total + largest)}, "
            f"the limit is {format_size(budget)}",
            hint="raise --max-memory, lower --batch-tokens, or use a smaller --dtype",
        )
    return found


def _plan_instead(
    layout: Layout, base: ScorePlan, share: float, windows: ScorePlan | None
) -> ScorePlan | None:
    """The certified mode where it serves better than windows of layers, or None."""
    if windows is None:
        reason = "because not even the scores of one layer fit"
        return _plan_certified(layout, base, share, reason)
    matrices = base.windows[0]
    needed = _certified_bytes(layout, matrices, _likely_candidates(layout, matrices, share))
    if base.total + needed > base.budget:
        return None
    reason = (
        f"because scores of all layers do not fit, and {len(windows.windows)} windows of layers "
        "take longer"
    )
    return _plan_certified(layout, base, share, reason)


def _plan_windows(layout: Layout, base: ScorePlan, least: int) -> ScorePlan | None:
    """As few windows of layers as fit, at the least some (or one a layer), or None."""
    layers = _layers(base.windows[0])
    sizes = {layer: _score_bytes(layout, group) for layer, group in layers.items()}
    room = base.budget - base.total
    if max(sizes.values()) > room:
        return None
    # Windows of equal size: the peak is lower than with one full window and a rest.
    count = max(min(least, len(layers)), math.ceil(sum(sizes.values()) / room))
    while True:
        windows = _windows(list(layers), count)
        peak = max(sum(sizes[layer] for layer in window) for window in windows)
        if peak <= room:
            break
        count += 1
    return replace(
        base,
        windows=tuple(tuple(m for layer in window for m in layers[layer]) for window in windows),
        scores=peak,
    )


def _plan_certified(layout: Layout, base: ScorePlan, share: float, reason: str) -> ScorePlan:
    """Room for as many candidates as are likely, or as fit."""
    matrices = base.windows[0]
    likely = _likely_candidates(layout, matrices, share)
    room = base.budget - base.total - _certified_bytes(layout, matrices, 0)
    candidates = min(likely, room // BYTES_EACH)
    # Every weight that is taken has to be one, and others beside it.
    least = math.ceil(min(1.0, 2 * share) * _numel(layout, matrices))
    if candidates < least:
        needed = base.total + _certified_bytes(layout, matrices, least)
        raise ResourceError(
            f"the certified mode needs about {format_size(needed)}, "
            f"the limit is {format_size(base.budget)}",
            hint="raise --max-memory, lower --p, --q or --batch-tokens, or use a smaller --dtype",
        )
    scores = _certified_bytes(layout, matrices, candidates)
    return replace(base, scores=scores, candidates=candidates, reason=reason)


def _likely_candidates(layout: Layout, matrices: Sequence[MatrixId], share: float) -> int:
    """Candidates that a share of top weights is likely to need, measured on SmolLM2."""
    numel = _numel(layout, matrices)
    return min(numel, math.ceil((0.004 + 1500 * share) * numel) + 128 * len(matrices))


def _certified_bytes(layout: Layout, matrices: Sequence[MatrixId], candidates: int) -> int:
    sides = sum(4 * sum(layout.shape(matrix)) for matrix in matrices)
    return sides + BYTES_EACH * candidates


def _numel(layout: Layout, matrices: Sequence[MatrixId]) -> int:
    return sum(math.prod(layout.shape(matrix)) for matrix in matrices)


def _layers(matrices: Sequence[MatrixId]) -> dict[tuple[str, int], list[MatrixId]]:
    layers: dict[tuple[str, int], list[MatrixId]] = {}
    for matrix in matrices:
        layers.setdefault((matrix.stack, matrix.layer), []).append(matrix)
    return layers


def _windows(layers: list[tuple[str, int]], count: int) -> list[list[tuple[str, int]]]:
    size = math.ceil(len(layers) / count)
    return [layers[i : i + size] for i in range(0, len(layers), size)]


def _score_bytes(layout: Layout, matrices: Sequence[MatrixId]) -> int:
    """Float32 buffers of the tensors that hold the matrices; fused ones count once."""
    slots = {slot.names[0]: slot for slot in map(layout.memory, matrices)}
    return sum(4 * math.prod(slot.stored_shape) for slot in slots.values())


def _activation_bytes(layout: Layout, tokens: int, item_size: int) -> int:
    """Estimate what a batch's forward and backward pass holds.

    Autograd keeps about 12 hidden and 5 MLP vectors a layer and token; the loss makes a little
    more than three float32 rows of logits for each token that is predicted.
    """
    sizes = layout.signature.dimensions
    layer = 12 * sizes["hidden"] + 5 * sizes["intermediate"]
    logits = 13 * sizes["vocabulary"]
    return tokens * (sizes["layers"] * layer * item_size + logits)
