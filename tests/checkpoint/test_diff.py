from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuropatch.checkpoint import diff as module
from neuropatch.checkpoint.apply import apply_patches
from neuropatch.checkpoint.diff import diff_checkpoints
from neuropatch.errors import CheckpointError, PatchMismatchError, SelectionError
from neuropatch.models.coordinates import ROLES
from neuropatch.storage.dtypes import FLOAT_DTYPES


@settings(max_examples=20, deadline=None)
@given(
    model=st.sampled_from(["llama", "gpt2"]),
    dtype=st.sampled_from(sorted(FLOAT_DTYPES)),
    shards=st.sampled_from([(1, 1), (1, 3), (2, 3)]),
    same_seed=st.booleans(),
    chunk=st.sampled_from([64, 4 << 20]),
)
def test_applied_to_the_base_a_diff_gives_the_model(lab, model, dtype, shards, same_seed, chunk):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patching:
        patching.setattr(module, "CHUNK_BYTES", chunk)
        parent = Path(name)
        base = lab.checkpoint(parent / "base", model, dtype, shards[0], seed=1)
        other = lab.checkpoint(parent / "tuned", model, dtype, shards[1], seed=1 + (not same_seed))
        edited = apply_patches(other, [lab.patch(other)], parent / "edited").output
        found = diff_checkpoints(base, edited)
        assert bool(found.not_carried) != same_seed
        assert {edit.kind for edit in found.patch.weights} == {"set"}
        out = apply_patches(base, [found.patch], parent / "out").output
        assert lab.holds(out, lab.expected(edited, found.patch))
        with pytest.raises(SelectionError, match="no matrix differs"):
            diff_checkpoints(edited, out)


def test_carries_exactly_what_differs(lab, model, tmp_path):
    patch = lab.patch(model, kinds=("set",))
    apply_patches(model, [patch], tmp_path / "out")
    found = diff_checkpoints(model, tmp_path / "out")
    assert found.patch.weights == patch.weights
    assert found.not_carried == {}


def test_provenance(lab, model, tmp_path):
    apply_patches(model, [lab.patch(model)], tmp_path / "out")
    metadata = diff_checkpoints(model, tmp_path / "out").patch.metadata
    assert metadata.base_model.name == "model"
    assert metadata.method["name"] == "diff"
    assert metadata.method["parameters"] == {"model": "out", "roles": list(ROLES)}
    assert metadata.versions["numpy"] == np.__version__
    assert str(tmp_path) not in json.dumps(metadata.to_json())


def test_negative_zero_and_other_bits_count(lab, tmp_path):
    config = lab.configs["llama"]
    tensors = lab.tensors(config)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name].reshape(-1)[0] = 0.0
    base = lab.write(tmp_path / "a", config, tensors)
    tensors[name].reshape(-1)[0] = -0.0
    other = lab.write(tmp_path / "b", config, tensors)
    assert len(diff_checkpoints(base, other).patch) == 1


def test_roles_left_out_are_named(lab, model, tmp_path):
    apply_patches(model, [lab.patch(model, roles=("up", "q"))], tmp_path / "out")
    found = diff_checkpoints(model, tmp_path / "out", roles=("gate", "up", "down"))
    assert {edit.matrix.role for edit in found.patch.weights} == {"up"}
    assert found.not_carried == {
        f"model.layers.{layer}.self_attn.q_proj.weight": "values differ" for layer in (0, 1)
    }


def test_parts_of_a_fused_tensor_left_out_are_named(lab, tmp_path):
    folder = lab.checkpoint(tmp_path / "m", "gpt2")
    apply_patches(folder, [lab.patch(folder, roles=("q", "k"), kinds=("set",))], tmp_path / "out")
    found = diff_checkpoints(folder, tmp_path / "out", roles=("q",))
    assert {edit.matrix.role for edit in found.patch.weights} == {"q"}
    assert found.not_carried["transformer.h.1.attn.c_attn.weight"].startswith("3 values")


class TestOtherTensors:
    def diff(self, lab, tmp_path, change):
        config = lab.configs["llama"]
        tensors = lab.tensors(config)
        base = lab.write(tmp_path / "a", config, tensors)
        tensors["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
        change(tensors)
        return diff_checkpoints(base, lab.write(tmp_path / "b", config, tensors)).not_carried

    def test_new_values(self, lab, tmp_path):
        def change(tensors):
            tensors["model.norm.weight"][3] += 1

        assert self.diff(lab, tmp_path, change) == {"model.norm.weight": "values differ"}

    def test_more_tokens(self, lab, tmp_path):
        def change(tensors):
            tensors["model.embed_tokens.weight"] = np.zeros((18, 8), np.float32)

        found = self.diff(lab, tmp_path, change)
        assert found == {"model.embed_tokens.weight": "F32 [16, 8] against F32 [18, 8]"}

    def test_missing_and_added(self, lab, tmp_path):
        def change(tensors):
            del tensors["model.norm.weight"]
            tensors["lm_head.weight"] = np.zeros((16, 8), np.float32)  # tied: the same tensor
            tensors["model.layers.0.mlp.up_proj.bias"] = np.zeros(12, np.float32)

        assert self.diff(lab, tmp_path, change) == {
            "model.norm.weight": f"only in {tmp_path / 'a'}",
            "model.layers.0.mlp.up_proj.bias": f"only in {tmp_path / 'b'}",
        }


class TestRefused:
    def test_identical(self, lab, model, tmp_path):
        with pytest.raises(SelectionError, match="no matrix differs"):
            diff_checkpoints(model, lab.checkpoint(tmp_path / "same"))

    def test_only_others_differ(self, lab, model, tmp_path):
        tensors = lab.tensors(lab.configs["llama"])
        tensors["model.norm.weight"] += 1
        other = lab.write(tmp_path / "b", lab.configs["llama"], tensors)
        with pytest.raises(SelectionError, match=r"model\.norm\.weight"):
            diff_checkpoints(model, other)

    def test_formats(self, lab, model, tmp_path):
        with pytest.raises(CheckpointError, match=r"F32 in .* and BF16 in"):
            diff_checkpoints(model, lab.checkpoint(tmp_path / "b", dtype="BF16"))

    def test_architectures(self, lab, model, tmp_path):
        with pytest.raises(PatchMismatchError, match="llama against gpt2"):
            diff_checkpoints(model, lab.checkpoint(tmp_path / "b", "gpt2"))

    def test_not_a_number(self, lab, model, tmp_path):
        tensors = lab.tensors(lab.configs["llama"])
        tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = np.nan
        other = lab.write(tmp_path / "b", lab.configs["llama"], tensors)
        with pytest.raises(CheckpointError, match="NaN"):
            diff_checkpoints(model, other)
