"""SPIN: suppress the weights that conflicting data sets share and general ability does not need.

Source: arXiv 2410.16672 (first version: DEAN), ACL 2025. With ``L(x)`` the mean negative log
likelihood of a sample's response tokens given its prompt,

    I(W_ij; D) = mean over samples x in D of | W_ij * dL(x)/dW_ij |            (the SNIP score)

In every matrix (or layer, or the model: ``scope``), ``T_g`` are the top ``floor(p * numel)``
weights by the score on the general set, and ``T_1, T_2, ...`` the top ``floor(q * numel)`` by the
scores on the conflicting sets. The weights of ``(T_1 and T_2 and ...) minus T_g`` become 0.

Where the paper and its released code differ, this follows the paper: the released code compares
masks ordered by two different sorted lists, which is not the intersection of the two sets of
weights, and it drops the response's first token where the tokenizer adds no BOS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuropatch.attribution.certified import obstacle
from neuropatch.attribution.certified_run import CertifiedRun
from neuropatch.attribution.memory import available_memory
from neuropatch.attribution.plan import ScorePlan, plan_scores
from neuropatch.attribution.run import TopWeightsRun, Wanted
from neuropatch.attribution.selection import SCOPES, IndexSets, amount_of, parse_amount
from neuropatch.attribution.state import RunState, fingerprint_of, fingerprint_of_weights
from neuropatch.errors import SelectionError, UsageError
from neuropatch.methods._base import GENERAL, Given, Inputs, Limits, Localization, Method
from neuropatch.methods._metadata import patch_metadata
from neuropatch.models.coordinates import MatrixId, parse_target
from neuropatch.models.layout import Layout
from neuropatch.models.modules import resolve_parameters
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.patch.runtime import to_numpy


@dataclass(frozen=True)
class SpinConfig:
    """SPIN's parameters.

    Attributes:
        p: Amount of weights that the general set protects: a fraction, or a count from 1 up.
        q: Amount of weights taken of each conflicting set, likewise.
        target: Roles: ``mlp`` (the paper's), ``attn``, ``all``, or role names.
        scope: Within what amounts are counted: ``matrix`` (the paper's), ``layer`` or ``model``.

    Raises:
        UsageError: If a parameter is out of range.
    """

    p: float = 5e-7
    q: float = 5e-7
    target: str = "mlp"
    scope: str = "matrix"

    def __post_init__(self) -> None:
        parse_amount("--p", self.p)
        parse_amount("--q", self.q)
        parse_target(self.target)
        if self.scope not in SCOPES:
            raise UsageError(f"unknown scope '{self.scope}'", hint=f"choose {', '.join(SCOPES)}")


def localize(inputs: Inputs, config: SpinConfig) -> Localization:
    """Find the coupled weights and make the patch that zeroes them.

    Args:
        inputs: At least two conflicting data sets and a general one.
        config: SPIN's parameters.

    Raises:
        UsageError: If a data set is missing.
        SelectionError: If no weight is selected.
        ResourceError: If the scores do not fit the memory.
    """
    general = inputs.general
    layout = inputs.layout
    notes = _check(layout, Given(tuple(inputs.datasets), general is not None), config)
    assert general is not None  # what _check refuses
    matrices = layout.matrices(parse_target(config.target))
    wanted = {name: Wanted(corpus.samples, config.q) for name, corpus in inputs.datasets.items()}
    wanted[GENERAL] = Wanted(general.samples, config.p)
    plan = _plan(inputs.model, layout, matrices, inputs.limits, _largest_share(layout, config))
    inputs.note(f"plan: {plan.sentence()}")
    parameters = {**asdict(config), "conflicting": list(inputs.datasets)}
    metadata = patch_metadata(inputs, METHOD, parameters)
    run = (CertifiedRun if plan.candidates else TopWeightsRun)(
        inputs.model,
        layout,
        wanted,
        scope=config.scope,
        plan=plan,
        batch_tokens=inputs.limits.batch_tokens,
        state=_state(inputs, metadata, plan),
        progress=inputs.progress,
    )
    sets = run.run()
    if isinstance(run, CertifiedRun):
        for name, cost in run.costs.items():
            inputs.note(f"{name}: {cost.sentence()}")
    protected = sets.pop(GENERAL)
    coupled = coupled_sets(sets, protected)
    statistics = _statistics(sets, protected, coupled)
    if not coupled:
        raise _nothing_left(statistics)
    edits = tuple(_zero(inputs.model, layout, matrix, flat) for matrix, flat in coupled.items())
    return Localization(NeuronPatch(metadata, edits), tuple(notes), statistics)


def coupled_sets(conflicting: Mapping[str, IndexSets], general: IndexSets) -> IndexSets:
    """SPIN's coupled weights: in every conflicting set, and not in the general one.

    Args:
        conflicting: Top weights of each conflicting data set.
        general: Top weights of the general data set.
    """
    none: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    first, *rest = conflicting.values()
    coupled: IndexSets = {}
    for matrix, chosen in first.items():
        for other in rest:
            chosen = np.intersect1d(chosen, other.get(matrix, none), assume_unique=True)
        chosen = np.setdiff1d(chosen, general.get(matrix, none), assume_unique=True)
        if len(chosen):
            coupled[matrix] = chosen
    return coupled


def _empty_selections(layout: Layout, config: SpinConfig) -> list[str]:
    """Sentences on groups of which an amount is no weight at all.

    Raises:
        SelectionError: If that holds for every group, so that nothing can be selected.
    """
    sizes = _group_sizes(layout, config)
    notes = []
    for option, amount in (("--q", config.q), ("--p", config.p)):
        if amount >= max(sizes):
            raise UsageError(
                f"{option} {amount:g} takes all {max(sizes):,} weights of a {config.scope}",
                hint="give a fraction between 0 and 1, or a smaller count",
            )
        empty = sum(amount_of(amount, size) == 0 for size in sizes)
        if not empty:
            continue
        if empty == len(sizes) and option == "--q":
            raise SelectionError(
                f"{option} {amount:g} selects no weight: of the {max(sizes):,} weights "
                f"of the largest {config.scope} that fraction is less than one",
                hint=f"use {option} {math.ceil(1e8 / min(sizes)) / 1e8:.1e} or more, "
                f"a count such as {option} 10, or --scope model",
            )
        what = "takes no weight from" if option == "--q" else "protects no weight in"
        notes.append(f"{option} {amount:g} {what} {empty} of {len(sizes)} ({config.scope} scope)")
    return notes


def _check(layout: Layout, given: Given, config: SpinConfig) -> list[str]:
    """Refuse what cannot work; returns sentences on what will be left out."""
    if len(given.datasets) < 2 or not given.general:
        raise UsageError(
            "spin compares data sets that conflict",
            hint="give at least two --dataset NAME=FILE, and --general FILE",
        )
    if GENERAL in given.datasets:
        raise UsageError(
            f"a conflicting data set cannot be called '{GENERAL}'", hint="choose another NAME"
        )
    return _empty_selections(layout, config)


def _group_sizes(layout: Layout, config: SpinConfig) -> list[int]:
    """Numbers of weights of the groups within which amounts are counted."""
    sizes: dict[Any, int] = {}
    for matrix in layout.matrices(parse_target(config.target)):
        group = {"matrix": matrix, "layer": matrix[:2], "model": None}[config.scope]
        sizes[group] = sizes.get(group, 0) + math.prod(layout.shape(matrix))
    return list(sizes.values())


def _largest_share(layout: Layout, config: SpinConfig) -> float:
    """The largest share of a group's weights that is taken."""
    sizes = _group_sizes(layout, config)
    return max(amount_of(a, size) / size for size in sizes for a in (config.p, config.q))


def _plan(
    model: nn.Module, layout: Layout, matrices: list[MatrixId], limits: Limits, share: float
) -> ScorePlan:
    parameters = list(model.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters)
    budget = limits.memory
    if budget is None:
        device = parameters[0].device
        if device.type == "cuda":
            budget = torch.cuda.mem_get_info(device)[0] + weights
        else:
            budget = available_memory() + weights
    return plan_scores(
        layout,
        matrices,
        weights=weights,
        batch_tokens=limits.batch_tokens,
        item_size=parameters[0].element_size(),
        budget=budget,
        mode=limits.mode,
        share=share,
        obstacle=obstacle(parameters[0].dtype),
    )


def _state(inputs: Inputs, metadata: PatchMetadata, plan: ScorePlan) -> RunState | None:
    if inputs.limits.resume is None:
        return None
    run = {
        **metadata.to_json(),
        "mode": plan.mode,
        "windows": [len(window) for window in plan.windows],
        "weights": fingerprint_of_weights(inputs.model),
    }
    return RunState(inputs.limits.resume, fingerprint_of(run))


def _zero(
    model: nn.Module, layout: Layout, matrix: MatrixId, flat: NDArray[np.int64]
) -> WeightEdit:
    width = layout.shape(matrix)[1]
    rows, columns = flat // width, flat % width
    slot = resolve_parameters(model, layout, [matrix])[0]
    weight = slot.weight()[torch.from_numpy(rows), torch.from_numpy(columns)]
    return WeightEdit.build(matrix, "zero", rows, columns, to_numpy(weight))


def _nothing_left(statistics: Mapping[str, Any]) -> SelectionError:
    shared = statistics["shared"]
    if not shared:
        return SelectionError(
            "no weight is left: the data sets share none of their top weights",
            hint="raise --q, or use --scope model",
        )
    return SelectionError(
        f"no weight is left: the data sets share {shared} of their top weights, and the general "
        "set protects all of them",
        hint="raise --q or lower --p",
    )


def _statistics(
    sets: Mapping[str, IndexSets], protected: IndexSets, coupled: IndexSets
) -> dict[str, Any]:
    shared = coupled_sets(sets, {})

    def count(one: IndexSets) -> int:
        return sum(len(index) for index in one.values())

    return {
        "selected": {name: count(one) for name, one in sets.items()},
        "protected": count(protected),
        "shared": count(shared),
        "edited": count(coupled),
        "matrices": len(coupled),
    }


METHOD = Method(
    name="spin",
    summary="suppress the weights that conflicting data sets share and general ability does not "
    "need",
    paper="arXiv 2410.16672",
    granularity="weights",
    config=SpinConfig,
    needs=frozenset({"datasets", "general"}),
    takes=frozenset(),
    check=_check,
    run=localize,
)
