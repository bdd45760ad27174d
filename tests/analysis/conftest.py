"""Patches of a tiny llama (2 layers, hidden 12, MLP 20), made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.metadata import BaseModel, PatchMetadata
from neuropatch.patch.patch import NeuronPatch


@pytest.fixture(scope="session")
def metadata(make_layout):
    """``metadata(model_type, datasets=...)``: provenance of a patch of a tiny model."""

    def make(model_type="llama", *, base="tiny", **fields):
        return PatchMetadata(make_layout(model_type).signature, BaseModel(base), **fields)

    return make


@pytest.fixture(scope="session")
def unit_patch(metadata):
    """``unit_patch({layer: units})``: those units are switched off."""

    def make(units, **fields):
        edits = tuple(
            UnitEdit(
                BlockId("decoder", layer),
                "scale",
                np.array(sorted(chosen), dtype=np.int64),
                np.zeros(len(chosen), dtype=np.float32),
                np.ones((len(chosen), 12), dtype=np.float32),
            )
            for layer, chosen in units.items()
        )
        return NeuronPatch(metadata(**fields), (), edits)

    return make


@pytest.fixture(scope="session")
def weight_patch(metadata):
    """``weight_patch({(layer, role): [(row, column), ...]})``: those weights become 0."""

    def make(weights, **fields):
        edits = []
        for (layer, role), cells in weights.items():
            rows, columns = np.array(cells, dtype=np.int64).T
            before = np.ones(len(cells), dtype=np.float32)
            matrix = MatrixId("decoder", layer, -1, role)
            edits.append(WeightEdit.build(matrix, "zero", rows, columns, before))
        return NeuronPatch(metadata(**fields), tuple(edits))

    return make
