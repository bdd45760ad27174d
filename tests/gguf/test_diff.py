"""Patches from two GGUF files."""

from __future__ import annotations

import numpy as np
import pytest

from neuropatch.errors import CheckpointError, PatchMismatchError, SelectionError
from neuropatch.gguf.apply import apply_to_gguf
from neuropatch.gguf.diff import diff_gguf
from neuropatch.gguf.file import GgufFile


@pytest.mark.parametrize("kind", ["F16", "Q4_1", "Q8_0", "Q3_K", "Q6_K"])
def test_applying_the_difference_gives_the_edited_file(lab, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("neuropatch.gguf.diff.CHUNK_BYTES", 1 << 14)
    path = lab.write(tmp_path / "m.gguf", kind)
    edits = [
        lab.edit(path, "q", "zero", [0, 5000]),
        lab.edit(path, "down", "scale", [1, 2, 130000], 0.3),
    ]
    apply_to_gguf(path, [lab.patch(path, *edits)], tmp_path / "edited.gguf")
    found = diff_gguf(path, tmp_path / "edited.gguf")
    assert not found.not_carried
    assert {(e.matrix.role, e.kind) for e in found.patch.weights} == {("q", "set"), ("down", "set")}
    for mine, theirs in zip(edits, sorted(found.patch.weights, key=len), strict=True):
        assert np.isin(theirs.keys, mine.keys).all()
    apply_to_gguf(path, [found.patch], tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "edited.gguf").read_bytes()


def test_what_the_patch_does_not_carry_is_named(lab, tmp_path):
    path = lab.write(tmp_path / "m.gguf", "Q4_0")
    other = tmp_path / "other.gguf"
    content = bytearray(path.read_bytes())
    tensors = GgufFile.open(path).tensors
    content[tensors["output_norm.weight"].start + 3] ^= 1
    # Twice the scale of the second block.
    place = tensors["blk.0.ffn_up.weight"].start + 18
    scale = np.frombuffer(bytes(content[place : place + 2]), np.float16) * np.float16(2)
    content[place : place + 2] = scale.tobytes()
    other.write_bytes(content)
    found = diff_gguf(path, other)
    assert set(found.not_carried) == {"output_norm.weight", "blk.0.ffn_up.weight"}
    assert "1 of its blocks have other scales" in found.not_carried["blk.0.ffn_up.weight"]
    (edit,) = found.patch.weights
    assert edit.matrix.role == "up"
    assert set(edit.columns) <= set(range(32, 64))
    assert np.allclose(edit.value, 2 * edit.before)


def test_refused(lab, tmp_path):
    path = lab.write(tmp_path / "a.gguf", "Q4_0")
    with pytest.raises(SelectionError, match="no matrix differs"):
        diff_gguf(path, path)
    other = lab.write(tmp_path / "b.gguf", "Q4_0", other={"blk.0.attn_k.weight": "Q8_0"})
    with pytest.raises(CheckpointError, match=r"'blk.0.attn_k.weight' is Q4_0 .* and Q8_0"):
        diff_gguf(path, other)
    more = lab.write(tmp_path / "c.gguf", "Q4_0", layers=2)
    with pytest.raises(PatchMismatchError, match="layers 1 against 2"):
        diff_gguf(path, more)
    damaged = tmp_path / "d.gguf"
    content = bytearray(path.read_bytes())
    place = GgufFile.open(path).tensors["blk.0.ffn_up.weight"].start
    content[place : place + 2] = np.array([np.nan], np.float16).tobytes()
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match="NaN or infinite values where the two differ"):
        diff_gguf(path, damaged)
