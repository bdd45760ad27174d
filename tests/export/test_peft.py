"""A patch as an adapter, loaded by peft itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuropatch.errors import ModelError, OutputError, PatchMismatchError, SelectionError
from neuropatch.export.low_rank import Change
from neuropatch.export.peft import export_peft
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.modules import model_layout
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch

TOKENS = torch.tensor([[3, 17, 8, 41, 5, 22], [9, 9, 30, 2, 11, 47]])

# float32: the patched matrix and matrix plus adapter differ by the order of few sums.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def save(tmp_path):
    """``save(model)``: the folder of its checkpoint."""

    def write(model):
        model.save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return write


def row_edit(base, matrix, row, kind="zero", factor=0.5):
    """An edit of one whole row of a matrix."""
    into = base[matrix].shape[1]
    value = None if kind == "zero" else np.full(into, factor, np.float32)
    rows, columns = np.full(into, row), np.arange(into)
    return WeightEdit.build(matrix, kind, rows, columns, base[matrix][row], value)


def unit_edit(base, layer, units, factor):
    """A factor on units of a layer."""
    down = MatrixId("decoder", layer, -1, "down")
    before = np.ascontiguousarray(base[down].T[units])
    value = np.full(len(units), factor, np.float32)
    return UnitEdit(down.block, "scale", np.array(units), value, before)


def small_patch(model, base, roles=("up", "q", "v")):
    """A patch of a row of some matrices, units of both layers, and two single weights."""
    o = MatrixId("decoder", 1, -1, "o")
    place = np.array([2, 5]), np.array([1, 1])
    single = WeightEdit(o, "set", *place, base[o][place], np.array([0.75, -0.5], base[o].dtype))
    rows = [
        row_edit(base, MatrixId("decoder", layer, -1, role), layer + 3, kind)
        for layer, kind in ((0, "zero"), (1, "scale"))
        for role in roles
    ]
    units = unit_edit(base, 0, [4, 9, 11], 0.0), unit_edit(base, 1, [2], -1.5)
    metadata = PatchMetadata(model_layout(model).signature)
    return NeuronPatch(metadata, (*rows, single), units)


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


# A plain layout, and one with Conv1D modules of which q, k and v are one.
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_the_adapter_does_what_the_patch_does(
    model_type, make_model, base_of, save, tmp_path, recwarn
):
    from peft import PeftModel

    model = make_model(model_type)
    patch = small_patch(model, base_of(model))
    adapter = export_peft(patch, save(model), tmp_path / "adapter")
    assert not adapter.drift.unequal
    plain = logits(model)
    patch.apply(model)
    wanted = logits(model)
    assert not torch.allclose(plain, wanted, rtol=1e-2)
    patch.revert(model)
    adapted = PeftModel.from_pretrained(model, tmp_path / "adapter")
    torch.testing.assert_close(logits(adapted), wanted, **TOLERANCE)
    with adapted.disable_adapter():
        torch.testing.assert_close(logits(adapted), plain, **TOLERANCE)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged), wanted, **TOLERANCE)
    # What is zeroed is zero.
    down = base_of(merged)[MatrixId("decoder", 0, -1, "down")]
    assert not down[:, [4, 9, 11]].any()
    assert not [str(one.message) for one in recwarn if "peft" in str(one.filename)]


def test_ranks_are_those_of_each_module(make_model, base_of, save, tmp_path):
    model = make_model("llama")
    adapter = export_peft(small_patch(model, base_of(model)), save(model), tmp_path / "adapter")
    layer = "model.layers.{}.{}".format
    assert adapter.ranks == {
        layer(0, "mlp.up_proj"): 1,
        layer(0, "mlp.down_proj"): 3,
        layer(0, "self_attn.q_proj"): 1,
        layer(0, "self_attn.v_proj"): 1,
        layer(1, "mlp.up_proj"): 1,
        layer(1, "mlp.down_proj"): 1,
        layer(1, "self_attn.q_proj"): 1,
        layer(1, "self_attn.v_proj"): 1,
        # Two weights in one column.
        layer(1, "self_attn.o_proj"): 1,
    }
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["rank_pattern"] == config["alpha_pattern"] == adapter.ranks
    assert config["base_model_name_or_path"] == "base"
    assert str(tmp_path) not in json.dumps(config)


def test_the_model_decides_what_is_subtracted(make_model, base_of, save, tmp_path):
    """A fine-tune's own weights are subtracted where the patch writes zeros."""
    from peft import PeftModel

    patch = small_patch(make_model("llama"), base_of(make_model("llama")))
    tuned = make_model("llama", seed=1)
    adapter = export_peft(patch, save(tuned), tmp_path / "adapter")
    assert adapter.drift.unequal
    patch.apply(tuned)
    wanted = logits(tuned)
    merged = PeftModel.from_pretrained(
        make_model("llama", seed=1), tmp_path / "adapter"
    ).merge_and_unload()
    torch.testing.assert_close(logits(merged), wanted, **TOLERANCE)


def test_zeros_are_exact_in_bfloat16_once_merged(make_model, base_of, save, tmp_path):
    from peft import PeftModel

    model = make_model("llama", "bfloat16")
    export_peft(small_patch(model, base_of(model)), save(model), tmp_path / "adapter")
    merged = base_of(PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload())
    assert not merged[MatrixId("decoder", 0, -1, "down")][:, [4, 9, 11]].any()
    assert not merged[MatrixId("decoder", 0, -1, "up")][3].any()


class TestRefused:
    def test_an_adapter_larger_than_the_matrix(
        self, make_model, make_patch, base_of, save, tmp_path
    ):
        model = make_model("llama")
        patch = make_patch(model_layout(model), base=base_of(model), kinds=("zero",), count=60)
        with pytest.raises(PatchMismatchError, match="larger than what it changes: 'model"):
            export_peft(patch, save(model), tmp_path / "adapter")
        assert not (tmp_path / "adapter").exists()

    def test_experts_that_are_one_parameter(self, make_model, make_patch, base_of, save, tmp_path):
        model = make_model("mixtral")
        expert = MatrixId("decoder", 0, 1, "up")
        patch = make_patch(
            model_layout(model), base=base_of(model), kinds=("zero",), matrices=[expert], count=1
        )
        with pytest.raises(ModelError, match="is not the weight of a linear layer"):
            export_peft(patch, save(model), tmp_path / "adapter")

    def test_nothing_to_change(self, make_model, make_patch, base_of, save, tmp_path):
        model = make_model("llama")
        patch = make_patch(model_layout(model), base=base_of(model), kinds=("zero",), count=1)
        patch.apply(model)
        with pytest.raises(SelectionError, match="changes no weight"):
            export_peft(patch, save(model), tmp_path / "adapter")

    def test_an_output_that_is_there(self, make_model, base_of, save, tmp_path):
        model = make_model("llama")
        patch = small_patch(model, base_of(model))
        folder = save(model)
        (tmp_path / "adapter").mkdir()
        (tmp_path / "adapter/file").touch()
        with pytest.raises(OutputError, match="exists already"):
            export_peft(patch, folder, tmp_path / "adapter")


@given(
    out=st.integers(1, 6),
    into=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    share=st.floats(0.05, 1),
)
def test_factors_give_the_change_exactly(out, into, seed, share):
    rng = np.random.default_rng(seed)
    size = out * into
    flat = rng.choice(size, max(1, int(share * size)), replace=False)
    delta = rng.standard_normal(len(flat)).astype(np.float32)
    change = Change((out, into), *np.divmod(flat, into), delta)
    b, a = change.factors()
    expected = np.zeros(size, np.float32)
    expected[flat] = delta
    assert np.array_equal(b @ a, expected.reshape(out, into))
    assert (b.shape, a.shape) == ((out, change.rank), (change.rank, into))
    assert change.rank <= min(out, into)
    assert change.is_small == (b.size + a.size < size)
