"""How a model's scores are computed within a memory budget: whole, or in windows of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuropatch.attribution.memory import format_size
from neuropatch.errors import ResourceError
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout

PROCESS_BYTES = 400_000_000
"""Python, torch, transformers and the kernels' workspaces: measured with torch 2.13 on a CPU."""


@dataclass(frozen=True)
class ScorePlan:
    """How scores will be computed, and the memory that takes in bytes.

    Attributes:
        windows: Matrices scored together, a run of layers each; every window is one pass over
            every data set.
        weights: The model's parameters.
        scores: Score buffers of the largest window.
        activations: Estimate of what a batch's forward and backward pass holds.
        budget: What the plan may take.
    """

    windows: tuple[tuple[MatrixId, ...], ...]
    weights: int
    scores: int
    activations: int
    budget: int

    @property
    def total(self) -> int:
        """Estimated peak."""
        return PROCESS_BYTES + self.weights + self.scores + self.activations

    def sentence(self) -> str:
        """The plan in words."""
        layers = len(self.windows)
        how = "all layers in one pass" if layers == 1 else f"{layers} windows of layers"
        return (
            f"{how} over each data set; about {format_size(self.total)} of memory: "
            f"{format_size(PROCESS_BYTES)} program, {format_size(self.weights)} weights, "
            f"{format_size(self.scores)} scores, {format_size(self.activations)} for a batch "
            f"(limit {format_size(self.budget)})"
        )

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON document."""
        return {
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
) -> ScorePlan:
    """Divide the layers of ``matrices`` into as few windows as fit ``budget``.

    Args:
        layout: The model's layout.
        matrices: The matrices to score, in canonical order.
        weights: Bytes of the model's parameters, already in memory.
        batch_tokens: Tokens of a batch.
        item_size: Bytes of one activation value.
        budget: Bytes that the whole run may take, weights included.

    Raises:
        ResourceError: If not even one layer at a time fits.
    """
    layers: dict[tuple[str, int], list[MatrixId]] = {}
    for matrix in matrices:
        layers.setdefault((matrix.stack, matrix.layer), []).append(matrix)
    sizes = {layer: _score_bytes(layout, group) for layer, group in layers.items()}
    activations = _activation_bytes(layout, batch_tokens, item_size)
    fixed = PROCESS_BYTES + weights + activations
    room = budget - fixed
    largest = max(sizes.values())
    if largest > room:
        needed = fixed + largest
        raise ResourceError(
            f"scoring one layer at a time needs about {format_size(needed)}, "
            f"the limit is {format_size(budget)}",
            hint="raise --max-memory, lower --batch-tokens, or use a smaller --dtype",
        )
    # Windows of equal size: the peak is lower than with one full window and a rest.
    count = math.ceil(sum(sizes.values()) / room)
    while True:
        windows = _windows(list(layers), count)
        peak = max(sum(sizes[layer] for layer in window) for window in windows)
        if peak <= room:
            break
        count += 1
    return ScorePlan(
        windows=tuple(tuple(m for layer in window for m in layers[layer]) for window in windows),
        weights=weights,
        scores=peak,
        activations=activations,
        budget=budget,
    )


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
