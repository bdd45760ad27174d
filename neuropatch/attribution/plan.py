"""How a model's scores are computed within a memory budget: whole, in windows, or certified."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from neuropatch.attribution.candidates import BYTES_EACH
from neuropatch.attribution.footprint import footprint
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
        reason: Why this way, as a clause.
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
    def fits(self) -> bool:
        """Whether the budget is enough."""
        return self.total <= self.budget

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


@dataclass(frozen=True)
class Ways:
    """The ways to keep a model's scores, whether they fit or not.

    Attributes:
        full: All scores at once.
        windows: As few windows of layers as fit, but at least two; one a layer if none fit.
        certified: Room for as many candidates as are likely, or as fit, or as it cannot do without.
        likely: Candidates that are likely.
    """

    full: ScorePlan
    windows: ScorePlan
    certified: ScorePlan
    likely: int


def plan_scores(
    layout: Layout,
    matrices: Sequence[MatrixId],
    *,
    weights: int,
    batch_tokens: int,
    item_size: int,
    budget: int,
    labels: int | None = None,
    config: Mapping[str, Any] | None = None,
    on_cpu: bool = True,
    mode: str = "auto",
    share: float = 1.0,
    obstacle: UsageError | None = None,
    shards: int = 1,
) -> ScorePlan:
    """Choose how scores are kept.

    All at once if that fits. If not, the certified mode takes about one pass, windows of layers
    take as many as there are; but the more weights are taken, the more candidates there are.

    Args:
        layout: The model's layout.
        matrices: The matrices to score, in canonical order.
        weights: Bytes of the model's parameters.
        batch_tokens: Tokens of the largest batch.
        item_size: Bytes of one activation value.
        budget: Bytes that the whole run may take, weights included.
        labels: Most tokens that a batch predicts; None for all of them.
        config: The model's ``config.json`` document, which says what its layout does not: how many
            experts a token passes. Without it a token may pass all of them.
        on_cpu: Whether the model runs on a CPU.
        mode: One of :data:`MODES`.
        share: Largest share of a group's weights that is taken.
        obstacle: Why there can be no certified mode, or None.
        shards: Processes that hold a part of every matrix each.

    Raises:
        UsageError: If the mode is unknown, or cannot be had.
        ResourceError: If not even one layer at a time fits.
    """
    token = footprint(layout, matrices, config or {}, item_size=item_size, on_cpu=on_cpu)
    activations = token.bytes(batch_tokens, batch_tokens if labels is None else labels)
    base = ScorePlan((tuple(matrices),), weights, 0, activations, budget)
    ways = plan_ways(layout, base, share, shards=shards)
    return choose(ways, mode=mode, share=share, obstacle=obstacle)


def plan_ways(layout: Layout, base: ScorePlan, share: float, *, shards: int = 1) -> Ways:
    """The ways to keep the scores of a model.

    Args:
        layout: The model's layout.
        base: One window of all matrices, with all that takes memory but scores.
        share: Largest share of a group's weights that is taken.
        shards: Processes that hold a part of every matrix each.
    """
    matrices = base.windows[0]
    shapes = [layout.shape(matrix) for matrix in matrices]
    numel = sum(map(math.prod, shapes)) // shards
    sides = sum(4 * sum(shape) for shape in shapes) // shards
    layers = _layers(matrices)
    sizes = {layer: _score_bytes(layout, group) // shards for layer, group in layers.items()}
    likely = _likely_candidates(numel, len(matrices), share)
    # Every weight that is taken has to be one, and others beside it.
    least = math.ceil(min(1.0, 2 * share) * numel)
    room = (base.budget - base.total - sides) // BYTES_EACH
    candidates = max(least, min(likely, room))
    return Ways(
        full=replace(base, scores=sum(sizes.values())),
        windows=_plan_windows(base, layers, sizes),
        certified=replace(base, scores=sides + BYTES_EACH * candidates, candidates=candidates),
        likely=likely,
    )


def choose(
    ways: Ways, *, mode: str = "auto", share: float = 1.0, obstacle: UsageError | None = None
) -> ScorePlan:
    """The way that is taken.

    Args:
        ways: The ways that there are.
        mode: One of :data:`MODES`.
        share: Largest share of a group's weights that is taken.
        obstacle: Why there can be no certified mode, or None.

    Raises:
        UsageError: If the mode is unknown, or cannot be had.
        ResourceError: If it does not fit; in the mode ``auto``, if none does.
    """
    if mode not in MODES:
        raise UsageError(
            f"unknown --memory '{mode}'",
            hint=f"choose {', '.join(MODES)}; a limit is given with --max-memory",
        )
    if mode == "certified":
        if obstacle is not None:
            raise obstacle
        return _fitting(replace(ways.certified, reason="as asked"))
    if mode in ("full", "windows"):
        return _fitting(replace(getattr(ways, mode), reason="as asked"))
    if ways.full.fits:
        return replace(ways.full, reason="because scores of all layers fit")
    certified, reason = _certified_instead(ways, share, obstacle)
    if certified is not None:
        return _fitting(replace(certified, reason=reason))
    return _fitting(replace(ways.windows, reason=reason))


def _certified_instead(
    ways: Ways, share: float, obstacle: UsageError | None
) -> tuple[ScorePlan | None, str]:
    """The certified mode where it serves better than windows of layers, or None; and why."""
    no_full = "because scores of all layers do not fit"
    if obstacle is not None:
        return None, f"{no_full}, and {obstacle.message}"
    if share > MODEST_SHARE:
        return None, f"{no_full}, and {share:.2g} of the weights are too many for certified ones"
    if not ways.windows.fits:
        return ways.certified, "because not even the scores of one layer fit"
    if not ways.certified.fits or ways.certified.candidates < ways.likely:
        return None, f"{no_full}, nor do as many candidates as certified ones are likely to need"
    count = len(ways.windows.windows)
    return ways.certified, f"{no_full}, and {count} windows of layers take longer"


def _fitting(plan: ScorePlan) -> ScorePlan:
    """A plan that fits.

    Raises:
        ResourceError: If it does not.
    """
    if plan.fits:
        return plan
    needs = f"about {format_size(plan.total)}, the limit is {format_size(plan.budget)}"
    if plan.mode == "certified":
        raise ResourceError(
            f"the certified mode needs {needs}",
            hint="raise --max-memory, lower --p, --q or --batch-tokens, or use a smaller --dtype",
        )
    if plan.mode == "full":
        raise ResourceError(
            f"scores of all layers need {needs}",
            hint="use --memory auto, or raise --max-memory",
        )
    raise ResourceError(
        f"scoring one layer at a time needs {needs}",
        hint="raise --max-memory, lower --batch-tokens, or use a smaller --dtype",
    )


_Layers = dict[tuple[str, int], list[MatrixId]]


def _plan_windows(
    base: ScorePlan, layers: _Layers, sizes: Mapping[tuple[str, int], int]
) -> ScorePlan:
    """As few windows of layers as fit, at the least two, or one a layer if none fit."""
    room = max(base.budget - base.total, max(sizes.values()))
    # Windows of equal size: the peak is lower than with one full window and a rest.
    count = max(min(2, len(layers)), math.ceil(sum(sizes.values()) / room))
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


def _likely_candidates(numel: int, matrices: int, share: float) -> int:
    """Candidates that a share of top weights is likely to need, measured on SmolLM2."""
    return min(numel, math.ceil((0.004 + 1500 * share) * numel) + 128 * matrices)


def _layers(matrices: Sequence[MatrixId]) -> _Layers:
    layers: _Layers = {}
    for matrix in matrices:
        layers.setdefault((matrix.stack, matrix.layer), []).append(matrix)
    return layers


def _windows(layers: list[tuple[str, int]], count: int) -> list[list[tuple[str, int]]]:
    size = math.ceil(len(layers) / count)
    return [layers[i : i + size] for i in range(0, len(layers), size)]


def _score_bytes(layout: Layout, matrices: Sequence[MatrixId]) -> int:
    """Float32 buffers of the tensors that hold the matrices; fused and stacked ones count once."""
    found: dict[str, int] = {}
    stacked: set[str] = set()
    for matrix in matrices:
        # Mixtures have tens of thousands of experts: one speaks for all that are in its tensor.
        if matrix.expert > 0 and matrix.role in stacked:
            continue
        slot = layout.memory(matrix)
        if slot.expert is not None:
            stacked.add(matrix.role)
        found[slot.names[0]] = 4 * math.prod(slot.stored_shape)
    return sum(found.values())
