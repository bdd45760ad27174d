"""Wanda: weights, or units, by their size times the size of what passes through them.

Source: Sun et al., arXiv 2306.11695. With ``||x_j||_2`` the norm of input ``j`` of a linear layer
over all tokens of the records,

    weight: |W_ij| * ||x_j||_2        unit: sum over outputs i of |W_down_ik| * ||h_k||_2

the second being the sum of the scores of the unit's weights in the down projection. Wanda prunes
the lowest scores within each output; to find what carries the records, the highest ones are taken,
within each matrix, each layer or the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from neuropatch.attribution.activations import POSITIONS, Moments, input_moments
from neuropatch.attribution.gates import UnitValues
from neuropatch.attribution.selection import IndexSets, TopSelector
from neuropatch.attribution.tap import linear_module
from neuropatch.data.tokenize import Sample
from neuropatch.errors import UsageError
from neuropatch.methods._base import GENERAL, PII, Inputs, Localization, Method
from neuropatch.methods._samples import behaviour_samples
from neuropatch.methods._scored import (
    DataScoreConfig,
    check_scored,
    unit_localization,
    units_by_score,
    weight_localization,
)
from neuropatch.methods._weights import coupled_sets
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.modules import ParameterSlot, resolve_parameters


@dataclass(frozen=True)
class WandaConfig(DataScoreConfig):
    """Wanda's parameters.

    Attributes:
        positions: Which tokens count: ``all`` (the paper's), or those ``predicting`` personal data.

    Raises:
        UsageError: If a parameter is out of range.
    """

    positions: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in POSITIONS:
            raise UsageError(
                f"positions is '{self.positions}'", hint=f"choose {' or '.join(POSITIONS)}"
            )


def localize(inputs: Inputs, config: WandaConfig) -> Localization:
    """Find units or weights by Wanda's score.

    Raises:
        SelectionError: If nothing is left to edit.
    """
    if config.finds_units:
        units = units_by_score(
            inputs,
            config,
            lambda name, samples: _unit_scores(inputs, config, name, samples),
            key=(METHOD.name, config.positions),
            p=config.p,
        )
        return unit_localization(inputs, METHOD, config, units)
    assert inputs.pii is not None  # what the pipeline refuses
    top = _top_weights(inputs, config, PII, behaviour_samples(inputs.pii), config.amount)
    general: IndexSets = {}
    if inputs.general is not None:
        samples = inputs.general.samples
        general = _top_weights(inputs, config, GENERAL, samples, config.protected)
    return weight_localization(inputs, METHOD, config, coupled_sets({PII: top}, general))


def _unit_scores(
    inputs: Inputs, config: WandaConfig, name: str, samples: Sequence[Sample]
) -> UnitValues:
    slots = resolve_parameters(inputs.model, inputs.layout, inputs.layout.matrices(("down",)))
    moments = _moments(inputs, config, slots, name, samples)
    return {
        slot.matrix.block: (
            slot.weight().abs().sum(dim=0, dtype=torch.float64) * moments[slot.matrix].norm
        )
        .cpu()
        .numpy()
        for slot in slots
    }


def _top_weights(
    inputs: Inputs, config: WandaConfig, name: str, samples: Sequence[Sample], amount: float
) -> IndexSets:
    matrices = config.matrices(inputs.layout)
    slots = resolve_parameters(inputs.model, inputs.layout, matrices)
    moments = inputs.remember(
        (METHOD.name, config.positions, config.roles, name),
        lambda: _moments(inputs, config, slots, name, samples),
    )
    selector = TopSelector(inputs.layout, matrices, config.scope, amount)
    for slot in slots:
        weight = slot.weight()
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        norms = moments[slot.matrix].norm.to(wide)
        selector.add(slot.matrix, norms.expand(weight.shape), weight)
    return selector.result()


def _moments(
    inputs: Inputs,
    config: WandaConfig,
    slots: Sequence[ParameterSlot],
    name: str,
    samples: Sequence[Sample],
) -> dict[MatrixId, Moments]:
    """What the linear layer of each matrix is given."""
    modules = {slot.matrix: linear_module(inputs.model, slot) for slot in slots}
    return input_moments(
        inputs.model,
        modules,
        samples,
        positions=config.positions,
        batch_tokens=inputs.limits.batch_tokens,
        progress=inputs.progress,
        label=name,
        world=inputs.world,
    )


METHOD = Method(
    name="wanda",
    summary="edit what is large and carries large activations on texts with personal data",
    paper="arXiv 2306.11695",
    granularity="both",
    config=WandaConfig,
    needs=frozenset({"pii"}),
    takes=frozenset({"general"}),
    check=check_scored,
    run=localize,
    processes="samples",
)
