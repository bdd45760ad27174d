"""Random: units or weights drawn by lot, the control of every other method.

Every unit, or every weight within its scope, is drawn with the same probability, without
replacement, by the run's seed.
"""

from __future__ import annotations

import math

import numpy as np

from neuropatch.attribution.selection import IndexSets, amount_of
from neuropatch.methods._base import Inputs, Localization, Method
from neuropatch.methods._scored import (
    ScoreConfig,
    check_scored,
    unit_localization,
    weight_localization,
)
from neuropatch.methods._units import select_units, unit_blocks
from neuropatch.methods._weights import weight_groups


def localize(inputs: Inputs, config: ScoreConfig) -> Localization:
    """Draw units or weights."""
    rng = np.random.default_rng(inputs.seed)
    if config.finds_units:
        # In (0, 1]: a score of 0 is never selected.
        scores = {
            block: 1 - rng.random(units) for block, units in unit_blocks(inputs.layout).items()
        }
        return unit_localization(inputs, METHOD, config, select_units(scores, config))
    return weight_localization(inputs, METHOD, config, _drawn_weights(inputs, config, rng))


def _drawn_weights(inputs: Inputs, config: ScoreConfig, rng: np.random.Generator) -> IndexSets:
    sets: IndexSets = {}
    matrices = config.matrices(inputs.layout)
    for members, size in weight_groups(inputs.layout, matrices, config.scope):
        drawn = rng.choice(size, amount_of(config.amount, size), replace=False)
        drawn.sort()
        start = 0
        for matrix in members:
            end = start + math.prod(inputs.layout.shape(matrix))
            mine = drawn[(drawn >= start) & (drawn < end)] - start
            if len(mine):
                sets[matrix] = mine.astype(np.int64)
            start = end
    return sets


METHOD = Method(
    name="random",
    summary="edit units or weights drawn by lot: the control",
    paper="none",
    granularity="both",
    config=ScoreConfig,
    needs=frozenset(),
    takes=frozenset({"pii"}),
    check=check_scored,
    run=localize,
    kinds=("causal", "masked"),
    processes="first",
)
