from __future__ import annotations

import os

import pytest

from neuropatch.checkpoint import journal
from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.checkpoint.diff import diff_checkpoints
from neuropatch.errors import CheckpointError, OutputError, PatchMismatchError
from neuropatch.patch.format import read_patch

MARKER = "neuropatch/in-place.json"


def weights(lab, folder):
    return {name: d for name, d in lab.tree(folder).items() if not name.startswith("neuropatch")}


def test_a_fine_tune_gets_its_bytes_back(lab, model, tmp_path):
    tuned = lab.checkpoint(tmp_path / "tuned", dtype="F16", shards=2, seed=3)
    before = lab.tree(tuned)
    result = apply_patches(tuned, [lab.patch(model)], in_place=True)
    assert result.output == tuned
    assert result.drift.unequal
    assert result.undo == tuned / "neuropatch/undo-0001.safetensors"
    assert str(result.undo) in result.notes[-1]
    assert lab.names(tuned / "neuropatch") == ["undo-0001.safetensors"]
    revert_patches(tuned, [read_patch(result.undo)], in_place=True)
    assert weights(lab, tuned) == before


def test_undo_patches_are_numbered(lab, model):
    before = lab.tree(model)
    patches = [lab.patch(model, kinds=("set",), roles=(role,)) for role in ("up", "down")]
    undo = [apply_patches(model, [patch], in_place=True).undo for patch in patches]
    assert [path.name for path in undo] == ["undo-0001.safetensors", "undo-0002.safetensors"]
    revert_patches(model, [read_patch(path) for path in undo], in_place=True)
    assert weights(lab, model) == before


def test_only_edited_files_are_touched(lab, tmp_path):
    folder = lab.checkpoint(tmp_path / "m", shards=3)
    old = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    result = apply_patches(folder, [lab.patch(folder, roles=("gate",))], in_place=True)
    inodes = {p.name for p in folder.glob("*.*") if p.stat().st_mtime_ns != old[p.name]}
    assert inodes == set(result.shards_edited)


def test_nothing_to_do_leaves_no_undo_patch(lab, model):
    patch = lab.patch(model, kinds=("zero",))
    apply_patches(model, [patch], in_place=True)
    before = lab.tree(model)
    result = apply_patches(model, [patch], in_place=True)
    assert result.undo is None
    assert "holds this patch already" in result.notes[0]
    assert lab.tree(model) == before


class TestRefused:
    def check(self, lab, folder, message):
        before = lab.tree(folder)
        for dry_run in (True, False):
            with pytest.raises(OutputError, match=message):
                apply_patches(folder, [lab.patch(folder)], in_place=True, dry_run=dry_run)
        assert lab.tree(folder) == before
        assert not (folder / "neuropatch").exists()

    def test_a_symbolic_link(self, lab, model, tmp_path):
        (model / "model.safetensors").rename(tmp_path / "elsewhere")
        (model / "model.safetensors").symlink_to(tmp_path / "elsewhere")
        self.check(lab, model, "is a symbolic link")

    def test_a_second_name(self, lab, model, tmp_path):
        os.link(model / "model.safetensors", tmp_path / "second")
        self.check(lab, model, "hard links")

    def test_the_hub_cache_without_links(self, lab, tmp_path):
        self.check(lab, lab.checkpoint(tmp_path / "models--a--b/snapshots/0"), "Hub cache")

    def test_read_only(self, lab, model, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        self.check(lab, model, "read-only")

    def test_not_a_checkpoint(self, lab, tmp_path):
        model = lab.checkpoint(tmp_path / "m")
        patch = lab.patch(model)
        (tmp_path / "empty").mkdir()
        with pytest.raises(CheckpointError):
            apply_patches(tmp_path / "empty", [patch], in_place=True)
        assert lab.names(tmp_path / "empty") == []


class TestFailures:
    """Whatever fails after the first write, the model is as before."""

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
    @pytest.mark.parametrize("shard", [0, 1, 2])
    def test_while_a_shard_is_written(self, lab, tmp_path, monkeypatch, error, shard):
        folder = lab.checkpoint(tmp_path / "m", shards=3)
        before = lab.tree(folder)
        real, calls = journal.verify_shard, []

        def fail(path, values):
            calls.append(path)
            if len(calls) > shard:
                raise error
            real(path, values)

        monkeypatch.setattr(journal, "verify_shard", fail)
        with pytest.raises((KeyboardInterrupt, OutputError)):
            apply_patches(folder, [lab.patch(folder)], in_place=True)
        assert lab.tree(folder) == before
        assert not (folder / "neuropatch").exists()

    def test_what_reads_back_differently(self, lab, model, monkeypatch):
        before = lab.tree(model)
        patch = lab.patch(model)
        real = journal.write_shard

        def wrong(path, values):
            real(path, [(location, at, new if forward else -new) for location, at, new in values])

        forward = False
        monkeypatch.setattr(journal, "verify_shard", journal.verify_shard)

        def twice(path, values):
            nonlocal forward
            wrong(path, values)
            forward = True

        monkeypatch.setattr(journal, "write_shard", twice)
        with pytest.raises(OutputError, match="read back differ"):
            apply_patches(model, [patch], in_place=True)
        assert lab.tree(model) == before

    def test_two_at_once(self, lab, model):
        with (
            journal.sole_editor(model),
            pytest.raises(OutputError, match="another neuropatch is editing"),
        ):
            apply_patches(model, [lab.patch(model)], in_place=True)


class TestInterrupted:
    """A process that was killed in place, by what it leaves: a marker and an undo patch."""

    @pytest.fixture
    def original(self, lab, tmp_path):
        return lab.checkpoint(tmp_path / "original", shards=3)

    @pytest.fixture
    def killed(self, lab, original, tmp_path):
        """One of three shards is edited, the others are not."""
        folder = lab.checkpoint(tmp_path / "killed", shards=3)
        result = apply_patches(folder, [lab.patch(folder)], in_place=True)
        for name in result.shards_edited[1:]:
            (folder / name).write_bytes((original / name).read_bytes())
        (folder / MARKER).write_text('{"undo": "undo-0001.safetensors"}')
        (folder / "neuropatch/lock").touch()
        (folder / "neuropatch/.undo-0002.safetensors.abc.tmp").touch()
        return folder

    def test_is_not_read(self, lab, killed, original, tmp_path):
        patch = lab.patch(original)
        for run in (
            lambda: apply_patches(killed, [patch], tmp_path / "out"),
            lambda: revert_patches(killed, [patch], tmp_path / "out"),
            lambda: apply_patches(killed, [patch], in_place=True, dry_run=True),
            lambda: diff_checkpoints(original, killed),
        ):
            with pytest.raises(CheckpointError, match="half edited") as caught:
                run()
            assert "undo-0001.safetensors --in-place" in caught.value.hint
        assert not (tmp_path / "out").exists()

    def test_the_next_edit_rolls_back_first(self, lab, killed, original):
        patch = lab.patch(original, kinds=("scale", "add"), seed=9)
        result = apply_patches(killed, [patch], in_place=True)
        assert not result.drift.unequal
        assert "rolled back first" in result.notes[0]
        assert lab.holds(killed, lab.expected(original, patch))
        assert lab.names(killed / "neuropatch") == ["undo-0001.safetensors"]

    def test_reverting_the_undo_patch_only_rolls_back(self, lab, killed, original):
        undo = read_patch(killed / "neuropatch/undo-0001.safetensors")
        result = revert_patches(killed, [undo], in_place=True)
        assert "rolled back" in result.notes[-1]
        assert lab.tree(killed) == lab.tree(original)

    def test_a_torn_value_is_rolled_back(self, lab, killed, original):
        patch = lab.patch(original, kinds=("set",))
        undo = read_patch(killed / "neuropatch/undo-0001.safetensors")
        edit = undo.weights[0]
        shard = next(p for p in sorted(killed.glob("*.safetensors")))
        torn = bytearray(shard.read_bytes())
        old, new = (original / shard.name).read_bytes(), bytes(torn)
        place = next(i for i in range(len(old)) if old[i] != new[i])
        torn[place] = old[place]
        shard.write_bytes(torn)
        assert len(edit)
        apply_patches(killed, [patch], in_place=True)
        assert lab.holds(killed, lab.expected(original, patch))

    def test_before_the_undo_patch_nothing_was_touched(self, lab, model):
        before = lab.tree(model)
        (model / "neuropatch").mkdir()
        (model / MARKER).write_text('{"undo": "undo-0001.safetensors"}')
        patch = lab.patch(model)
        apply_patches(model, [patch], in_place=True)
        revert_patches(model, [patch], in_place=True)
        assert weights(lab, model) == before

    def test_another_program_has_written_since(self, lab, killed, original):
        undo = read_patch(killed / "neuropatch/undo-0001.safetensors")
        edit = undo.weights[0]
        other = lab.checkpoint(killed.parent / "other", shards=3, seed=8)
        for path in other.glob("*.safetensors"):
            (killed / path.name).write_bytes(path.read_bytes())
        before = lab.tree(killed)
        with pytest.raises(PatchMismatchError, match=str(edit.matrix)):
            apply_patches(killed, [lab.patch(original)], in_place=True)
        del before["neuropatch/lock"], before["neuropatch/.undo-0002.safetensors.abc.tmp"]
        assert lab.tree(killed) == before

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"undo": 3}', '{"undo": "../undo-0001.safetensors"}', "\xff"]
    )
    def test_a_damaged_marker(self, lab, killed, original, text):
        (killed / MARKER).write_bytes(text.encode("latin-1"))
        for in_place in (True, False):
            output = None if in_place else killed.parent / "out"
            with pytest.raises(CheckpointError, match="damaged"):
                apply_patches(killed, [lab.patch(original)], output, in_place=in_place)
