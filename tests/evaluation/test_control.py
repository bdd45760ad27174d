from __future__ import annotations

import numpy as np
import pytest
import torch

from neuropatch.errors import PatchMismatchError, SelectionError
from neuropatch.evaluation.control import random_control
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.modules import model_layout
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import bits


def coordinates(patch, matrix):
    """Every weight that a patch edits in a matrix, unit edits compiled."""
    edits = [change.edit for change in patch.changes() if change.edit.matrix == matrix]
    return {
        (int(r), int(c)) for edit in edits for r, c in zip(edit.rows, edit.columns, strict=True)
    }


def counts(patch):
    return [(edit.matrix, edit.kind, len(edit)) for edit in patch.weights] + [
        (edit.block, edit.kind, len(edit)) for edit in patch.units
    ]


@pytest.fixture
def patched(make_model, make_layout, base_of, make_patch):
    """``patched(model_type, dtype, units)``: a model, its weights, and a random patch of it."""

    def make(model_type="llama", dtype="float32", units=("scale",), **options):
        model = make_model(model_type, dtype)
        base = base_of(model)
        return model, base, make_patch(make_layout(model_type), base=base, units=units, **options)

    return make


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_as_many_edits_of_each_kind_at_other_places(patched, model_type, dtype):
    model, base, patch = patched(model_type, dtype)
    control = random_control(patch, model, seed=5)
    assert counts(control) == counts(patch)
    for matrix in model_layout(model).matrices():
        theirs, mine = coordinates(control, matrix), coordinates(patch, matrix)
        assert len(theirs) == len(mine)
        assert not theirs & mine
    for edit in control.weights:
        expected = base[edit.matrix][edit.rows, edit.columns]
        np.testing.assert_array_equal(bits(edit.before), bits(expected))
    for edit in control.units:
        expected = base[MatrixId(*edit.block, "down")][:, edit.units].T
        np.testing.assert_array_equal(bits(edit.before), bits(expected))


def test_parameters_are_those_of_the_patch_in_another_order(patched):
    model, _, patch = patched(count=6)
    control = random_control(patch, model, seed=0)
    moved = 0
    for mine, theirs in zip(patch.weights, control.weights, strict=True):
        if mine.kind in ("scale", "add"):
            np.testing.assert_array_equal(np.sort(theirs.value), np.sort(mine.value))
            moved += not np.array_equal(theirs.value, mine.value)
        if mine.kind == "set":
            # The change of a weight, not its value; sums round in float32.
            np.testing.assert_allclose(
                np.sort(theirs.value - theirs.before), np.sort(mine.value - mine.before), atol=1e-6
            )
    assert moved > len(patch.weights) / 4
    for mine, theirs in zip(patch.units, control.units, strict=True):
        np.testing.assert_array_equal(np.sort(theirs.value), np.sort(mine.value))


def test_a_unit_that_is_scaled_and_steered_has_one_stand_in(patched):
    model, _, patch = patched(units=("scale", "steer"), kinds=())
    control = random_control(patch, model, seed=1)
    scaled = {edit.block: edit.units.tolist() for edit in control.units if edit.kind == "scale"}
    steered = {edit.block: edit.units.tolist() for edit in control.units if edit.kind == "steer"}
    assert scaled == steered
    assert len(scaled) == 2


def test_equal_seeds_give_equal_controls(patched):
    model, _, patch = patched()
    first = random_control(patch, model, seed=3)
    assert first == random_control(patch, model, seed=3)
    others = [random_control(patch, model, seed=seed) for seed in range(3)]
    assert all(other.weights != first.weights for other in others)


def test_every_free_weight_can_be_drawn(make_model, base_of):
    model = make_model()
    matrix = MatrixId("decoder", 0, -1, "k")
    base = base_of(model)[matrix]
    flat = np.arange(40)
    rows, columns = np.divmod(flat, base.shape[1])
    edit = WeightEdit.build(matrix, "zero", rows, columns, base[rows, columns])
    signature = model_layout(model).signature
    patch = NeuronPatch(PatchMetadata(signature), (edit,))
    drawn = np.zeros(base.size)
    for seed in range(200):
        found = random_control(patch, model, seed).weights[0]
        drawn[found.rows * base.shape[1] + found.columns] += 1
    free = drawn[40:]
    # 40 of 56 free weights in 200 draws: 142.9 on average, standard deviation 6.4.
    assert drawn[:40].sum() == 0
    assert len(free) == 56
    assert np.abs(free - 200 * 40 / 56).max() < 5 * 6.4


def test_the_control_changes_the_model_and_leaves_it_as_it_was(patched):
    model, _, patch = patched()
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        before = model(ids).logits
        with random_control(patch, model, seed=0).applied(model):
            assert (model(ids).logits != before).any()
        assert (model(ids).logits == before).all()


def test_the_control_of_an_inverted_patch_does_what_the_inverse_does(patched):
    model, _, patch = patched(units=(), kinds=("zero",))
    with patch.applied(model):
        control = random_control(patch.invert(), model, seed=0)
        assert not control.inverted
        assert {edit.kind for edit in control.weights} == {"set"}
        change = np.concatenate([edit.value - edit.before for edit in control.weights])
    expected = np.concatenate([edit.before for edit in patch.weights])
    np.testing.assert_allclose(np.sort(change), np.sort(expected), atol=1e-6)


def test_too_large_a_patch_is_refused(patched):
    model, _, patch = patched(units=(), kinds=("zero",), count=49)
    with pytest.raises(SelectionError, match=r"49 weights of decoder\.0\.k; only 47 others"):
        random_control(patch, model, seed=0)


def test_a_patch_of_another_architecture_is_refused(patched, make_model):
    _, _, patch = patched()
    with pytest.raises(PatchMismatchError, match="another architecture"):
        random_control(patch, make_model("gpt2"), seed=0)


def test_metadata_says_what_it_is(patched):
    model, _, patch = patched()
    metadata = random_control(patch, model, seed=9).metadata
    assert metadata.method["name"] == "random-control"
    assert metadata.method["parameters"] == {"seed": 9}
    assert metadata.datasets == ()
