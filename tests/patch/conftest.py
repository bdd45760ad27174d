"""Random patches for property tests, and a patch seen as a plain map: the oracle of the algebra."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import strategies as st

from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.patch.edits import UNIT_KINDS, WEIGHT_KINDS, UnitEdit, WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import compute_dtype

# Few coordinates and few values, so that patches often meet, agree and disagree.
_WEIGHTS = [
    *((MatrixId("decoder", layer, -1, "down"), 0, c) for layer in (0, 1) for c in range(8)),
    *((MatrixId("decoder", 1, -1, "gate"), r, c) for r in (0, 19) for c in (0, 11)),
    *((MatrixId("decoder", 0, -1, "k"), r, 3) for r in range(4)),
]
_UNITS = [(BlockId("decoder", layer), unit) for layer in (0, 1) for unit in range(4)]
_VALUES = [-0.5, 0.0, -0.0, 0.25, 1.75]


def _build(base, metadata, weights, units, inverted):
    """A patch from maps: (matrix, row, column) -> (kind, value), (block, unit, kind) -> value."""
    groups = {}
    for (matrix, row, column), (kind, value) in weights.items():
        groups.setdefault((matrix, kind), []).append((row, column, value))
    weight_edits = []
    for (matrix, kind), cells in groups.items():
        rows, columns = np.array([cell[:2] for cell in cells]).T
        before = base[matrix][rows, columns]
        dtype = before.dtype if kind == "set" else compute_dtype(before.dtype)
        values = None if kind == "zero" else np.array([cell[2] for cell in cells]).astype(dtype)
        weight_edits.append(WeightEdit.build(matrix, kind, rows, columns, before, values))
    blocks = {}
    for (block, unit, kind), value in units.items():
        blocks.setdefault((block, kind), []).append((unit, value))
    unit_edits = []
    for (block, kind), cells in blocks.items():
        chosen = np.array(sorted(cell[0] for cell in cells))
        values = np.array([value for _, value in sorted(cells)], dtype=np.float32)
        down = base[MatrixId(*block, "down")]
        before = down[:, chosen].T.copy() if kind == "scale" else None
        unit_edits.append(UnitEdit(block, kind, chosen, values, before))
    return NeuronPatch(metadata, tuple(weight_edits), tuple(unit_edits), inverted=inverted)


@st.composite
def _patches(draw, layout, base, agree, units, inverted, name):
    def decide(coordinate, choices):
        """What to do there: drawn, or in agreement with every other patch."""
        return (
            random.Random(repr(coordinate)).choice(choices) if agree else draw(choices_of(choices))
        )

    def choices_of(choices):
        return st.sampled_from(choices)

    unit_edits = {}
    if units:
        for block, unit in draw(st.lists(st.sampled_from(_UNITS), max_size=4, unique=True)):
            kind = decide((block, unit), UNIT_KINDS)
            unit_edits[block, unit, kind] = decide((block, unit, kind), _VALUES)
    scaled = {
        (MatrixId(*block, "down"), unit) for block, unit, kind in unit_edits if kind == "scale"
    }
    weight_edits = {}
    for cell in draw(st.lists(st.sampled_from(_WEIGHTS), max_size=8, unique=True)):
        matrix, _, column = cell
        # In agreement, columns below 4 of down are left to units, the others to weights.
        clash = (matrix, column) in scaled or (agree and matrix.role == "down" and column < 4)
        if not clash:
            weight_edits[cell] = (decide(cell, WEIGHT_KINDS), decide((cell, 1), _VALUES))
    metadata = PatchMetadata(layout.signature, method={"name": draw(name)})
    return _build(base, metadata, weight_edits, unit_edits, draw(inverted))


@pytest.fixture(scope="session")
def patches(make_layout, make_base):
    """``patches()``: a strategy of patches of one tiny base model.

    Args:
        agree: Whether all patches do the same where they meet.
        units: Whether they edit units too.
        inverted: Strategy of their direction.
        dtype: The base's number format.
    """
    layout = make_layout("llama")

    def patches(*, agree=False, units=True, inverted=None, dtype="BF16"):
        return _patches(
            layout,
            make_base(layout, dtype),
            agree,
            units,
            st.booleans() if inverted is None else st.just(inverted),
            st.sampled_from(["spin", "wanda"]),
        )

    return patches


def _cells(patch):
    """A patch as a map from coordinates to what it does there."""
    found = {}
    for edit in patch.weights:
        for i in range(len(edit)):
            value = None if edit.value is None else edit.value[i].tobytes()
            place = (str(edit.matrix), int(edit.rows[i]), int(edit.columns[i]))
            found[place] = (edit.kind, value, edit.before[i].tobytes())
    for edit in patch.units:
        for i in range(len(edit)):
            before = None if edit.before is None else edit.before[i].tobytes()
            place = (str(edit.block), edit.kind, int(edit.units[i]))
            found[place] = (edit.value[i].tobytes(), before)
    return found


@pytest.fixture(scope="session")
def cells():
    """``cells(patch)``: a map from each coordinate to what the patch does there."""
    return _cells


def _run(patch, weights):
    """Apply a patch to weights by matrix, as every back end does it; returns new weights."""
    weights = {matrix: values.copy() for matrix, values in weights.items()}
    for change in patch.changes():
        matrix, place = change.edit.matrix, (change.edit.rows, change.edit.columns)
        weights[matrix][place] = change.new_values(weights[matrix][place])
    return weights


@pytest.fixture(scope="session")
def run():
    """``run(patch, weights)``: the patch applied to NumPy arrays."""
    return _run


def _identical(a, b):
    return a.keys() == b.keys() and all(
        x.dtype == b[key].dtype and x.tobytes() == b[key].tobytes() for key, x in a.items()
    )


@pytest.fixture(scope="session")
def identical():
    """``identical(a, b)``: whether two maps of arrays are equal bit for bit."""
    return _identical
