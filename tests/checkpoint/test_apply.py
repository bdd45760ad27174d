from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuropatch.checkpoint import apply as module
from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.errors import CheckpointError, OutputError, PatchMismatchError, UsageError
from neuropatch.models.coordinates import MatrixId
from neuropatch.patch.format import read_patch
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import FLOAT_DTYPES

DOWN = MatrixId("decoder", 0, -1, "down")


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@settings(max_examples=25, deadline=None)
@given(
    model=st.sampled_from(["llama", "gpt2"]),
    dtype=st.sampled_from(sorted(FLOAT_DTYPES)),
    shards=st.sampled_from([1, 3]),
    kinds=st.lists(st.sampled_from(["zero", "scale", "set", "add"]), min_size=1, unique=True),
    seed=st.integers(0, 1000),
    in_place=st.booleans(),
)
def test_apply_then_revert_gives_the_bytes_back(lab, model, dtype, shards, kinds, seed, in_place):
    with tempfile.TemporaryDirectory() as name:
        folder = lab.checkpoint(Path(name) / "m", model, dtype, shards, seed)
        before = lab.tree(folder)
        patch = lab.patch(folder, tuple(kinds), seed)
        expected = lab.expected(folder, patch)
        if in_place:
            apply_patches(folder, [patch], in_place=True)
            assert lab.holds(folder, expected)
            revert_patches(folder, [patch], in_place=True)
            (folder / "neuropatch" / "undo-0001.safetensors").unlink()
            assert lab.tree(folder) == before
            return
        result = apply_patches(folder, [patch], folder.parent / "out")
        assert result.weights == len(patch)
        assert lab.holds(result.output, expected)
        assert lab.tree(folder) == before
        revert_patches(result.output, [patch], folder.parent / "back")
        assert lab.tree(folder.parent / "back") == before
        assert lab.names(folder.parent) == ["back", "m", "out"]


def test_only_edited_tensors_change(lab, model, tmp_path):
    patch = lab.patch(model, roles=("down",))
    apply_patches(model, [patch], tmp_path / "out")
    changed = lab.bytes_changed(model / "model.safetensors", tmp_path / "out/model.safetensors")
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)}


def test_units_become_columns(lab, model, tmp_path):
    apply_patches(model, [lab.unit_patch(model, [3, 7])], tmp_path / "out")
    before, after = lab.values(model, DOWN), lab.values(tmp_path / "out", DOWN)
    assert not after[:, [3, 7]].any()
    kept = [column for column in range(12) if column not in (3, 7)]
    assert np.array_equal(before[:, kept], after[:, kept])


def test_several_patches_in_any_order(lab, model, tmp_path):
    first = NeuronPatch(
        lab.patch(model).metadata,
        (lab.edit(model, DOWN, "zero", [1, 2]), lab.edit(model, DOWN, "add", [9], 1.0)),
    )
    second = NeuronPatch(
        first.metadata,
        (lab.edit(model, DOWN, "zero", [2, 3]), lab.edit(model, DOWN, "scale", [10], 2.0)),
    )
    units = lab.unit_patch(model, [0, 5], factor=0.5, layer=1)
    for name, patches in {"a": [first, second, units], "b": [units, second, first]}.items():
        assert apply_patches(model, patches, tmp_path / name).weights == 5 + 2 * 8
    assert lab.tree(tmp_path / "a") == lab.tree(tmp_path / "b")
    revert_patches(tmp_path / "a", [second, units, first], tmp_path / "back")
    assert lab.tree(tmp_path / "back") == lab.tree(model)
    one = apply_patches(model, [first], tmp_path / "one").output
    two = apply_patches(one, [units], tmp_path / "two").output
    half = revert_patches(two, [first], tmp_path / "half").output
    revert_patches(half, [units], tmp_path / "base")
    assert lab.tree(tmp_path / "base") == lab.tree(model)


def test_revert_needs_a_model_that_holds_the_patch(lab, model, tmp_path):
    patch = lab.patch(model, roles=("up", "down"), kinds=("set",))
    with pytest.raises(PatchMismatchError) as caught:
        revert_patches(model, [patch], tmp_path / "out")
    assert "12 of 12 weights have other values" in caught.value.message
    assert "decoder.0.up (3)" in caught.value.message
    assert lab.names(tmp_path) == ["model"]


class TestFineTune:
    """A patch of a base, applied to a model that was trained on from it."""

    @pytest.fixture
    def tuned(self, lab, tmp_path):
        return lab.checkpoint(tmp_path / "tuned", dtype="BF16", seed=5)

    def test_the_undo_patch_gives_its_own_bytes_back(self, lab, model, tuned, tmp_path):
        patch = lab.patch(model)
        result = apply_patches(tuned, [patch], tmp_path / "out")
        assert result.drift.unequal > 0
        assert result.undo == tmp_path / "out/neuropatch/undo-0001.safetensors"
        assert any(str(result.undo) in note for note in result.notes)
        assert [p.name for p in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]
        revert_patches(tmp_path / "out", [read_patch(result.undo)], tmp_path / "back")
        data = (tmp_path / "back/model.safetensors").read_bytes()
        assert data == (tuned / "model.safetensors").read_bytes()

    def test_reverting_the_patch_itself_would_leave_the_bases_values(
        self, lab, model, tuned, tmp_path
    ):
        patch = lab.patch(model, kinds=("zero",))
        apply_patches(tuned, [patch], tmp_path / "out")
        with pytest.raises(PatchMismatchError, match="fine-tune") as caught:
            revert_patches(tmp_path / "out", [patch], tmp_path / "back")
        assert "undo-0001.safetensors" in caught.value.hint

    def test_undo_patches_travel_along(self, lab, model, tuned, tmp_path):
        one = lab.patch(model, kinds=("zero",), roles=("up",))
        two = lab.patch(model, kinds=("zero",), roles=("down",))
        apply_patches(tuned, [one], tmp_path / "a")
        result = apply_patches(tmp_path / "a", [two], tmp_path / "b")
        assert result.undo is not None
        assert result.undo.name == "undo-0002.safetensors"
        undo = [read_patch(p) for p in (tmp_path / "b/neuropatch").iterdir()]
        revert_patches(tmp_path / "b", undo, tmp_path / "c")
        data = (tmp_path / "c/model.safetensors").read_bytes()
        assert data == (tuned / "model.safetensors").read_bytes()


class TestFiles:
    def test_what_is_copied_and_what_is_left_out(self, lab, model, tmp_path):
        kept = ["README.md", "chat_template.jinja", "merges.txt", ".gitattributes"]
        other = [
            "pytorch_model.bin", "model.gguf", "consolidated.safetensors", "flax_model.msgpack",
            "pytorch_model.bin.index.json", "adapter_model.safetensors", "tf_model.h5",
        ]  # fmt: skip
        for name in kept + other:
            (model / name).write_text(name)
        (model / "onnx").mkdir()
        (model / "onnx/model.onnx").write_text("x")
        (model / "gone").symlink_to("nowhere")
        os.mkfifo(model / "pipe")
        result = apply_patches(model, [lab.patch(model)], tmp_path / "out")
        assert set(result.left_out) == {*other, "onnx", "gone", "pipe"}
        mine = ["config.json", "model.safetensors", "tokenizer.json"]
        assert lab.names(tmp_path / "out") == sorted(kept + mine)
        assert sum(result.files.values()) == len(kept + mine)

    def test_a_hub_snapshot_is_never_changed(self, lab, tmp_path):
        repo = tmp_path / "hub/models--a--b"
        made = lab.checkpoint(tmp_path / "made", shards=2)
        (repo / "blobs").mkdir(parents=True)
        snapshot = repo / "snapshots/0123"
        snapshot.mkdir(parents=True)
        for number, path in enumerate(sorted(made.iterdir())):
            path.rename(repo / f"blobs/{number}")
            (snapshot / path.name).symlink_to(f"../../blobs/{number}")
        before = lab.tree(repo)
        patch = lab.patch(snapshot)
        result = apply_patches(snapshot, [patch], tmp_path / "out", hard_link=True)
        assert not any(path.is_symlink() for path in result.output.iterdir())
        assert "hard-linked" not in result.files
        revert_patches(result.output, [patch], tmp_path / "back")
        assert lab.tree(tmp_path / "back") == lab.tree(snapshot)
        for folder in (snapshot, tmp_path / "alias"):
            if folder != snapshot:
                folder.symlink_to(snapshot)
            with pytest.raises(OutputError, match="Hub cache"):
                apply_patches(folder, [patch], in_place=True)
        assert lab.tree(repo) == before

    def test_hard_links_only_for_unedited_weights(self, lab, tmp_path):
        folder = lab.checkpoint(tmp_path / "m", shards=3)
        before = lab.tree(folder)
        patch = NeuronPatch(lab.patch(folder).metadata, (lab.edit(folder, DOWN, "zero", [1]),))
        result = apply_patches(folder, [patch], tmp_path / "out", hard_link=True)
        assert result.files["hard-linked"] == 2
        assert len(result.shards_edited) == 1
        for path in result.output.iterdir():
            shared = path.samefile(folder / path.name)
            edited = path.name in result.shards_edited
            assert shared == (path.name.endswith(".safetensors") and not edited)
        assert lab.tree(folder) == before

    def test_a_model_that_changes_meanwhile(self, lab, model, tmp_path, monkeypatch):
        real = module.clone

        def late(source, destination):
            os.utime(source, ns=(1, 1))
            return real(source, destination)

        monkeypatch.setattr(module, "clone", late)
        with pytest.raises(CheckpointError, match="changed while it was copied"):
            apply_patches(model, [lab.patch(model)], tmp_path / "out")
        assert lab.names(tmp_path) == ["model"]


class TestOutput:
    def check(self, lab, model, output, message):
        before = lab.tree(model)
        with pytest.raises(OutputError, match=message):
            apply_patches(model, [lab.patch(model)], output)
        assert lab.tree(model) == before

    def test_taken(self, lab, model, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/note").write_text("mine")
        self.check(lab, model, tmp_path / "out", "exists already")
        self.check(lab, model, tmp_path / "out/note", "exists already")
        (tmp_path / "link").symlink_to("out")
        self.check(lab, model, tmp_path / "link", "symbolic link")
        assert lab.tree(tmp_path / "out").keys() == {"note"}

    def test_an_empty_folder_is_filled(self, lab, model, tmp_path):
        (tmp_path / "out").mkdir()
        apply_patches(model, [lab.patch(model)], tmp_path / "out")
        assert (tmp_path / "out/model.safetensors").exists()
        assert hidden(tmp_path) == []

    def test_inside_the_model(self, lab, model, tmp_path):
        self.check(lab, model, model, "inside the model's folder")
        self.check(lab, model, model / "sub/patched", "inside the model's folder")
        (tmp_path / "alias").symlink_to(model)
        self.check(lab, model, tmp_path / "alias/patched", "inside the model's folder")

    def test_folders_above_are_made(self, lab, model, tmp_path):
        apply_patches(model, [lab.patch(model)], tmp_path / "a/b/out")
        assert (tmp_path / "a/b/out/config.json").exists()

    def test_relative_and_dotted(self, lab, model, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        apply_patches(Path("../model"), [lab.patch(model)], Path("../out"))
        assert (tmp_path / "out/config.json").exists()

    def test_a_folder_that_cannot_be_written(self, lab, model, tmp_path, monkeypatch):
        def denied(self, *_, **__):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "mkdir", denied)
        self.check(lab, model, tmp_path / "out", "Permission denied")

    def test_output_or_in_place(self, lab, model, tmp_path):
        patch = lab.patch(model)
        for arguments in (
            {},
            {"output": tmp_path / "o", "in_place": True},
            {"in_place": True, "hard_link": True},
        ):
            with pytest.raises(UsageError):
                apply_patches(model, [patch], **arguments)

    def test_dry_run_writes_nothing(self, lab, model, tmp_path):
        patch = lab.patch(model)
        before = lab.tree(tmp_path)
        planned = apply_patches(model, [patch], tmp_path / "out", dry_run=True)
        assert planned.dry_run
        assert planned.weights == len(patch)
        assert apply_patches(model, [patch], in_place=True, dry_run=True).changed == len(patch)
        assert lab.tree(tmp_path) == before
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_result_as_json(lab, model, tmp_path):
    result = apply_patches(model, [lab.patch(model)], tmp_path / "out")
    document = json.loads(json.dumps(result.to_json()))
    assert document["weights"] == result.weights
    assert document["shards_edited"] == ["model.safetensors"]
    assert document["drift"]["down"]["equal"] == document["drift"]["down"]["weights"]
    assert document["undo"] is None


def test_a_patch_that_is_there_already_is_said(lab, model, tmp_path):
    patch = lab.patch(model, kinds=("zero", "set"))
    apply_patches(model, [patch], tmp_path / "one")
    again = apply_patches(tmp_path / "one", [patch], tmp_path / "two")
    assert again.changed == 0
    assert "holds this patch already" in again.notes[0]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_files_and_memory_agree(kind, lab, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    make = {"llama": LlamaConfig, "gpt2": GPT2Config}[kind]
    config = make(**{k: v for k, v in lab.configs[kind].items() if k != "model_type"})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    weights = lab.patch(tmp_path / "base", roles=("up", "q", "v", "o"))
    patches = [weights, lab.unit_patch(tmp_path / "base", [1, 4], factor=0.3)]
    apply_patches(tmp_path / "base", patches, tmp_path / "out")
    for patch in patches:
        patch.apply(model)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name].view(torch.int16), value.view(torch.int16))
    revert_patches(tmp_path / "out", patches, tmp_path / "back")
    assert lab.tree(tmp_path / "back") == lab.tree(tmp_path / "base")


def test_memory_is_bounded_by_the_patch_and_torch_is_not_loaded(lab, tmp_path):
    config = lab.configs["llama"]
    tensors = lab.tensors(config) | {"ballast.weight": np.zeros((40, 1 << 20), np.float32)}
    folder = lab.write(tmp_path / "m", config, tensors)
    lab.patch(folder).save(tmp_path / "patch.safetensors")
    script = """
import re, sys
from pathlib import Path
from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.checkpoint.diff import diff_checkpoints
from neuropatch.patch.format import read_patch
patch = read_patch(Path("patch.safetensors"))
apply_patches("m", [patch], "out")
diff_checkpoints("m", "out")
revert_patches("out", [patch], in_place=True)
assert not {"torch", "transformers"} & set(sys.modules)
# Not ru_maxrss, which a process inherits from the one that starts it.
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 < 120
