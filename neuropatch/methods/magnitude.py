"""Magnitude: the largest weights, or the units with the largest weights; looks at no data.

The oldest criterion of pruning (Han et al., arXiv 1506.02626), turned round: what is largest is
edited. A unit's size is the Euclidean norm of all its weights: its row of ``up`` (and ``gate``) and
its column of ``down``.
"""

from __future__ import annotations

import numpy as np
import torch

from neuropatch.attribution.gates import UnitValues
from neuropatch.attribution.selection import TopSelector
from neuropatch.methods._base import Inputs, Localization, Method
from neuropatch.methods._scored import (
    ScoreConfig,
    check_scored,
    unit_localization,
    weight_localization,
)
from neuropatch.methods._units import select_units
from neuropatch.models.modules import resolve_parameters


def localize(inputs: Inputs, config: ScoreConfig) -> Localization:
    """Find the largest units or weights.

    Raises:
        SelectionError: If all weights are 0.
    """
    if config.finds_units:
        units = select_units(_unit_norms(inputs), config)
        return unit_localization(inputs, METHOD, config, units)
    matrices = config.matrices(inputs.layout)
    selector = TopSelector(inputs.layout, matrices, config.scope, config.amount)
    for slot in resolve_parameters(inputs.model, inputs.layout, matrices):
        weight = slot.weight()
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        one = torch.ones((), dtype=wide, device=weight.device)
        selector.add(slot.matrix, one.expand(weight.shape), weight)
    return weight_localization(inputs, METHOD, config, selector.result())


def _unit_norms(inputs: Inputs) -> UnitValues:
    """The norm of each unit's weights, ``[units]`` of each block."""
    squares: UnitValues = {}
    matrices = inputs.layout.matrices(("gate", "up", "down"))
    for slot in resolve_parameters(inputs.model, inputs.layout, matrices):
        across = 0 if slot.matrix.role == "down" else 1
        norm = torch.linalg.vector_norm(slot.weight(), dim=across, dtype=torch.float64)
        squares.setdefault(slot.matrix.block, np.zeros(len(norm)))
        squares[slot.matrix.block] += norm.square().cpu().numpy()
    return {block: np.sqrt(values) for block, values in squares.items()}


METHOD = Method(
    name="magnitude",
    summary="edit the largest units or weights, without looking at data",
    paper="arXiv 1506.02626",
    granularity="both",
    config=ScoreConfig,
    needs=frozenset(),
    takes=frozenset({"pii"}),
    check=check_scored,
    run=localize,
    kinds=("causal", "masked"),
    processes="first",
)
