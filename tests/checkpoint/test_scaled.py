"""Float8 checkpoints whose tensors hold numbers in units of scales.

The reference multiplies whole matrices by scales that are repeated over their blocks.
"""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from neuropatch.checkpoint import diff as diff_module
from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.checkpoint.diff import diff_checkpoints
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.plan import make_plan
from neuropatch.checkpoint.stored import as_stored
from neuropatch.errors import CheckpointError, PatchMismatchError
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.format import read_patch
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.safetensors_file import read_header

DOWN = MatrixId("decoder", 0, -1, "down")
DOWN_NAME = "model.layers.0.mlp.down_proj.weight"
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
BF16 = np.dtype(ml_dtypes.bfloat16)


def compressed_tensors(strategy, **weights):
    """The quantization_config of a float8 model that llm-compressor saved."""
    scheme = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, **weights}
    group = {"targets": ["Linear"], "weights": scheme, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


FINE_GRAINED = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "weight_block_size": [4, 4],
}
# Style: config, ending of the scales' name, their format, and the block they serve (None: all).
STYLES = {
    "tensor": (compressed_tensors("tensor"), "_scale", "BF16", None),
    "scalar": (compressed_tensors("tensor"), "_scale", "F32", None),
    "channel": (compressed_tensors("channel"), "_scale", "BF16", (1, 0)),
    "rows": ({"quant_method": "fbgemm_fp8"}, "_scale", "F32", (1, 0)),
    "blocks": (FINE_GRAINED, "_scale_inv", "F32", (4, 4)),
    "ragged": (
        compressed_tensors("block", block_structure=[5, 7]),
        "_scale",
        "F32",
        (5, 7),
    ),
    "powers": (FINE_GRAINED | {"scale_fmt": "ue8m0"}, "_scale_inv", "F8_E8M0", (4, 4)),
}


def spread(scales, shape, block):
    """Scales repeated over their blocks: one a weight."""
    height, width = shape if block is None else block
    scales = scales.reshape(-(-shape[0] // height), -1)
    rows = np.repeat(scales, height, 0)[: shape[0]]
    return np.repeat(rows, width or shape[1], 1)[:, : shape[1]]


def quantise(lab, folder, style, seed=0):
    """A float8 checkpoint; returns it, and its weights and the scale of each by name."""
    config, ending, dtype, block = STYLES[style]
    rng = np.random.default_rng(seed)
    tensors, weights, scale = {}, {}, {}
    for name, plain in lab.tensors(lab.configs["llama"], "BF16", seed).items():
        if not name.endswith("proj.weight"):
            tensors[name] = ("BF16", plain)
            continue
        rows, columns = plain.shape
        height, width = (rows, columns) if block is None else block
        width = width or columns
        shape = (-(-rows // height), -(-columns // width))
        # Bits of random float8 numbers: all of them, negative zero too, but for the two NaNs.
        codes = rng.integers(0, 256, plain.shape).astype(np.uint8)
        codes[(codes & 0x7F) == 0x7F] = 0x80
        if dtype == "F8_E8M0":
            stored = rng.integers(110, 130, shape).astype(np.uint8)
            scales = 2.0 ** (stored.astype(np.float64) - 127)
        else:
            kind = BF16 if dtype == "BF16" else np.dtype(np.float32)
            stored = rng.uniform(1e-4, 3e-3, shape).astype(kind)
            scales = stored.astype(np.float64)
        if style in ("tensor", "scalar", "rows"):
            stored = stored.reshape({"tensor": (1,), "scalar": (), "rows": (-1,)}[style])
        # float64 holds the product of a float8 and a float32 number exactly.
        scale[name] = spread(scales, plain.shape, block)
        weights[name] = (codes.view(E4M3).astype(np.float64) * scale[name]).astype(np.float32)
        tensors[name] = ("F8_E4M3", codes)
        tensors[name + ending] = (dtype, stored)
    folder.mkdir(parents=True)
    config = {**lab.configs["llama"], "quantization_config": config}
    (folder / "config.json").write_text(json.dumps(config))
    lab.raw(folder / "model.safetensors", tensors)
    return folder, weights, scale


def by_matrix(weights, layout):
    """Weights of each matrix from those of each tensor, whose names end in .weight."""
    return {m: weights[layout.disk(m).names[0]] for m in layout.matrices()}


def nearest(wanted, scale):
    """The float8 number times the scale that is nearest, by looking at all of them."""
    codes = np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float64)
    levels = np.unique(codes[np.isfinite(codes)]) * scale
    return levels[np.argmin(np.abs(levels - wanted))]


@pytest.fixture(params=sorted(STYLES))
def style(request):
    return request.param


@pytest.fixture
def scaled(lab, tmp_path, style):
    return quantise(lab, tmp_path / "model", style)


@pytest.fixture
def patch_of(lab, make_patch):
    """A patch of all kinds on every matrix, whose edits stay within the range of the scales."""
    layout = Layout.from_config(lab.configs["llama"])

    def make(weights, *, units=("scale",), kinds=("zero", "scale", "set", "add")):
        patch = make_patch(layout, base=by_matrix(weights, layout), kinds=kinds, units=units)
        return replace(patch, weights=tuple(map(small, patch.weights)))

    def small(edit):
        if edit.kind not in ("set", "add"):
            return edit
        return replace(edit, value=(edit.before * -0.3 + 1e-5).astype(edit.value.dtype))

    return make


def test_weights_are_read_times_their_scales(lab, scaled):
    folder, weights, _ = scaled
    checkpoint = Checkpoint.open(folder)
    for matrix, expected in by_matrix(weights, checkpoint.layout).items():
        location = checkpoint.locate(matrix)
        with checkpoint.path(location.shard).open("rb") as file:
            found = location.read(file.fileno(), np.arange(expected.size))
        assert found.dtype == np.float32
        assert found.tobytes() == expected.tobytes()


def test_a_patch_is_applied_and_taken_back(lab, scaled, patch_of, tmp_path):
    folder, weights, _ = scaled
    patch = patch_of(weights)
    result = apply_patches(folder, [patch], tmp_path / "out")
    assert not result.drift.unequal
    assert result.undo is None
    back = revert_patches(tmp_path / "out", [patch], tmp_path / "back")
    assert lab.tree(tmp_path / "back") == lab.tree(folder)
    assert not back.rounding.weights


def test_new_weights_are_the_nearest_that_the_file_can_hold(scaled, patch_of):
    folder, weights, scales = scaled
    patch = patch_of(weights)
    plan = make_plan(Checkpoint.open(folder), [patch])
    errors = []
    for write in plan.writes:
        edit, name = write.change.edit, write.location.info.name
        wanted = edit.new_values(weights[name][edit.rows, edit.columns]).astype(np.float64)
        scale = scales[name][edit.rows, edit.columns]
        exact = [nearest(one, by) for one, by in zip(wanted, scale, strict=True)]
        found = np.empty_like(write.new)
        found[write.order] = write.new
        # Which of two numbers at the same distance is taken is free; weights are float32.
        further = np.abs(found - wanted) - np.abs(exact - wanted)
        assert (np.abs(further) <= np.abs(wanted) * 2.0**-22).all()
        errors.extend(np.abs(found - wanted))
    assert plan.rounding.weights == len(patch.compiled())
    assert plan.rounding.rounded == np.count_nonzero(errors) > 0
    assert plan.rounding.largest == pytest.approx(max(errors))


def test_zeros_are_exact_and_nothing_is_said_of_rounding(scaled, patch_of, tmp_path):
    folder, weights, _ = scaled
    patch = patch_of(weights, kinds=("zero",), units=())
    result = apply_patches(folder, [patch], tmp_path / "out")
    assert (result.rounding.rounded, result.notes) == (0, ())
    plan = make_plan(Checkpoint.open(tmp_path / "out"), [patch.invert()])
    assert all(not write.old.any() for write in plan.writes)


def test_a_patch_of_the_dequantised_model_fits(lab, scaled, patch_of, tmp_path):
    folder, weights, _ = scaled
    loaded = {name: values.astype(BF16) for name, values in weights.items()}
    patch = patch_of(loaded)
    assert patch.weights[0].before.dtype == BF16
    result = apply_patches(folder, [patch], tmp_path / "out")
    assert not result.drift.unequal
    revert_patches(tmp_path / "out", [patch], tmp_path / "back")
    assert lab.tree(tmp_path / "back") == lab.tree(folder)
    stored = as_stored(replace(patch, weights=()), Checkpoint.open(folder))
    assert stored.units[0].before.dtype == np.float32


def test_edits_in_place_are_undone_and_rolled_back(lab, scaled, patch_of):
    folder, weights, _ = scaled
    before = lab.tree(folder)
    result = apply_patches(folder, [patch_of(weights)], in_place=True)
    undo = read_patch(result.undo)
    # As if the edit had been interrupted after its last write.
    (folder / "neuropatch/in-place.json").write_text(json.dumps({"undo": result.undo.name}))
    assert "rolled back" in revert_patches(folder, [undo], in_place=True).notes[-1]
    assert lab.tree(folder) == before
    result = apply_patches(folder, [patch_of(weights)], in_place=True)
    revert_patches(folder, [read_patch(result.undo)], in_place=True)
    result.undo.unlink()
    assert lab.tree(folder) == before


def test_a_diff_gives_the_other_checkpoint(lab, scaled, patch_of, tmp_path, monkeypatch):
    folder, weights, _ = scaled
    monkeypatch.setattr(diff_module, "CHUNK_BYTES", 64)
    apply_patches(folder, [patch_of(weights)], tmp_path / "out")
    found = diff_checkpoints(folder, tmp_path / "out")
    assert not found.not_carried
    assert {edit.before.dtype for edit in found.patch.weights} == {np.dtype(np.float32)}
    result = apply_patches(folder, [found.patch], tmp_path / "again")
    assert not result.rounding.rounded
    assert lab.tree(tmp_path / "again") == lab.tree(tmp_path / "out")


def test_a_diff_of_one_matrix(scaled, patch_of, tmp_path):
    folder, weights, _ = scaled
    patch = patch_of(weights, kinds=("zero",), units=())
    one = replace(patch, weights=tuple(e for e in patch.weights if e.matrix == DOWN))
    apply_patches(folder, [one], tmp_path / "out")
    found = diff_checkpoints(folder, tmp_path / "out").patch
    # Zeros that were there before are no difference.
    assert {edit.matrix for edit in found.weights} == {DOWN}
    assert len(found) <= len(one)


class TestRefused:
    @pytest.fixture
    def blocks(self, lab, tmp_path):
        return quantise(lab, tmp_path / "model", "blocks")

    def rewrite(self, lab, folder, name, change):
        """Change one tensor of a checkpoint; None leaves it out."""
        path = folder / "model.safetensors"
        header = read_header(path)
        tensors = {}
        for key, info in header.tensors.items():
            raw = path.read_bytes()[info.start : info.stop]
            array = np.frombuffer(raw, np.uint8).copy()
            dtype = {"F32": np.float32}.get(info.dtype)
            shape = (-1,) if dtype is None and info.dtype == "BF16" else info.shape
            array = (array.view(dtype) if dtype else array).reshape(shape)
            if info.dtype == "BF16":
                array = array.view(BF16).reshape(info.shape)
            tensors[key] = (info.dtype, array)
        changed = change(tensors.pop(name))
        lab.raw(path, tensors if changed is None else tensors | {name: changed})

    def plan(self, folder, edit):
        checkpoint = Checkpoint.open(folder)
        patch = NeuronPatch(PatchMetadata(checkpoint.layout.signature), (edit,))
        return make_plan(checkpoint, [patch])

    def edit(self, weights, kind, value=None):
        before = weights[DOWN_NAME][:1, 0]
        zero = np.zeros(1, np.int64)
        value = None if value is None else np.float32([value])
        return WeightEdit(DOWN, kind, zero, zero, before, value)

    @pytest.mark.parametrize(("kind", "value"), [("set", 20.0), ("add", -20.0)])
    def test_beyond_the_range_of_the_scale(self, blocks, kind, value):
        folder, weights, _ = blocks
        with pytest.raises(PatchMismatchError) as caught:
            self.plan(folder, self.edit(weights, kind, value))
        assert f"'{DOWN_NAME}_scale_inv'" in caught.value.message
        assert "dequantise" in caught.value.hint
        # The largest number is within it, and so is what is rounded to it.
        largest = (
            self.plan(folder, self.edit(weights, "zero"))
            .writes[0]
            .location.scaled.largest(np.zeros(1, np.int64))
        )
        plan = self.plan(folder, self.edit(weights, "set", float(largest[0]) * 1.03))
        assert plan.writes[0].new == largest

    def test_no_scales_where_the_config_says_so(self, lab, blocks):
        folder, weights, _ = blocks
        self.rewrite(lab, folder, DOWN_NAME + "_scale_inv", lambda tensor: None)
        with pytest.raises(CheckpointError, match=r"has no tensor .*down_proj.weight_scale_inv'"):
            self.plan(folder, self.edit(weights, "zero"))

    @pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
    def test_damaged_scales(self, lab, blocks, value):
        folder, weights, _ = blocks
        self.rewrite(
            lab, folder, DOWN_NAME + "_scale_inv", lambda tensor: (tensor[0], tensor[1] * 0 + value)
        )
        with pytest.raises(CheckpointError, match="not positive numbers"):
            self.plan(folder, self.edit(weights, "zero"))

    @pytest.mark.parametrize("shape", [(5, 4), (2, 4, 1), (0, 4)])
    def test_scales_of_no_known_blocks(self, lab, blocks, shape):
        folder, weights, _ = blocks
        self.rewrite(
            lab,
            folder,
            DOWN_NAME + "_scale_inv",
            lambda tensor: (tensor[0], np.ones(shape, np.float32)),
        )
        with pytest.raises(CheckpointError, match="which of the weights"):
            self.plan(folder, self.edit(weights, "zero"))

    def test_scales_of_a_plain_tensor(self, lab, blocks):
        folder, weights, _ = blocks
        plain = ("BF16", np.zeros((8, 12), BF16))
        self.rewrite(lab, folder, DOWN_NAME, lambda tensor: plain)
        with pytest.raises(CheckpointError, match="BF16 in units of"):
            self.plan(folder, self.edit(weights, "zero"))

    def test_a_diff_of_models_that_were_quantised_apart(self, blocks, tmp_path, lab):
        folder, _, _ = blocks
        other, _, _ = quantise(lab, tmp_path / "other", "blocks", seed=1)
        with pytest.raises(CheckpointError, match="were quantised apart"):
            diff_checkpoints(folder, other)


class TestLoading:
    """What other libraries make of a patched checkpoint."""

    @pytest.mark.parametrize("style", ["blocks", "powers", "ragged"])
    def test_weights_are_those_that_transformers_loads(self, lab, patch_of, tmp_path, style):
        import torch
        from transformers import AutoModelForCausalLM, CompressedTensorsConfig

        dequantising = {"quantization_config": CompressedTensorsConfig(dequantize=True)}
        folder, weights, _ = quantise(lab, tmp_path / "model", style)
        patch = patch_of(weights)
        apply_patches(folder, [patch], tmp_path / "out")
        # Transformers dequantises its own format by itself where there is no GPU.
        options = dequantising if style == "ragged" else {}
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path / "out", dtype=torch.float32, **options
        )
        loaded = model.state_dict()
        changed = 0
        for write in make_plan(Checkpoint.open(folder), [patch]).writes:
            found = loaded[write.location.info.name].reshape(-1)[torch.from_numpy(write.offsets)]
            assert found.numpy().tobytes() == write.new.tobytes()
            changed += len(write.offsets)
        assert changed == len(patch.compiled())
