"""gpt-oss as it is published: experts in blocks of 32 4-bit numbers with one exponent (MXFP4).

The reference unpacks whole tensors.
"""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.checkpoint.diff import diff_checkpoints
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.errors import CheckpointError
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.safetensors_file import read_array, read_header

BF16 = np.dtype(ml_dtypes.bfloat16)
GPT_OSS = {
    "model_type": "gpt_oss",
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "vocab_size": 16,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
    },
}
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


@pytest.fixture
def gpt_oss(lab, tmp_path):
    """A checkpoint, and its weights ``[expert, out, in]`` by the start of the name."""
    rng = np.random.default_rng(0)
    experts = "model.layers.0.mlp.experts."
    tensors, weights = {}, {}
    for name, rows, columns in (("gate_up_proj", 64, 64), ("down_proj", 64, 32)):
        blocks = rng.integers(0, 256, (2, rows, columns // 32, 16)).astype(np.uint8)
        scales = rng.integers(118, 125, (2, rows, columns // 32)).astype(np.uint8)
        tensors[f"{experts}{name}_blocks"] = ("U8", blocks)
        tensors[f"{experts}{name}_scales"] = ("U8", scales)
        numbers = np.empty((2, rows, columns // 32, 32))
        numbers[..., 0::2], numbers[..., 1::2] = FP4[blocks & 15], FP4[blocks >> 4]
        exact = numbers * 2.0 ** (scales[..., None].astype(np.float64) - 127)
        weights[name] = exact.reshape(2, rows, columns).astype(np.float32)
    for name, shape in (("q", (16, 64)), ("k", (8, 64)), ("v", (8, 64)), ("o", (64, 16))):
        values = rng.standard_normal(shape).astype(BF16)
        tensors[f"model.layers.0.self_attn.{name}_proj.weight"] = ("BF16", values)
        weights[name] = values
    folder = tmp_path / "gpt-oss"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GPT_OSS))
    lab.raw(folder / "model.safetensors", tensors)
    return folder, weights


def base_of_weights(weights):
    """Weights ``[out, in]`` by matrix: gate and up are every other row."""
    layout = Layout.from_config(GPT_OSS)
    whole = {"gate": ("gate_up_proj", 0, 2), "up": ("gate_up_proj", 1, 2)}
    found = {}
    for matrix in layout.matrices():
        name, start, step = whole.get(matrix.role, ("down_proj", 0, 1))
        experts = weights[matrix.role] if matrix.role in weights else weights[name]
        found[matrix] = experts if matrix.role in weights else experts[matrix.expert, start::step]
    return found


def test_weights(gpt_oss):
    folder, weights = gpt_oss
    checkpoint = Checkpoint.open(folder)
    for matrix, expected in base_of_weights(weights).items():
        location = checkpoint.locate(matrix)
        rows, columns = np.divmod(np.arange(expected.size), expected.shape[1])
        with checkpoint.path(location.shard).open("rb") as file:
            found = location.read(file.fileno(), location.slot.offsets(rows, columns))
        assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("kinds", [("zero",), ("zero", "scale", "set", "add")])
def test_apply_revert_and_diff(lab, gpt_oss, make_patch, tmp_path, kinds):
    folder, weights = gpt_oss
    base = base_of_weights(weights)
    patch = make_patch(
        Layout.from_config(GPT_OSS), base=base, kinds=kinds, units=("scale",), count=7
    )
    edits = [
        replace(e, value=(e.before * -0.5).astype(e.value.dtype))
        if e.kind == "set" or e.kind == "add"
        else e
        for e in patch.weights
    ]
    patch = replace(patch, weights=tuple(edits))
    result = apply_patches(folder, [patch], tmp_path / "out")
    assert not result.drift.unequal
    revert_patches(tmp_path / "out", [patch], tmp_path / "back")
    assert lab.tree(tmp_path / "back") == lab.tree(folder)
    found = diff_checkpoints(folder, tmp_path / "out").patch
    # No weight but those of the patch, though each byte holds two.
    edited = {(e.matrix, key) for e in patch.compiled().weights for key in e.keys.tolist()}
    assert {(e.matrix, key) for e in found.weights for key in e.keys.tolist()} <= edited
    apply_patches(folder, [found], tmp_path / "again")
    assert lab.tree(tmp_path / "again") == lab.tree(tmp_path / "out")


def test_zeroed_experts_are_zero(gpt_oss, tmp_path):
    folder, weights = gpt_oss
    down = MatrixId("decoder", 0, 1, "down")
    rows, columns = np.divmod(np.arange(64 * 32), 32)
    before = base_of_weights(weights)[down].reshape(-1)
    metadata = PatchMetadata(Layout.from_config(GPT_OSS).signature)
    patch = NeuronPatch(metadata, (WeightEdit(down, "zero", rows, columns, before),))
    apply_patches(folder, [patch], tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    info = read_header(path).tensors["model.layers.0.mlp.experts.down_proj_blocks"]
    blocks = read_array(path, info)
    assert not blocks[1].any()
    assert blocks[0].tobytes() == read_array(folder / "model.safetensors", info)[0].tobytes()


def test_without_scales(lab, gpt_oss):
    folder, _ = gpt_oss
    path = folder / "model.safetensors"
    header = read_header(path)
    tensors = {
        name: ("U8", read_array(path, info))
        for name, info in header.tensors.items()
        if info.dtype == "U8" and name != "model.layers.0.mlp.experts.down_proj_scales"
    }
    lab.raw(path, tensors)
    with pytest.raises(CheckpointError, match=r"has no tensor .*down_proj_scales"):
        Checkpoint.open(folder).locate(MatrixId("decoder", 0, 0, "down"))


def test_weights_are_those_that_transformers_loads(gpt_oss, make_patch, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, Mxfp4Config

    folder, weights = gpt_oss
    base = base_of_weights(weights)
    patch = make_patch(Layout.from_config(GPT_OSS), base=base, kinds=("zero", "scale"))
    apply_patches(folder, [patch], tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out",
        dtype=torch.float32,
        quantization_config=Mxfp4Config(dequantize=True),
    )
    loaded = model.state_dict()["model.layers.0.mlp.experts.down_proj"]
    for expert in (0, 1):
        matrix = MatrixId("decoder", 0, expert, "down")
        expected = base[matrix].copy()
        for edit in patch.weights:
            if edit.matrix == matrix and edit.kind == "zero":
                expected[edit.rows, edit.columns] = 0
            elif edit.matrix == matrix:
                wanted = edit.new_values(edit.before)
                kept = loaded[expert].T.numpy()[edit.rows, edit.columns]
                expected[edit.rows, edit.columns] = kept
                # Numbers of MXFP4 lie at most a third apart, or are below the smallest.
                assert (np.abs(kept - wanted) <= np.abs(wanted) / 3 + 2.0**-3).all()
        assert np.array_equal(loaded[expert].T.numpy(), expected)
