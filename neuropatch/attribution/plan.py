"""How a model's scores are computed within a memory budget: whole, or in windows of layers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuropatch.errors import ResourceError, UsageError
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
    "K": 2**10,
    "M": 2**20,
    "G": 2**30,
}


def parse_size(text: str) -> int:
    """Bytes from a size such as ``8GB``, ``512MiB`` or ``1073741824``.

    Raises:
        UsageError: If the text is not a positive size.
    """
    number = text.strip().upper().rstrip("BKMGTI")
    unit = text.strip().upper()[len(number) :]
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise UsageError(f"'{text}' is not a size", hint="write for example 8GB or 512MiB")
    return size


def format_size(size: float) -> str:
    """A size for people, in decimal units: ``538 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def available_memory() -> int:
    """Bytes of main memory that a process can take now without swapping."""
    with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123  # not a real file
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
        return self.weights + self.scores + self.activations

    def sentence(self) -> str:
        """The plan in words."""
        layers = len(self.windows)
        how = "all layers in one pass" if layers == 1 else f"{layers} windows of layers"
        return (
            f"{how} over each data set; about {format_size(self.total)} of memory: "
            f"{format_size(self.weights)} weights, {format_size(self.scores)} scores, "
            f"{format_size(self.activations)} for a batch (limit {format_size(self.budget)})"
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
    room = budget - weights - activations
    largest = max(sizes.values())
    if largest > room:
        needed = weights + activations + largest
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

    Autograd keeps about 12 hidden and 5 MLP vectors a layer and token; the loss makes three
    float32 rows of logits for each token.
    """
    sizes = layout.signature.dimensions
    layer = 12 * sizes["hidden"] + 5 * sizes["intermediate"]
    logits = 3 * 4 * sizes["vocabulary"]
    return tokens * (sizes["layers"] * layer * item_size + logits)
