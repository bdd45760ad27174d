"""What a patch's edits are counted as."""

from __future__ import annotations

import numpy as np
import pytest

from neuropatch.analysis.neurons import (
    UNITS,
    Place,
    capacity,
    check_comparable,
    components_of,
    counted,
    layers_of,
    neurons_of,
)
from neuropatch.errors import PatchMismatchError, SelectionError
from neuropatch.models.coordinates import BlockId
from neuropatch.patch.patch import NeuronPatch

FIRST, SECOND = BlockId("decoder", 0), BlockId("decoder", 1)


def _found(patch, name="p"):
    return neurons_of(patch, name=name, group="g")


def _sets(patch):
    return {place: found.tolist() for place, found in _found(patch).sets.items()}


def test_units_are_units(unit_patch):
    sets = _sets(unit_patch({0: [3, 5], 1: [0]}))
    assert sets == {Place(FIRST, UNITS, "units"): [3, 5], Place(SECOND, UNITS, "units"): [0]}


def test_a_unit_is_the_same_as_the_column_of_down_that_it_compiles_to(unit_patch):
    patch = unit_patch({0: [3, 5], 1: [19]})
    assert not patch.compiled().units
    assert _sets(patch.compiled()) == _sets(patch)


def test_a_whole_row_is_an_output_neuron_and_other_weights_are_weights(weight_patch):
    row = [(4, column) for column in range(12)]
    patch = weight_patch({(1, "gate"): [*row, (2, 7), (3, 7)], (0, "q"): [(0, 0)]})
    assert _sets(patch) == {
        Place(FIRST, "q", "weights"): [0],
        Place(SECOND, "gate", "output neurons"): [4],
        Place(SECOND, "gate", "weights"): [2 << 32 | 7, 3 << 32 | 7],
    }


def test_all_but_one_weight_of_a_row_or_column_are_weights(weight_patch):
    row = [(4, column) for column in range(11)]
    column = [(r, 4) for r in range(11)]
    found = _found(weight_patch({(0, "up"): row, (0, "down"): column}))
    assert found.counts == {"units": 0, "output neurons": 0, "weights": 22}


def test_a_whole_down_is_its_units_and_a_row_across_a_unit_is_both(weight_patch):
    every = [(r, c) for r in range(12) for c in range(20)]
    assert _found(weight_patch({(0, "down"): every})).counts["units"] == 20
    assert _found(weight_patch({(0, "down"): every})).total == 20
    cross = {(r, 3) for r in range(12)} | {(5, c) for c in range(20)}
    assert _sets(weight_patch({(0, "down"): sorted(cross)})) == {
        Place(FIRST, UNITS, "units"): [3],
        Place(FIRST, "down", "output neurons"): [5],
    }


def test_a_row_that_several_kinds_of_edits_complete_is_one_neuron(make_patch, make_layout, down):
    layout = make_layout()
    patch = make_patch(layout, matrices=[down(0)], count=60)  # 4 kinds of 60: all 240 weights
    assert _found(patch).counts == {"units": 20, "output neurons": 0, "weights": 0}


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bert"])
def test_every_edit_is_counted_once(model_type, make_patch, make_layout):
    patch = make_patch(make_layout(model_type), units=("scale", "steer"))
    found = _found(patch)
    units = {(edit.block, unit) for edit in patch.units for unit in edit.units.tolist()}
    assert found.counts["units"] == len(units)
    assert found.counts["weights"] == sum(map(len, patch.weights))


def test_a_patch_without_edits_is_refused(metadata):
    with pytest.raises(SelectionError, match="empty edits nothing"):
        _found(NeuronPatch(metadata()), "empty")


def test_capacity_counts_the_whole_model(make_layout):
    layout = make_layout()
    shapes = [layout.shape(matrix) for matrix in layout.matrices()]
    assert capacity(layout.signature) == {
        "units": 2 * 20,
        "output neurons": sum(rows for rows, _ in shapes),
        "weights": sum(rows * columns for rows, columns in shapes),
    }


def test_layers_and_components_of_architectures(make_layout):
    assert layers_of(make_layout().signature) == (("decoder", 0), ("decoder", 1))
    assert layers_of(make_layout("bert").signature) == (("encoder", 0), ("encoder", 1))
    llama = ("mlp units", "gate", "up", "down", "q", "k", "v", "o")
    assert components_of(make_layout().signature) == llama
    assert components_of(make_layout("gpt2").signature) == tuple(x for x in llama if x != "gate")


def test_patches_of_different_architectures_are_refused_by_what_differs(make_layout, make_patch):
    def of(name, *, model_type="llama", **overrides):
        return _found(make_patch(make_layout(model_type, **overrides)), name)

    check_comparable([of("a"), of("b"), of("more-words", vocab_size=70)])
    with pytest.raises(PatchMismatchError, match=r"a and c .*: layers 2 against 3 "):
        check_comparable([of("a"), of("b"), of("c", num_hidden_layers=3)])
    with pytest.raises(PatchMismatchError, match="model type llama against mistral"):
        check_comparable([of("a"), of("b", model_type="mistral")])


def test_words_for_what_is_counted(unit_patch, weight_patch):
    units = _found(unit_patch({0: [1]}))
    weights = _found(weight_patch({(0, "q"): [(0, 0)]}))
    rows = _found(weight_patch({(0, "q"): [(0, c) for c in range(12)]}))
    assert counted([units, units]) == "MLP units"
    assert counted([weights]) == "weights"
    assert counted([units, rows]) == counted([rows]) == "neurons"
    assert counted([units, weights]) == "neurons and weights"
    assert isinstance(units.sets[Place(FIRST, UNITS, "units")], np.ndarray)
