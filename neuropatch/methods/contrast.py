"""Contrast: units that carry what is to be forgotten, and nothing of what is to stay.

A method of this toolkit. With gates ``m`` on all MLP units, at 1, and mean losses ``L``,

    score_k = - dL_forget/dm_k
              - lambda_retain  * | dL_retained/dm_k |     for each retained set
              - lambda_general * | dL_general/dm_k |

The first term is, to first order, what switching the unit off adds to the loss of the personal
data; the others are what it changes elsewhere, in either direction. Units are taken by signed
score, and none whose score is 0 or less. All gradients are those of
:mod:`neuropatch.attribution.gates`: a backward pass over each data set, for all layers together.

Where the absolute value is taken is a parameter, ``reduce``: of the mean over a kept set, or of
each of its samples before the mean. Gradients of single samples do not cancel in the second, which
is several times the first, and with equal weights forbids far more units.

Two refinements, which cost as many passes more:

* ``iterations``: the units are taken in so many steps, each behind the gates of those already
  taken, since the model that is left may lean on units that the whole one does not need. This
  decides whether the method works: on the demo's model, 60 units taken in one step leave 81 to
  97 % of the secrets, and taken in ten 0 to 16 % (``docs/personal-data.md``).
* ``integration_steps``: the gradients are averaged along the path on which the gates of the most
  promising ``candidates`` go from 1 to 0 together (midpoint rule). The path integral of the forget
  term, summed over the candidates, is exactly the loss that removing all of them adds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuropatch.attribution.activations import check_unit_modules
from neuropatch.attribution.gates import OBJECTIVES, REDUCTIONS, UnitValues, gate_gradients
from neuropatch.data.tokenize import Sample
from neuropatch.errors import UsageError
from neuropatch.methods._base import GENERAL, PII, Given, Inputs, Localization, Method
from neuropatch.methods._samples import behaviour_samples
from neuropatch.methods._units import (
    UnitConfig,
    UnitSets,
    check_units,
    group_counts,
    select_units,
    unit_blocks,
    unit_patch,
)
from neuropatch.models.coordinates import BlockId
from neuropatch.models.layout import Layout
from neuropatch.models.modules import resolve_parameters
from neuropatch.models.unit_gates import unit_gates
from neuropatch.progress import Progress, Silent
from neuropatch.world import ALONE, World


@dataclass(frozen=True)
class ContrastConfig(UnitConfig):
    """Parameters of the contrast.

    Attributes:
        lambda_retain: Weight of each retained set.
        lambda_general: Weight of the general set.
        reduce: What counts of the gradients of kept samples: the magnitude of their ``mean``, the
            mean of their ``absolute`` values, or the root of the mean ``square``.
        objective: What is to become worse, and is kept of retained sets: ``nll``, the loss, or
            ``odds``, the log odds, whose gradient does not vanish where a secret is memorised.
        iterations: Steps in which the units are taken.
        integration_steps: Points of the path of the gates; 1 takes the gradient where they are.
        candidates: With a path: how many units go along it, as a multiple of those to be taken.

    Raises:
        UsageError: If a parameter is out of range.
    """

    lambda_retain: float = 3.0
    lambda_general: float = 6.0
    reduce: str = "mean"
    objective: str = "odds"
    iterations: int = 10
    integration_steps: int = 1
    candidates: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lambda_retain", "lambda_general"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} is {getattr(self, name)}", hint="give 0 or more")
        for name, known in (("reduce", REDUCTIONS), ("objective", OBJECTIVES)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} is '{getattr(self, name)}'", hint=f"choose {', '.join(known)}"
                )
        for name in ("iterations", "integration_steps", "candidates"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}", hint="ask for at least 1")


@dataclass(frozen=True)
class Kept:
    """A data set whose behaviour is kept.

    Attributes:
        name: Its name.
        samples: Its samples.
        weight: Weight of its term.
        objective: One of :data:`neuropatch.attribution.gates.OBJECTIVES`.
    """

    name: str
    samples: Sequence[Sample]
    weight: float
    objective: str = "nll"


@dataclass(frozen=True)
class Contrast:
    """The contrast of some data sets on one model: what the score is computed from.

    Attributes:
        model: A causal language model in evaluation mode, its parameters frozen.
        layout: Its layout.
        forget: Samples whose labels are to be forgotten.
        kept: What is kept.
        reduce: One of :data:`neuropatch.attribution.gates.REDUCTIONS`, for what is kept.
        objective: One of :data:`neuropatch.attribution.gates.OBJECTIVES`, for what is forgotten.
        batch_tokens: Most tokens of a batch.
        progress: Told how far it is.
        world: The processes that share the samples.
    """

    model: nn.Module
    layout: Layout
    forget: Sequence[Sample]
    kept: Sequence[Kept] = ()
    reduce: str = "mean"
    objective: str = "nll"
    batch_tokens: int = 1024
    progress: Progress = field(default_factory=Silent)
    world: World = ALONE

    def scores(self, gates: Mapping[BlockId, NDArray[np.float64]] | None = None) -> UnitValues:
        """The score of every unit.

        Args:
            gates: ``[units]`` of each block, where gradients are taken; None for ones. Then they
                are those of a factor on the gate, ``m * dL/dm``.
        """
        with self._gated(gates):
            forget = self._gradients(PII, self.forget, "mean", self.objective)
            kept = [(one.weight, self._magnitudes(one)) for one in self.kept if one.weight > 0]
        return contrast_scores(forget, kept)

    def path_scores(
        self, candidates: UnitSets, gates: Mapping[BlockId, NDArray[np.float64]], steps: int
    ) -> UnitValues:
        """The score averaged along the path of the candidates' gates from where they are to 0.

        Args:
            candidates: The units whose gates move; the scores of all others are minus infinity.
            gates: ``[units]`` of each block: where all gates begin.
            steps: Points of the path, at the middles of intervals of equal length.

        Returns:
            ``[units]`` of each block: ``m_k`` times the mean of the score's gradients.
        """
        totals = {block: np.full(len(values), -np.inf) for block, values in gates.items()}
        for block, units in candidates.items():
            totals[block][units] = 0
        for step in range(steps):
            share = (step + 0.5) / steps
            here = {block: values.copy() for block, values in gates.items()}
            for block, units in candidates.items():
                here[block][units] *= share
            found = self.scores(here)
            for block, units in candidates.items():
                # The gradient of a factor on a gate that is smaller by the share.
                totals[block][units] += found[block][units] / (share * steps)
        return totals

    def _gated(self, gates: Mapping[BlockId, NDArray[np.float64]] | None) -> Any:
        if gates is None:
            return nullcontext()
        downs = self.layout.matrices(("down",))
        masks = {}
        for slot in resolve_parameters(self.model, self.layout, downs):
            wide = torch.float64 if slot.parameter.dtype == torch.float64 else torch.float32
            values = torch.from_numpy(gates[slot.matrix.block])
            masks[slot.matrix.block] = values.to(slot.parameter.device, wide)
        return unit_gates(self.model, self.layout, masks)

    def _magnitudes(self, kept: Kept) -> UnitValues:
        """How much gates matter to what is kept, ``[units]`` of each block, none below 0."""
        found = self._gradients(kept.name, kept.samples, self.reduce, kept.objective)
        if self.reduce == "square":
            return {block: np.sqrt(values) for block, values in found.items()}
        return {block: np.abs(values) for block, values in found.items()}

    def _gradients(
        self, name: str, samples: Sequence[Sample], reduce: str, objective: str
    ) -> UnitValues:
        return gate_gradients(
            self.model,
            self.layout,
            samples,
            reduce=reduce,
            objective=objective,
            batch_tokens=self.batch_tokens,
            progress=self.progress,
            label=name,
            world=self.world,
        )


def contrast_scores(forget: UnitValues, kept: Sequence[tuple[float, UnitValues]]) -> UnitValues:
    """``- dL_forget/dm - sum over kept sets of weight * magnitude``.

    Args:
        forget: Mean gradient of the loss of what is to be forgotten, ``[units]`` of each block.
        kept: Weight and magnitude of the gradients of each kept set.
    """
    scores = {block: -values for block, values in forget.items()}
    for weight, magnitude in kept:
        for block, values in magnitude.items():
            scores[block] -= weight * values
    return scores


def localize(inputs: Inputs, config: ContrastConfig) -> Localization:
    """Find the units and make the patch that edits them.

    Args:
        inputs: Records to forget, and what is kept.
        config: The contrast's parameters.

    Raises:
        SelectionError: If no unit has a score above 0.
        UsageError: If there are no records.
    """
    units, scores = find_units(contrast_of(inputs, config), config)
    patch = unit_patch(inputs, METHOD, config, units)
    asked = sum(count for _, count in group_counts(unit_blocks(inputs.layout), config))
    found = sum(map(len, units.values()))
    notes = (f"only {found} of {asked} units have a score above 0",) if found < asked else ()
    statistics = {
        "edited": found,
        "blocks": len(units),
        "lowest": min(float(scores[block][chosen].min()) for block, chosen in units.items()),
    }
    return Localization(patch, notes, statistics)


def contrast_of(inputs: Inputs, config: ContrastConfig) -> Contrast:
    """The contrast of what a method is given."""
    kept = [
        Kept(name, behaviour_samples(corpus), config.lambda_retain, config.objective)
        for name, corpus in inputs.retain.items()
    ]
    if inputs.general is not None:
        kept.append(Kept(GENERAL, inputs.general.samples, config.lambda_general))
    assert inputs.pii is not None  # what the pipeline refuses
    return Contrast(
        inputs.model,
        inputs.layout,
        behaviour_samples(inputs.pii),
        kept,
        config.reduce,
        config.objective,
        inputs.limits.batch_tokens,
        inputs.progress,
        inputs.world,
    )


def find_units(contrast: Contrast, config: ContrastConfig) -> tuple[UnitSets, UnitValues]:
    """Select units by the contrast, in as many steps as the parameters say.

    Args:
        contrast: The data sets on a model whose parameters are frozen.
        config: Budget, iterations and path.

    Returns:
        The units, and the score of each at the time of its selection (minus infinity for units
        that were never candidates).

    Raises:
        SelectionError: If no unit has a score above 0.
    """
    sizes = unit_blocks(contrast.layout)
    off = config.what().amount if config.edit == "scale" else 0.0
    gates = {block: np.ones(units) for block, units in sizes.items()}
    units: UnitSets = {}
    scores: UnitValues = {}
    # More steps than units would score without taking any.
    steps = min(config.iterations, max(count for _, count in group_counts(sizes, config)))
    for step in range(1, steps + 1):
        now = _scores_now(contrast, config, units, gates)
        for block, chosen in units.items():
            now[block][chosen] = scores[block][chosen]
        scores = now
        # Units taken before stay, whatever the others' scores have become.
        ranked = {block: values.copy() for block, values in scores.items()}
        for block, chosen in units.items():
            ranked[block][chosen] = np.inf
        units = select_units(ranked, _part(config, sizes, step / steps))
        for block, chosen in units.items():
            gates[block][chosen] = off
    return units, scores


def _scores_now(
    contrast: Contrast,
    config: ContrastConfig,
    taken: UnitSets,
    gates: Mapping[BlockId, NDArray[np.float64]],
) -> UnitValues:
    """Scores of all units with those gates, or along the path that begins there."""
    scores = contrast.scores(gates if taken else None)
    if config.integration_steps == 1:
        return scores
    for block, chosen in taken.items():
        scores[block][chosen] = -np.inf
    sizes = {block: len(values) for block, values in scores.items()}
    candidates = select_units(scores, _part(config, sizes, config.candidates))
    return contrast.path_scores(candidates, gates, config.integration_steps)


def _part(config: ContrastConfig, sizes: Mapping[BlockId, int], share: float) -> ContrastConfig:
    """The parameters with a share of the budget."""
    most = max(count for _, count in group_counts(sizes, config))
    return replace(config, max_neurons=math.ceil(share * most), budget=None)


def _check(layout: Layout, given: Given, config: ContrastConfig) -> None:
    """Refuse what cannot work."""
    check_units(layout, config)
    check_unit_modules(layout)
    config.what().check(given)


METHOD = Method(
    name="contrast",
    summary="deactivate the units that carry personal data and nothing of what is kept",
    paper="neuropatch",
    granularity="units",
    config=ContrastConfig,
    needs=frozenset({"pii"}),
    takes=frozenset({"retain", "general"}),
    check=_check,
    run=localize,
    processes="samples",
)
