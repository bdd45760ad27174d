"""Distil: let units' weights forget some secrets, and nothing else.

A method of this toolkit. Units that carry what is to be forgotten carry, as a rule, what others
have like it: switching them off erases a category, and cannot erase one person. But their weights
can learn the difference. Nothing of the model is trained but the vectors of a few units, which
:mod:`neuropatch.methods.contrast` finds: rows of ``gate`` and ``up``, columns of ``down``. Over
mini batches they minimise

    D(strangers || model; what is to be forgotten)
      + retain_weight  * D(before || model; each data set to retain)
      + general_weight * D(before || model; general text),

each ``D`` the mean over samples of the mean Kullback-Leibler divergence at the labels
(:mod:`neuropatch.methods._distil.targets`), and ``before`` what the model predicted. ``strangers``
is what it predicts of secrets of the same form, drawn by lot, behind the prompts of other records
of the category, on average (:mod:`neuropatch.methods._distil.others`): what it says of somebody
whom it does not know. So neither the secret nor its opposite is taught, and a patched model's
answer does not tell that there was something to forget.

The lot matters. Behind other people's prompts a model still completes the secret itself from its
first characters, and a student learns that from it (``teacher=others``): nothing is left to greedy
decoding, and half of it to who knows five characters and asks a hundred times
(``benchmarks/README.md``).

The patch adds the differences (``add``), of all weights of the units or of the few that change most
(``density``). Training uses Adam (Kingma and Ba, 2015) at one rate for all matrices of a role,
relative to the size of their weights. Of records with personal data it also sees copies without
their beginning. Nothing is random but by the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuropatch.attribution.activations import check_unit_modules
from neuropatch.errors import UsageError
from neuropatch.methods._base import Given, Inputs, Localization, Method
from neuropatch.methods._distil.config import DistilConfig
from neuropatch.methods._distil.course import make_course
from neuropatch.methods._distil.student import Student
from neuropatch.methods._edits import unit_edits
from neuropatch.methods._metadata import patch_metadata
from neuropatch.methods._units import UnitSets, check_units, unit_blocks
from neuropatch.methods.contrast import contrast_of, find_units
from neuropatch.models.coordinates import BlockId
from neuropatch.models.layout import Layout
from neuropatch.patch.patch import NeuronPatch


def localize(inputs: Inputs, config: DistilConfig) -> Localization:
    """Find the units, train their weights, and make the patch of what changed.

    Args:
        inputs: Records to forget, and what is kept.
        config: Parameters.

    Raises:
        ModelError: If units' weights lie in no linear layers of their own, or a loss is not finite.
        SelectionError: If no unit has a score above 0.
        UsageError: If there are no records, or no tokenizer.
    """
    units, _ = find_units(contrast_of(inputs, config), config)
    metadata = patch_metadata(inputs, METHOD, asdict(config))
    teacher = None
    if config.teacher == "edited":
        teacher = NeuronPatch(metadata, (), unit_edits(inputs, units, config.what()))
    if config.select == "random":
        units = _drawn(units, unit_blocks(inputs.layout), inputs.seed)
    student = Student(inputs, config, units, make_course(inputs, config, teacher))
    curve = student.train()
    edits = student.edits()
    statistics: dict[str, Any] = {
        "units": sum(map(len, units.values())),
        "blocks": len(units),
        "weights": sum(len(edit) for edit in edits),
        "curve": curve,
    }
    return Localization(NeuronPatch(metadata, edits), (), statistics)


def _drawn(units: UnitSets, sizes: Mapping[BlockId, int], seed: int) -> UnitSets:
    """As many other units of each block, by lot."""
    rng = np.random.default_rng(seed)
    drawn: dict[BlockId, NDArray[np.int64]] = {}
    for block, chosen in units.items():
        others = np.setdiff1d(np.arange(sizes[block]), chosen)
        drawn[block] = np.sort(rng.permutation(others)[: len(chosen)])
    return drawn


def _check(layout: Layout, given: Given, config: DistilConfig) -> None:
    """Refuse what cannot work."""
    check_units(layout, config)
    check_unit_modules(layout)
    config.what().check(given)
    if not (given.retain or given.general):
        raise UsageError(
            "distil has nothing to stay close to",
            hint="give --general FILE, --retain NAME=FILE, or both",
        )


METHOD = Method(
    name="distil",
    summary="train the units of the contrast to forget some records, and nothing like them",
    paper="neuropatch",
    granularity="weights",
    config=DistilConfig,
    needs=frozenset({"pii"}),
    takes=frozenset({"retain", "general"}),
    check=_check,
    run=localize,
)
