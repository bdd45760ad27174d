"""apply, revert and diff on GGUF files from the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import gguf
import numpy as np
import pytest

from neuropatch.gguf.file import GgufFile
from neuropatch.gguf.names import GgufModel
from neuropatch.models.coordinates import MatrixId
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch

SHAPES = {
    "ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96), "attn_q": (64, 64),
    "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64),
}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """A model of one layer in Q4_1."""
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    rng = np.random.default_rng(0)
    kind = gguf.GGMLQuantizationType.Q4_1
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape).astype(np.float32)
        writer.add_tensor(f"blk.0.{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def patch(model, tmp_path):
    """Zeroes three weights of gate; the base's values are those of the file."""
    layout = GgufModel.bind(GgufFile.open(model)).layout
    tensor = next(t for t in gguf.GGUFReader(model).tensors if t.name == "blk.0.ffn_gate.weight")
    values = gguf.dequantize(np.array(tensor.data), tensor.tensor_type)
    # Far from zero, so that zeroing moves them by more than a level: two in one block, one alone.
    far = np.abs(values)
    columns = [*np.sort(far[0, :32].argsort()[-2:]), 32 + far[5, 32:].argmax()]
    rows, columns = np.array([0, 0, 5]), np.array(columns)
    matrix = MatrixId("decoder", 0, -1, "gate")
    edit = WeightEdit(matrix, "zero", rows, columns, values[rows, columns])
    return NeuronPatch(PatchMetadata(layout.signature), (edit,)).save(
        tmp_path / "patch.safetensors"
    )


def test_there_and_back(cli, model, patch, tmp_path):
    out, back = tmp_path / "patched.gguf", tmp_path / "back.gguf"
    done = cli("apply", model, patch, "-o", out)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("changed 3 weights in 1 tensors of 1 of 1 weight files (40 of ")
    assert lines[1].startswith("Q4_1: 3 new values in 2 blocks, off by ")
    assert lines[1].endswith("; 61 other weights of these blocks keep theirs")
    assert lines[2] == f"wrote {out}"
    undo = tmp_path / "patched.undo.safetensors"
    # In four bits, what is left of a zeroed weight is some per cent of it.
    said = done.err.splitlines()
    assert said[0].startswith("warning: rounding to Q4_1 loses 5.3% of the change: ")
    assert said[1:] == [f"to get the bytes of {model} back, revert {undo}"]
    assert "5.3% of the change" in lines[1]
    done = cli("revert", out, undo, "-o", back)
    assert done.code == 0, done.err
    assert "changed 3 weights back" in done.out
    assert back.read_bytes() == model.read_bytes()


def test_what_rounding_loses_is_said(cli, model, tmp_path):
    """A delta far below a level is lost whole."""
    layout = GgufModel.bind(GgufFile.open(model)).layout
    tensor = next(t for t in gguf.GGUFReader(model).tensors if t.name == "blk.0.ffn_gate.weight")
    values = gguf.dequantize(np.array(tensor.data), tensor.tensor_type)
    rows, columns = np.array([0, 0]), np.array([3, 9])
    delta = np.full(2, 1e-4, np.float32)
    matrix = MatrixId("decoder", 0, -1, "gate")
    edit = WeightEdit(matrix, "add", rows, columns, values[rows, columns], delta)
    small = NeuronPatch(PatchMetadata(layout.signature), (edit,)).save(tmp_path / "s.safetensors")
    done = cli("apply", model, small, "-o", tmp_path / "p.gguf")
    assert done.code == 0
    assert done.err.startswith("warning: rounding to Q4_1 loses 100.0% of the change")
    assert "no weight changes" in done.err
    assert "changed 0 weights" in done.out


def test_as_json(cli, model, patch, tmp_path):
    done = cli("apply", model, patch, "-o", tmp_path / "p.gguf", "--dry-run", "--json")
    document = json.loads(done.out)
    assert document["changed"] == 3
    error = document["requantisation"]["Q4_1"]
    assert (error["weights"], error["blocks"], error["other_weights_moved"]) == (3, 2, 0)
    assert 0 < error["rms_error"] <= error["max_error"]
    assert 0 < error["relative_error"] < 0.2
    assert not (tmp_path / "p.gguf").exists()


def test_diff(cli, model, patch, tmp_path):
    assert cli("apply", model, patch, "-o", tmp_path / "p.gguf", "-q").code == 0
    done = cli("diff", model, tmp_path / "p.gguf", "-o", tmp_path / "delta.safetensors")
    assert done.code == 0, done.err
    assert len(NeuronPatch.from_pretrained(tmp_path / "delta.safetensors")) == 3
    for pair in ((model, tmp_path), (tmp_path, model)):
        done = cli("diff", *pair, "-o", tmp_path / "other.safetensors")
        assert (done.code, done.out) == (1, "")
        assert f"error: {model} is a GGUF file, and what it is compared with is none" in done.err
    assert not (tmp_path / "other.safetensors").exists()


@pytest.mark.parametrize(
    "options", [[], ["--in-place"], ["-o", "x.gguf", "--hard-link"], ["-o", "x", "--in-place"]]
)
def test_a_gguf_file_gives_a_new_file(cli, model, patch, options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for command in ("apply", "revert"):
        done = cli(command, model, patch, *options)
        assert done.code == 1
        assert "the result of editing a GGUF file is a new file" in done.err


def test_damage_is_one_line(cli, patch, tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(40))
    done = cli("apply", path, patch, "-o", tmp_path / "out.gguf")
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 2
    assert "has version 0 of GGUF" in done.err


def test_without_torch_and_without_gguf(model, patch, tmp_path):
    """A GGUF file needs no torch, a folder no gguf, and where gguf is missing that is said."""
    code = (
        "import sys, json\n"
        "{before}\n"
        "from neuropatch.cli.app import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )

    def run(before, *arguments):
        command = [sys.executable, "-c", code.replace("{before}", before)]
        done = subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        return done, done.stderr.splitlines()

    done, lines = run("", "apply", model, patch, "-o", tmp_path / "a.gguf")
    assert done.returncode == 0, done.stderr
    modules = json.loads(lines[-1])
    assert "gguf" in modules
    assert not {"torch", "transformers"} & set(modules)
    missing = "sys.modules['gguf'] = None"
    done, lines = run(missing, "apply", model, patch, "-o", tmp_path / "b.gguf")
    assert done.returncode == 1
    assert lines[0] == "error: GGUF files need the package gguf"
    assert "pip install 'neuropatch[gguf]'" in lines[1]
    done, lines = run("", "inspect", patch)
    assert "gguf" not in json.loads(lines[-1])
