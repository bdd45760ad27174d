"""What edits do to units and weights, measured on the model that they are applied to."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuropatch.attribution.activations import input_moments, unit_modules
from neuropatch.data.pii.desensitise import desensitised
from neuropatch.data.pii.tokens import encode_records
from neuropatch.errors import UsageError
from neuropatch.methods._base import Given
from neuropatch.methods._edits import Edit, unit_edits, weight_edits
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.patch.edits import UnitEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch

A, B = BlockId("decoder", 0), BlockId("decoder", 1)
UNITS = {A: np.array([2, 19]), B: np.array([7])}
WEIGHTS = {
    MatrixId(*A, "up"): np.array([0, 13, 239]),
    MatrixId(*B, "down"): np.array([21]),
}


def private_moments(inputs, samples=None):
    samples = inputs.pii.samples if samples is None else samples
    return input_moments(
        inputs.model,
        unit_modules(inputs.model, inputs.layout),
        [sample.secret() for sample in samples],
        positions="predicting",
    )


@pytest.mark.parametrize(
    ("edit", "factor"), [(Edit(), 0), (Edit("scale"), 0.5), (Edit("scale", 3), 3)]
)
def test_units_are_scaled(make_inputs, base_of, edit, factor):
    inputs = make_inputs()
    base = base_of(inputs.model)
    first, second = unit_edits(inputs, UNITS, edit)
    assert (first.block, first.kind, second.block) == (A, "scale", B)
    assert first.units.tolist() == [2, 19]
    assert first.value.tolist() == [factor, factor]
    assert np.array_equal(first.before, base[MatrixId(*A, "down")][:, [2, 19]].T)
    assert len(unit_edits(inputs, {A: UNITS[A], B: np.empty(0, np.int64)}, edit)) == 1


@pytest.mark.parametrize("strength", [None, 0.5])
def test_steering_moves_the_mean_to_that_of_the_desensitised_text(make_inputs, letters, strength):
    inputs = make_inputs(seed=3)
    texts = desensitised(inputs.pii.records, seed=3)
    clean = private_moments(inputs, encode_records(texts, letters).samples)
    private = private_moments(inputs)
    edits = unit_edits(inputs, UNITS, Edit("steer", strength))
    for edit in edits:
        assert (edit.kind, edit.before) == ("steer", None)
        difference = (clean[edit.block].mean - private[edit.block].mean).numpy()[edit.units]
        wanted = (1 if strength is None else strength) * difference
        assert np.abs(wanted).min() > 0
        np.testing.assert_allclose(edit.value, wanted, rtol=1e-6)


def test_steering_is_what_the_model_does_with_it(make_inputs):
    """Held on the model, the activations of the units move by the edit's constants."""
    inputs = make_inputs()
    (edit,) = unit_edits(inputs, {A: UNITS[A]}, Edit("steer"))
    metadata = PatchMetadata(inputs.layout.signature, inputs.base_model, {"name": "test"})
    seen = []
    down = inputs.model.model.layers[0].mlp.down_proj
    with torch.no_grad(), NeuronPatch(metadata, units=(edit,)).applied(inputs.model):
        handle = down.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
        inputs.model(input_ids=torch.tensor([inputs.pii.samples[0].ids]))
        handle.remove()
    handle = down.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    with torch.no_grad():
        inputs.model(input_ids=torch.tensor([inputs.pii.samples[0].ids]))
    handle.remove()
    steered, plain = seen
    change = (steered - plain)[:, UNITS[A]].numpy()
    np.testing.assert_allclose(change, np.tile(edit.value, (len(change), 1)), atol=1e-7)


def test_noise_has_the_spread_of_the_activation(make_inputs):
    inputs = make_inputs()
    all_units = {block: np.arange(20) for block in (A, B)}
    std = private_moments(inputs)
    values = [
        edit.value / std[edit.block].std.numpy()
        for seed in range(20)
        for edit in unit_edits(replace(inputs, seed=seed), all_units, Edit("noise", 2.0))
    ]
    drawn = np.concatenate(values)
    # 800 draws of a normal number of spread 2: its mean within 4, its spread within 5 sigma.
    assert abs(drawn.mean()) < 4 * 2 / np.sqrt(len(drawn))
    assert abs(drawn.std() / 2 - 1) < 5 / np.sqrt(2 * len(drawn))
    again = unit_edits(inputs, UNITS, Edit("noise"))
    assert again == unit_edits(inputs, UNITS, Edit("noise"))
    assert again != unit_edits(replace(inputs, seed=1), UNITS, Edit("noise"))
    assert all(isinstance(edit, UnitEdit) and edit.kind == "steer" for edit in again)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_weights_are_zeroed_scaled_or_shaken(make_inputs, base_of, dtype):
    inputs = make_inputs(dtype=dtype)
    base = base_of(inputs.model)
    for edit in (Edit(), Edit("scale", 2.0), Edit("noise", 0.1)):
        made = weight_edits(inputs, WEIGHTS, edit)
        assert [one.matrix for one in made] == list(WEIGHTS)
        for one in made:
            before = base[one.matrix].reshape(-1)[WEIGHTS[one.matrix]]
            assert np.array_equal(one.before, before)
            after, wide = one.after.astype(np.float64), before.astype(np.float64)
            if edit.kind == "zero":
                assert (one.kind, after.any()) == ("zero", False)
            elif edit.kind == "scale":
                assert np.array_equal(after, 2 * wide)
            else:
                assert one.kind == "add"
                # A normal number beyond 6 would be drawn once in a billion; 1 % is for rounding.
                assert (np.abs(after - wide) <= (0.6 + 0.01) * np.abs(wide)).all()
                assert (np.abs(one.value.astype(np.float64)) > 0).all()
        assert made == weight_edits(inputs, WEIGHTS, edit)


def test_steering_weights_is_refused(make_inputs):
    with pytest.raises(UsageError, match="steer moves activations of units"):
        weight_edits(make_inputs(), WEIGHTS, Edit("steer"))


@pytest.mark.parametrize(
    ("kind", "strength", "message"),
    [
        ("delete", None, "unknown edit 'delete'"),
        ("zero", 0.5, "do not go together"),
        ("scale", 1.0, "--strength 1 makes no edit by scale"),
        ("steer", 0.0, "--strength 0 makes no edit by steer"),
        ("noise", float("nan"), "--strength nan makes no edit by noise"),
    ],
)
def test_edits_without_meaning_are_refused(kind, strength, message):
    with pytest.raises(UsageError, match=message):
        Edit(kind, strength)


def test_edits_that_need_records_are_refused_without(make_inputs):
    Edit("scale").check(Given())
    Edit("steer").check(Given(pii=True))
    with pytest.raises(UsageError, match="--edit steer is made from activations on records"):
        Edit("steer").check(Given())
    with pytest.raises(UsageError, match="--edit noise is for causal language models"):
        Edit("noise").check(Given(pii=True, kind="masked"))
    inputs = make_inputs()
    with pytest.raises(UsageError, match="records with personal data"):
        unit_edits(replace(inputs, pii=None), UNITS, Edit("noise"))
    with pytest.raises(UsageError, match="the tokenizer is missing"):
        unit_edits(replace(inputs, tokenizer=None), UNITS, Edit("steer"))
