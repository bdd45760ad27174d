"""``neuropatch layout``: what is known, what is inferred, and what is kept."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from neuropatch.models.definition import definitions


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROPATCH_ARCHITECTURES", str(tmp_path / "own"))
    definitions.cache_clear()
    yield tmp_path / "own"
    monkeypatch.undo()
    definitions.cache_clear()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "invented9", "d_model": 4}))
    shapes = {"fc1.weight": (6, 4), "fc2.weight": (4, 6), "attn.qkv.weight": (12, 4)}
    tensors = {
        f"cells.{layer}.{path}": np.ones(shape, np.float32)
        for layer in range(2)
        for path, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_known_architectures_are_listed(cli, own_folder):
    run = cli("layout")
    assert run.code == 0
    assert run.out.split() == sorted(definitions())


def test_the_inferred_table_is_shown_and_kept_on_demand(cli, model, own_folder):
    run = cli("layout", str(model))
    assert run.code == 0
    assert "up    6 x 4  cells.{layer}.fc1.weight" in run.out
    assert "cells.{layer}.attn.qkv.weight: several matrices in one" in run.out
    assert "--accept-inferred" in run.err
    assert not own_folder.exists()
    refused = cli("diff", str(model), str(model), "-o", str(model.parent / "delta.safetensors"))
    assert refused.code == 1
    assert "neuropatch layout MODEL" in refused.err

    run = cli("layout", str(model), "--accept-inferred", "--json")
    document = json.loads(run.out)
    assert document["kept"] == str(own_folder / "invented9.json")
    assert json.loads((own_folder / "invented9.json").read_text()) == document["definition"]
    known = cli("diff", str(model), str(model), "-o", str(model.parent / "delta.safetensors"))
    assert "no matrix differs" in known.err


def test_accepting_needs_a_model(cli, own_folder):
    run = cli("layout", "--accept-inferred")
    assert run.code == 1
    assert "needs a model" in run.err
