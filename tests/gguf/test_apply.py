"""Patches on GGUF files: against whole tensors edited the slow way, and back to the bytes."""

from __future__ import annotations

import numpy as np
import pytest

from neuropatch.checkpoint.staging import exclusive
from neuropatch.errors import (
    ArchitectureError,
    CheckpointError,
    OutputError,
    PatchConflictError,
    PatchMismatchError,
    ResourceError,
    UsageError,
)
from neuropatch.gguf.apply import apply_to_gguf, revert_gguf
from neuropatch.gguf.file import GgufFile
from neuropatch.gguf.formats import FORMATS
from neuropatch.models.coordinates import ROLES, MatrixId
from neuropatch.models.layout import Signature
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch


def nearest(lab, kind, block, i, target):
    """The nearest value that a weight of a block can take, by trying every level."""
    step, lowest, count = lab.grid(kind, block, i)
    return min((step * n + lowest for n in range(count)), key=lambda v: abs(v - target))


def half_way(lab, path, role, kinds=("zero", "scale", "set", "add")):
    """Edits of every kind of one matrix, to values that its blocks span."""
    rng = np.random.default_rng(ROLES.index(role))
    matrix = MatrixId("decoder", 0, -1, role)
    weights = lab.matrix(path, matrix)
    chosen = rng.choice(weights.size, 6 * len(kinds), replace=False)
    edits = []
    for number, kind in enumerate(kinds):
        flat = np.sort(chosen[6 * number : 6 * number + 6])
        before = weights.reshape(-1)[flat]
        value = {"zero": None, "scale": 0.4, "set": before * np.float32(0.7), "add": -before / 3}
        edits.append(lab.edit(path, role, kind, flat, value[kind]))
    return edits


@pytest.mark.parametrize("kind", FORMATS)
def test_against_whole_tensors(lab, tmp_path, kind):
    path = lab.write(tmp_path / "m.gguf", kind)
    edits = [edit for role in ("down", "q", "v") for edit in half_way(lab, path, role)]
    out = tmp_path / "out.gguf"
    done = apply_to_gguf(path, [lab.patch(path, *edits)], out)
    file = GgufFile.open(path)
    old, new = lab.decoded(path), lab.decoded(out)
    distances = []
    for edit in edits:
        matrix = lab.matrix(path, edit.matrix).astype(np.float64)
        name = f"blk.0.{lab.names[edit.matrix.role]}.weight"
        data = np.fromfile(path, np.uint8)[file.tensors[name].start : file.tensors[name].stop]
        rows, columns = edit.rows, edit.columns
        if edit.matrix.role == "q":
            # 4 heads of 64 rows: rows i and i + 32 of a head lie side by side in the file.
            head, half, i = rows // 64, rows % 64 // 32, rows % 32
            rows = 64 * head + 2 * i + half
        for n in range(len(edit)):
            value = matrix[edit.rows[n], edit.columns[n]]
            parameter = None if edit.value is None else float(edit.value[n])
            target = {
                "zero": lambda value, _: 0.0,
                "scale": lambda value, p: value * p,
                "set": lambda value, p: p,
                "add": lambda value, p: value + p,
            }[edit.kind](value, parameter)
            here = rows[n], columns[n]
            found = float(new[name][here])
            if kind in lab.plain:
                expected = float(np.float32(target).astype(FORMATS[kind].dtype))
            else:
                number, i = divmod(here[0] * old[name].shape[1] + here[1], FORMATS[kind].weights)
                size = FORMATS[kind].size
                block = data[number * size : (number + 1) * size]
                expected = nearest(lab, kind, block, i, target)
            # Both are on the same level: the tolerance is that of float32 against float64.
            assert abs(found - target) <= abs(expected - target) * (1 + 1e-5) + 1e-8
            distances.append(abs(found - float(np.float32(target))))
            old[name][here] = new[name][here]
    for name, values in old.items():
        assert np.array_equal(values, new[name]), f"another weight of {name} moved"
    error = done.errors[kind]
    assert error.weights == len(distances) == done.result.weights
    assert error.others_moved == 0
    assert error.largest == pytest.approx(max(distances), rel=1e-4, abs=1e-8)
    asked = [e.value if e.kind == "add" else e.after - e.before for e in edits]
    norms = np.linalg.norm(distances), np.linalg.norm(np.concatenate(asked))
    assert error.relative == pytest.approx(norms[0] / norms[1], rel=1e-3, abs=1e-7)
    assert error.rms == pytest.approx(np.sqrt(np.mean(np.square(distances))), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("kind", FORMATS)
def test_revert_gives_the_bytes_back(lab, tmp_path, kind):
    path = lab.write(tmp_path / "m.gguf", kind)
    edits = [edit for role in ("gate", "down", "k") for edit in half_way(lab, path, role)]
    done = apply_to_gguf(path, [lab.patch(path, *edits)], tmp_path / "out.gguf")
    assert done.result.changed > 40
    assert done.result.undo == tmp_path / "out.undo.safetensors"
    undo = NeuronPatch.from_pretrained(done.result.undo)
    assert undo.metadata.method["name"] == "undo"
    back = revert_gguf(tmp_path / "out.gguf", [undo], tmp_path / "back.gguf")
    assert back.result.undo is None
    assert (tmp_path / "back.gguf").read_bytes() == path.read_bytes()
    again = apply_to_gguf(path, [undo], tmp_path / "again.gguf")
    assert again.errors[kind].largest == 0
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "out.gguf").read_bytes()


def test_only_bytes_of_touched_blocks_change(lab, tmp_path):
    path, out = lab.write(tmp_path / "m.gguf", "Q4_K"), tmp_path / "out.gguf"
    patch = lab.patch(path, lab.edit(path, "up", "zero", [0, 5, 300]))
    done = apply_to_gguf(path, [patch], out)
    assert done.result.bytes_edited == 2 * 144
    differ = np.flatnonzero(np.fromfile(path, np.uint8) != np.fromfile(out, np.uint8))
    start = GgufFile.open(path).tensors["blk.0.ffn_up.weight"].start
    # Weight 0 is in byte 16 of the first block, after its scales; 5 in byte 21; 300 in the second.
    assert set(differ) <= {start + 16, start + 21, start + 144 + 16 + 12}
    assert len(differ) == done.result.changed


def test_formats_may_differ_from_tensor_to_tensor(lab, tmp_path):
    other = {"blk.0.ffn_down.weight": "Q6_K", "blk.0.attn_v.weight": "F16"}
    path = lab.write(tmp_path / "m.gguf", "Q4_K", other=other)
    edits = [lab.edit(path, role, "zero", [1, 700]) for role in ("down", "v", "gate", "up")]
    done = apply_to_gguf(path, [lab.patch(path, *edits)], tmp_path / "out.gguf")
    assert {name: entry.weights for name, entry in done.errors.items()} == {
        "Q6_K": 2, "F16": 2, "Q4_K": 4,
    }  # fmt: skip
    assert done.errors["Q6_K"].largest == done.errors["F16"].largest == 0
    assert done.errors["Q4_K"].largest > 0


def test_a_unit_is_its_column_of_down(lab, model, tmp_path):
    matrix = MatrixId("decoder", 0, -1, "down")
    weights = lab.matrix(model, matrix)
    units = np.array([3, 40])
    edit = UnitEdit(matrix.block, "scale", units, np.zeros(2, np.float32), weights.T[units].copy())
    patch = NeuronPatch(lab.patch(model).metadata, units=(edit,))
    done = apply_to_gguf(model, [patch], tmp_path / "out.gguf")
    assert done.result.weights == 2 * 256
    new = lab.matrix(tmp_path / "out.gguf", matrix)
    assert np.abs(new[:, units]).max() == pytest.approx(done.errors["Q4_1"].largest)
    weights[:, units] = new[:, units]
    assert np.array_equal(new, weights)


def test_drift_is_counted_in_levels(lab, model, tmp_path):
    """The base's values round to the file's levels: it is that model, in another format."""
    matrix = MatrixId("decoder", 0, -1, "up")
    values = lab.matrix(model, matrix).reshape(-1)[:8]
    near = lab.edit(model, "up", "zero", range(8), before=values + np.float32(1e-5))
    far = lab.edit(model, "up", "zero", range(8), before=values + np.float32(3e-3))
    done = apply_to_gguf(model, [lab.patch(model, near)], tmp_path / "a.gguf")
    assert done.result.drift.unequal == 0
    done = apply_to_gguf(model, [lab.patch(model, far)], tmp_path / "b.gguf")
    assert done.result.drift.unequal > 0


def test_two_patches_in_one_block(lab, model, tmp_path):
    one = lab.patch(model, lab.edit(model, "up", "zero", [0, 3]))
    two = lab.patch(model, lab.edit(model, "up", "scale", [1, 5], 0.5))
    apply_to_gguf(model, [one, two], tmp_path / "both.gguf")
    apply_to_gguf(model, [two, one], tmp_path / "htob.gguf")
    apply_to_gguf(model, [one], tmp_path / "first.gguf")
    apply_to_gguf(tmp_path / "first.gguf", [two], tmp_path / "then.gguf")
    contents = {(tmp_path / f"{n}.gguf").read_bytes() for n in ("both", "htob", "then")}
    assert len(contents) == 1


def test_a_dry_run_writes_nothing(lab, model, tmp_path):
    before = sorted(tmp_path.iterdir())
    patch = lab.patch(model, lab.edit(model, "up", "zero", [0, 3]))
    done = apply_to_gguf(model, [patch], tmp_path / "out.gguf", dry_run=True)
    assert done.result.changed == 2
    assert done.errors["Q4_1"].weights == 2
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_to_change_leaves_no_undo_patch(lab, model, tmp_path):
    patch = lab.patch(model, lab.edit(model, "up", "scale", [0, 2], 1.0))
    done = apply_to_gguf(model, [patch], tmp_path / "out.gguf")
    assert (done.result.changed, done.result.undo) == (0, None)
    assert (tmp_path / "out.gguf").read_bytes() == model.read_bytes()
    assert "no weight changes" in done.result.notes


def test_what_a_killed_run_left_is_removed(lab, model, tmp_path):
    patch = lab.patch(model, lab.edit(model, "up", "zero", [0, 3]))
    partial = tmp_path / ".out.gguf.neuropatch-partial"
    partial.mkdir()
    for name in ("out.gguf", ".out.undo.safetensors.x.tmp", "lock"):
        (partial / name).write_bytes(b"half")
    apply_to_gguf(model, [patch], tmp_path / "out.gguf")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.gguf", "out.gguf", "out.undo.safetensors"}


def test_a_failed_write_leaves_nothing(lab, model, tmp_path, monkeypatch):
    patch = lab.patch(model, lab.edit(model, "up", "zero", [0, 3]))

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("neuropatch.gguf.apply.write_values", fails)
    with pytest.raises(ResourceError, match="the disk is full"):
        apply_to_gguf(model, [patch], tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


class TestRefused:
    def check(self, error, words, model, patches, out, act=apply_to_gguf):
        before = sorted(out.parent.iterdir())
        with pytest.raises(error) as caught:
            act(model, patches, out)
        for word in words.split("|"):
            assert word in caught.value.message
        assert caught.value.hint
        assert sorted(out.parent.iterdir()) == before

    @pytest.fixture
    def out(self, tmp_path):
        return tmp_path / "out.gguf"

    @pytest.fixture
    def zero(self, lab, model):
        return lab.patch(model, lab.edit(model, "up", "zero", [0, 3]))

    def test_values_beyond_a_block(self, lab, model, out):
        patch = lab.patch(model, lab.edit(model, "up", "set", [0, 2, 9], [0.0, 50.0, 0.0]))
        words = "1 of 3 new values of 'blk.0.ffn_up.weight'|Q4_1|by up to"
        self.check(PatchMismatchError, words, model, [patch], out)

    def test_another_architecture(self, model, zero, out):
        sizes = zero.metadata.architecture.dimensions
        for kind, wrong, word in (
            ("qwen2", sizes, "model type qwen2 against llama"),
            ("llama", {**sizes, "intermediate": 768}, "intermediate 768 against 512"),
        ):
            patch = NeuronPatch(PatchMetadata(Signature(kind, wrong)), zero.weights)
            self.check(PatchMismatchError, word, model, [patch], out)

    def test_mistral_is_llama_to_llama_cpp(self, model, zero, out):
        sizes = zero.metadata.architecture.dimensions
        patch = NeuronPatch(PatchMetadata(Signature("mistral", sizes)), zero.weights)
        assert apply_to_gguf(model, [patch], out).result.changed == 2

    def test_architectures_that_are_not_known(self, lab, zero, out, tmp_path):
        for arch, sizes, word in (
            ("mamba", {}, "'mamba'"),
            ("llama", {"expert_count": 8}, "mixture of 8 experts"),
        ):
            path = lab.write(tmp_path / f"{arch}{len(sizes)}.gguf", arch=arch, sizes=sizes)
            self.check(ArchitectureError, word, path, [zero], out)

    def test_damaged_metadata(self, lab, zero, out, tmp_path):
        path = lab.write(tmp_path / "a.gguf", sizes={"embedding_length": 0})
        self.check(CheckpointError, "llama.embedding_length = 0", path, [zero], out)
        path = lab.write(tmp_path / "b.gguf", sizes={"feed_forward_length": 768})
        patch = lab.patch(path)
        edit = zero.weights[0]
        patch = NeuronPatch(patch.metadata, (edit,))
        self.check(CheckpointError, "(512, 256), the metadata says (768, 256)", path, [patch], out)
        path = lab.write(tmp_path / "c.gguf", skip=["blk.0.ffn_up.weight"])
        self.check(CheckpointError, "no tensor 'blk.0.ffn_up.weight'", path, [zero], out)

    def test_more_layers_than_tensors(self, lab, zero, out, tmp_path):
        path = lab.write(tmp_path / "a.gguf", sizes={"block_count": 1 << 30})
        sizes = {**zero.metadata.architecture.dimensions, "layers": 1 << 30}
        matrix = MatrixId("decoder", 1 << 29, -1, "up")
        edit = zero.weights[0]
        edit = WeightEdit(matrix, "zero", edit.rows, edit.columns, edit.before)
        patch = NeuronPatch(PatchMetadata(Signature("llama", sizes)), (edit,))
        self.check(CheckpointError, "no tensor", path, [patch], out)

    def test_other_quantisations(self, lab, zero, out, tmp_path):
        path = lab.write(tmp_path / "a.gguf", other={"blk.0.ffn_up.weight": "IQ4_NL"})
        self.check(CheckpointError, "'blk.0.ffn_up.weight' is stored as IQ4_NL", path, [zero], out)

    def test_damaged_blocks(self, model, zero, out):
        start = GgufFile.open(model).tensors["blk.0.ffn_up.weight"].start
        with model.open("r+b") as file:
            file.seek(start)
            file.write(np.array([np.inf], dtype=np.float16).tobytes())
        self.check(CheckpointError, "blk.0.ffn_up.weight' (Q4_1) has NaN", model, [zero], out)

    def test_levels_that_decode_to_one_value(self, lab, model, out):
        """A scale of 6e-8 is lost beside a minimum of 60000: levels cannot be told apart."""
        start = GgufFile.open(model).tensors["blk.0.ffn_up.weight"].start
        block = np.array([6e-8, 60000], dtype=np.float16).tobytes() + bytes(range(16))
        with model.open("r+b") as file:
            file.seek(start)
            file.write(block)
        edit = lab.edit(model, "up", "set", range(16), 60000.0)
        done = apply_to_gguf(model, [lab.patch(model, edit)], out)
        # All levels are as near as any: they stay, and with them the bytes.
        assert out.read_bytes() == model.read_bytes()
        assert done.result.changed == 0

    def test_another_writer_of_the_output(self, model, zero, out):
        with exclusive(out.parent / f".{out.name}.neuropatch-partial" / "lock", busy=""):
            self.check(OutputError, "another neuropatch is writing", model, [zero], out)

    def test_steering_and_conflicts(self, lab, model, zero, out):
        block = zero.weights[0].matrix.block
        steer = UnitEdit(block, "steer", np.array([1]), np.ones(1, np.float32))
        patch = NeuronPatch(zero.metadata, units=(steer,))
        self.check(PatchMismatchError, "steers units", model, [patch], out)
        other = lab.patch(model, lab.edit(model, "up", "scale", [3], 0.5))
        self.check(PatchConflictError, "disagree", model, [zero, other], out)
        self.check(UsageError, "no patch", model, [], out)

    def test_outputs(self, model, zero, out, tmp_path):
        self.check(OutputError, "named *.gguf", model, [zero], tmp_path / "out.bin")
        self.check(OutputError, "exists already", model, [zero], model)
        (tmp_path / "out.undo.safetensors").touch()
        self.check(OutputError, "out.undo.safetensors exists already", model, [zero], out)

    def test_reverting_what_is_not_there(self, model, zero, out, tmp_path):
        words = "does not hold this patch: 2 of 2"
        self.check(PatchMismatchError, words, model, [zero], out, revert_gguf)

    def test_reverting_to_values_of_another_format(self, lab, model, zero, out, tmp_path):
        edit = zero.weights[0]
        near = WeightEdit(
            edit.matrix, "zero", edit.rows, edit.columns, edit.before + np.float32(1e-5)
        )
        patch = NeuronPatch(zero.metadata, (near,))
        apply_to_gguf(model, [patch], tmp_path / "patched.gguf")
        words = "other values from before"
        self.check(PatchMismatchError, words, tmp_path / "patched.gguf", [patch], out, revert_gguf)
        revert_gguf(tmp_path / "patched.gguf", [zero], out)
        assert out.read_bytes() == model.read_bytes()
