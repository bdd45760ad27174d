"""LPNL: learn which neurons to deactivate, by gates that are trained against personal data.

Source: "Learnable Privacy Neurons Localization in Language Models", arXiv 2405.10989, ACL 2024,
whose code was never released. Each neuron has a gate ``m`` of the HardConcrete distribution
(:mod:`neuropatch.methods._lpnl.hard_concrete`); the weights are frozen, and ``log_alpha`` alone
learns, to the lowest

    adversarial(personal data) + keep * (loss(rest of the texts) + loss(general))
        + retain * sum over data sets to retain of loss(it) + price * sum over gates of P(m = 0).

A deactivated neuron is one whose gate is below one half, the gates closest to 0 first, at most as
many as the budget allows. Every few steps this is measured as a patch would do it; the patch is of
the measurement with the least leakage, and among those with the lowest loss of other text.

What the paper leaves open, and what is done here:

* The adversarial loss is bounded (:mod:`neuropatch.methods._lpnl.objective`).
* The number of neurons is a constraint, and the weight of the L0 term its multiplier: the price
  rises while more gates are closed than wanted, and falls while fewer are.
* A step draws the gates several times, each time for a share of its samples: a gate that is drawn
  at exactly 0 or 1 has no gradient, and so more of them are heard at the same cost.
* Gates move along the running mean of their gradients, all divided by *one* number, the largest
  gradient lately: AdaMax (Kingma and Ba, 2015, section 7.1) with the maximum over gates. Adam's
  division of each gate by its own gradients would move the thousands that matter to nothing as
  fast as the few that carry a secret, and close many where few suffice.
* The gates are the units of MLPs (a patch's units), or the outputs of linear layers, as in the
  paper's figure 3; then a patch zeroes the rows of their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from neuropatch.attribution.state import fingerprint_of, fingerprint_of_weights
from neuropatch.errors import ArchitectureError
from neuropatch.methods._base import Given, Inputs, Localization, Method
from neuropatch.methods._edits import unit_edits, weight_edits
from neuropatch.methods._lpnl.config import LpnlConfig
from neuropatch.methods._lpnl.run import GateRun
from neuropatch.methods._lpnl.state import GateState
from neuropatch.methods._metadata import patch_metadata
from neuropatch.methods._units import check_units, group_counts, unit_blocks
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout
from neuropatch.models.output_gates import output_gates
from neuropatch.models.unit_gates import unit_gates
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch


def localize(inputs: Inputs, config: LpnlConfig) -> Localization:
    """Learn the gates and make the patch that edits the neurons whose gates are closed.

    Args:
        inputs: Records with personal data; a general data set and data sets to retain if wanted.
        config: LPNL's parameters.

    Raises:
        UsageError: If the target does not fit the edit.
        ArchitectureError: If the model has none of the roles, or an unknown activation function.
        ModelError: If gates cannot be put on the model, or a loss is not finite.
        OutputError: If the saved state belongs to another run.
        SelectionError: If no gate is closed.
    """
    layout = inputs.layout
    _check(layout, Given(pii=True), config)
    metadata = patch_metadata(inputs, METHOD, asdict(config))
    state = _state(inputs, metadata)
    if not config.roles():
        units = GateRun(
            inputs,
            config,
            unit_blocks(layout),
            lambda masks: unit_gates(inputs.model, layout, masks),
            state,
        ).run()
        patch = NeuronPatch(metadata, (), unit_edits(inputs, units.chosen, config.what()))
        return Localization(patch, units.notes, units.statistics)
    outputs = GateRun(
        inputs,
        config,
        _outputs(layout, config),
        lambda masks: output_gates(inputs.model, layout, masks),
        state,
    ).run()
    rows = _rows(layout, outputs.chosen)
    patch = NeuronPatch(metadata, weight_edits(inputs, rows, config.what()))
    return Localization(patch, outputs.notes, outputs.statistics)


def _check(layout: Layout, given: Given, config: LpnlConfig) -> None:
    """Refuse what cannot work."""
    if not config.roles():
        config.what().check(given)
        check_units(layout, config)
        return
    config.what().check_weights()
    outputs = _outputs(layout, config)
    if not outputs:
        raise ArchitectureError(
            f"{layout.signature.model_type} has no role {', '.join(config.roles())}",
            hint="choose another --target",
        )
    group_counts(outputs, config)


def _outputs(layout: Layout, config: LpnlConfig) -> dict[MatrixId, int]:
    """Number of outputs of each gated matrix."""
    return {matrix: layout.shape(matrix)[0] for matrix in layout.matrices(config.roles())}


def _state(inputs: Inputs, metadata: PatchMetadata) -> GateState | None:
    if inputs.limits.resume is None:
        return None
    run = {**metadata.to_json(), "weights": fingerprint_of_weights(inputs.model)}
    return GateState(inputs.limits.resume, fingerprint_of(run))


def _rows(
    layout: Layout, outputs: Mapping[MatrixId, NDArray[np.int64]]
) -> dict[MatrixId, NDArray[np.int64]]:
    """Flat indices of the weights behind outputs: their rows."""
    flat = {}
    for matrix, chosen in outputs.items():
        width = layout.shape(matrix)[1]
        flat[matrix] = (chosen[:, None] * width + np.arange(width)).reshape(-1)
    return flat


METHOD = Method(
    name="lpnl",
    summary="learn which neurons to deactivate, by gates that are trained against personal data",
    paper="arXiv 2405.10989",
    granularity="both",
    config=LpnlConfig,
    needs=frozenset({"pii"}),
    takes=frozenset({"general", "retain"}),
    check=_check,
    run=localize,
    resumes=lambda config: True,
)
