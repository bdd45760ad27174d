"""Gradient times activation: one backward pass, the first-order form of DEPN.

    score_k = mean over samples of  sum over tokens t of  h_tk * d log P(secret) / dh_tk
            = - dL/dm_k

with ``L`` the mean loss of a sample's private tokens and ``m_k`` a gate on unit ``k``, at 1. DEPN
(arXiv 2310.20138) integrates the same product along the path of the activations from 0, one layer
at a time and at the predicting position, and takes the units that *support* the secret: so the
score is signed. With ``absolute`` it is ``|dL/dm_k|``, the Taylor criterion of Molchanov et al.
(arXiv 1611.06440), which does not ask in which direction a unit works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuropatch.attribution.activations import check_unit_modules
from neuropatch.attribution.gates import UnitValues, gate_gradients
from neuropatch.attribution.selection import parse_amount
from neuropatch.data.tokenize import Sample
from neuropatch.methods._base import Given, Inputs, Localization, Method
from neuropatch.methods._scored import check_protection, unit_localization, units_by_score
from neuropatch.methods._units import UnitConfig, check_units
from neuropatch.models.layout import Layout


@dataclass(frozen=True)
class GradActConfig(UnitConfig):
    """Parameters of gradient times activation.

    Attributes:
        p: Amount of units that the general set protects, a fraction or a count from 1 up; as many
            as are edited if not given.
        absolute: Take the magnitude of the mean instead of its sign.

    Raises:
        UsageError: If a parameter is out of range.
    """

    p: float | None = None
    absolute: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p is not None:
            parse_amount("--p", self.p)


def localize(inputs: Inputs, config: GradActConfig) -> Localization:
    """Find units by gradient times activation.

    Raises:
        SelectionError: If no unit has a score above 0.
    """

    def score(name: str, samples: Sequence[Sample]) -> UnitValues:
        found = gate_gradients(
            inputs.model,
            inputs.layout,
            samples,
            batch_tokens=inputs.limits.batch_tokens,
            progress=inputs.progress,
            label=name,
            world=inputs.world,
        )
        return {
            block: np.abs(values) if config.absolute else -values for block, values in found.items()
        }

    key = (METHOD.name, config.absolute)
    units = units_by_score(inputs, config, score, key=key, p=config.p)
    return unit_localization(inputs, METHOD, config, units)


def _check(layout: Layout, given: Given, config: GradActConfig) -> None:
    """Refuse what cannot work."""
    check_protection(given, config.p)
    check_units(layout, config)
    check_unit_modules(layout)
    config.what().check(given)


METHOD = Method(
    name="grad-act",
    summary="deactivate the units whose activation times gradient supports personal data",
    paper="arXiv 2310.20138 (first order)",
    granularity="units",
    config=GradActConfig,
    needs=frozenset({"pii"}),
    takes=frozenset({"general"}),
    check=_check,
    run=localize,
    processes="samples",
)
