"""The export command."""

from __future__ import annotations

import json

import pytest

from neuropatch.models.modules import model_layout


@pytest.fixture
def model_and_patch(make_model, make_patch, base_of, tmp_path):
    model = make_model("llama")
    model.save_pretrained(tmp_path / "model")
    patch = make_patch(
        model_layout(model), base=base_of(model), kinds=("zero",), count=1, units=("scale",)
    )
    return tmp_path / "model", patch.save(tmp_path / "patch.safetensors")


def test_says_what_it_wrote(cli, model_and_patch, tmp_path):
    model, patch = model_and_patch
    out = tmp_path / "adapter"
    run = cli("export", patch, "--format", "peft", "--model", model, "-o", out)
    assert (run.code, run.err) == (0, "")
    first, second = run.out.splitlines()
    # Every matrix has one weight, and each down two units besides.
    assert first.startswith("adapter of rank 1 to 3 for 14 modules of model: ")
    assert second == f"wrote {out}"
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_json(cli, model_and_patch, tmp_path):
    model, patch = model_and_patch
    out = tmp_path / "adapter"
    run = cli("export", patch, "--format", "peft", "--model", model, "-o", out, "--json")
    document = json.loads(run.out)
    assert (document["format"], document["output"]) == ("peft", str(out))
    assert document["ranks"]["model.layers.0.mlp.down_proj"] == 3
    assert document["drift"]["down"]["equal"] == document["drift"]["down"]["weights"]


def test_another_model_is_said_to_be_one(cli, model_and_patch, make_model, tmp_path):
    _, patch = model_and_patch
    make_model("llama", seed=3).save_pretrained(tmp_path / "tuned")
    arguments = ("--format", "peft", "--model", tmp_path / "tuned", "-o", tmp_path / "adapter")
    run = cli("export", patch, *arguments, "--quiet")
    assert run.out == f"{tmp_path / 'adapter'}\n"
    assert "warning: the model is not the patch's base" in run.err


def test_an_unknown_format(cli, model_and_patch, tmp_path):
    model, patch = model_and_patch
    run = cli("export", patch, "--format", "onnx", "--model", model, "-o", tmp_path / "out")
    assert run.code == 2
    assert "'onnx' is not" in run.err
