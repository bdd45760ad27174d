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

from neuropatch.attribution.run import Wanted
from neuropatch.attribution.selection import SCOPES, IndexSets, amount_of, parse_amount
from neuropatch.errors import SelectionError, UsageError
from neuropatch.methods._base import GENERAL, Given, Inputs, Localization, Method
from neuropatch.methods._edits import Edit, weight_edits
from neuropatch.methods._metadata import patch_metadata
from neuropatch.methods._weights import coupled_sets, top_snip_weights, weight_groups
from neuropatch.models.coordinates import parse_target
from neuropatch.models.layout import Layout
from neuropatch.patch.patch import NeuronPatch


@dataclass(frozen=True)
class SpinConfig:
    """SPIN's parameters.

    Attributes:
        p: Amount of weights that the general set protects: a fraction, or a count from 1 up.
        q: Amount of weights taken of each conflicting set, likewise.
        target: Roles: ``mlp`` (the paper's), ``attn``, ``all``, or role names.
        scope: Within what amounts are counted: ``matrix`` (the paper's), ``layer`` or ``model``.
        edit: What is done to the weights: ``zero`` (the paper's), ``scale`` or ``noise``.
        strength: How strongly, see :class:`neuropatch.methods._edits.Edit`.

    Raises:
        UsageError: If a parameter is out of range.
    """

    p: float = 5e-7
    q: float = 5e-7
    target: str = "mlp"
    scope: str = "matrix"
    edit: str = "zero"
    strength: float | None = None

    def __post_init__(self) -> None:
        parse_amount("--p", self.p)
        parse_amount("--q", self.q)
        parse_target(self.target)
        if self.scope not in SCOPES:
            raise UsageError(f"unknown scope '{self.scope}'", hint=f"choose {', '.join(SCOPES)}")
        self.what().check_weights()

    def what(self) -> Edit:
        """The edit."""
        return Edit(self.edit, self.strength)


def localize(inputs: Inputs, config: SpinConfig) -> Localization:
    """Find the coupled weights and make the patch that edits them.

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
    parameters = {**asdict(config), "conflicting": list(inputs.datasets)}
    metadata = patch_metadata(inputs, METHOD, parameters)
    sets = top_snip_weights(inputs, wanted, matrices, config.scope, metadata)
    protected = sets.pop(GENERAL)
    coupled = coupled_sets(sets, protected)
    statistics = _statistics(sets, protected, coupled)
    if not coupled:
        raise _nothing_left(statistics)
    edits = weight_edits(inputs, coupled, config.what())
    return Localization(NeuronPatch(metadata, edits), tuple(notes), statistics)


def _empty_selections(layout: Layout, config: SpinConfig) -> list[str]:
    """Sentences on groups of which an amount is no weight at all.

    Raises:
        SelectionError: If that holds for every group, so that nothing can be selected.
    """
    matrices = layout.matrices(parse_target(config.target))
    sizes = [size for _, size in weight_groups(layout, matrices, config.scope)]
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
    processes="samples",
    splits=lambda config: True,
    resumes=lambda config: True,
)
