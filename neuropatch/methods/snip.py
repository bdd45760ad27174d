"""SNIP: the units or weights to which the loss of the personal data is most sensitive.

Source: connection sensitivity (Lee et al., arXiv 1810.02340), with the absolute value inside the
mean over samples, as SPIN (arXiv 2410.16672) takes it:

    weight: mean over samples of | W_ij * dL/dW_ij |        unit: mean over samples of | dL/dm_k |

``L`` is the mean loss of a sample's private tokens, ``m_k`` a gate on the unit, at 1. Without a
general set the weights are SPIN's ``T`` of a single data set.
"""

from __future__ import annotations

from dataclasses import asdict

from neuropatch.attribution.gates import gate_gradients
from neuropatch.attribution.run import Wanted
from neuropatch.methods._base import GENERAL, PII, Inputs, Localization, Method
from neuropatch.methods._metadata import patch_metadata
from neuropatch.methods._samples import behaviour_samples
from neuropatch.methods._scored import (
    DataScoreConfig,
    check_scored,
    unit_localization,
    units_by_score,
    weight_localization,
)
from neuropatch.methods._weights import coupled_sets, top_snip_weights


def localize(inputs: Inputs, config: DataScoreConfig) -> Localization:
    """Find units or weights by their sensitivity.

    Raises:
        SelectionError: If nothing is left to edit.
        ResourceError: If scores of weights do not fit the memory.
    """
    if config.finds_units:
        units = units_by_score(
            inputs,
            config,
            lambda name, samples: gate_gradients(
                inputs.model,
                inputs.layout,
                samples,
                reduce="absolute",
                batch_tokens=inputs.limits.batch_tokens,
                progress=inputs.progress,
                label=name,
                world=inputs.world,
            ),
            key=METHOD.name,
            p=config.p,
        )
        return unit_localization(inputs, METHOD, config, units)
    assert inputs.pii is not None  # what the pipeline refuses
    wanted = {PII: Wanted(behaviour_samples(inputs.pii), config.amount)}
    if inputs.general is not None:
        wanted[GENERAL] = Wanted(inputs.general.samples, config.protected)
    metadata = patch_metadata(inputs, METHOD, asdict(config))
    matrices = config.matrices(inputs.layout)
    found = top_snip_weights(inputs, wanted, matrices, config.scope, metadata)
    sets = coupled_sets({PII: found[PII]}, found.get(GENERAL, {}))
    return weight_localization(inputs, METHOD, config, sets)


METHOD = Method(
    name="snip",
    summary="edit what the loss of personal data is most sensitive to",
    paper="arXiv 1810.02340",
    granularity="both",
    config=DataScoreConfig,
    needs=frozenset({"pii"}),
    takes=frozenset({"general"}),
    check=check_scored,
    run=localize,
    processes="samples",
    splits=lambda config: not config.finds_units,
    resumes=lambda config: not config.finds_units,
)
