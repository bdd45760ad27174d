"""Localisation on two processes that hold half of the weights each: the results of one process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from neuropatch import pipeline
from neuropatch.attribution import run
from neuropatch.methods._base import Limits
from neuropatch.patch.patch import NeuronPatch

SCRIPTS = Path(__file__).parent / "processes"
PEOPLE = ("Ada Lund", "Bo Ek", "Cy Moe", "Di Vo", "Eli Ax")

SPIN = {"datasets": ("privacy", "fairness"), "general": "general"}
SNIP = {"granularity": "weights", "q": 60, "p": 20, "target": "all", "edit": "noise"}
# An odd number of units, which two processes cannot halve.
CASES = {
    "matrix": ("spin", "llama", {"p": 5, "q": 40, "target": "all"}, SPIN, {}),
    "layer": ("spin", "odd", {"p": 30, "q": 200, "scope": "layer"}, SPIN, {}),
    "model": ("spin", "llama", {"p": 60, "q": 400, "scope": "model"}, SPIN, {}),
    "windows": ("spin", "tied", {"p": 60, "q": 400, "scope": "model"}, SPIN, {"mode": "windows"}),
    "snip": ("snip", "llama", SNIP, {"pii": "pii", "general": "general"}, {}),
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
MODELS = {
    "llama": HEADS,
    "odd": {**HEADS, "intermediate_size": 21},
    "tied": {**HEADS, "tie_word_embeddings": True},
    "uneven": {},
}


@pytest.fixture(scope="module")
def folder(make_model, tokenizer, data, tmp_path_factory):
    """A folder with models and data sets."""
    made = tmp_path_factory.mktemp("parts")
    for name, sizes in MODELS.items():
        vocabulary = {"vocab_size": 300, "max_position_embeddings": 64}
        make_model("llama", "float32", **vocabulary, **sizes).save_pretrained(made / name)
        tokenizer.save_pretrained(made / name)
    for name in ("privacy.csv", "fairness.jsonl", "general.parquet"):
        shutil.copy(data / name, made)
    lines = [
        json.dumps({"prompt": f"{name} calls ", "target": f"{5550 + 17 * i}-{31 * i}"})
        for i, name in enumerate(PEOPLE)
    ]
    (made / "pii.jsonl").write_text("\n".join(lines))
    return made


@pytest.fixture(scope="module")
def cases(folder):
    """What the pipeline is given in each case, as a JSON document."""
    files = {path.stem: str(path) for path in folder.iterdir() if path.is_file()}

    def named(one):
        return files[one] if isinstance(one, str) else {name: files[name] for name in one}

    return {
        name: {
            "method": method,
            "model": model,
            "config": config,
            "files": {option: named(one) for option, one in given.items()},
            "limits": limits,
        }
        for name, (method, model, config, given, limits) in CASES.items()
    }


@pytest.fixture(scope="module")
def launch():
    """``launch(*arguments)``: a Python program on two processes of one torchrun."""

    def start(*arguments):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)

    return start


@pytest.fixture(scope="module")
def together(folder, cases, launch):
    """The folder after all cases on two processes."""
    (folder / "cases.json").write_text(json.dumps(cases))
    ran = launch(SCRIPTS / "parts.py", folder)
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.fixture
def alone(folder, cases, monkeypatch):
    """``alone(name)``: a case in this process, and the rows that it has run."""
    rows = []
    original = run.packed_losses

    def losses(model, batch, *args):
        rows.extend(batch.rows)
        return original(model, batch, *args)

    monkeypatch.setattr(run, "packed_losses", losses)

    def localize(name):
        case = cases[name]
        limits = Limits(batch_tokens=40, **case["limits"])
        options = pipeline.RunOptions(case["method"], case["config"], device="cpu", limits=limits)
        files = pipeline.DataFiles(**case["files"])
        return pipeline.localize(str(folder / case["model"]), files, options).patch, rows

    return localize


def coordinates(patch):
    """What a patch edits."""
    return [(str(e.matrix), e.rows.tolist(), e.columns.tolist()) for e in patch.weights]


def seen(folder, name):
    """What the two processes have noted of a case."""
    return [json.loads((folder / f"seen-{rank}.json").read_text())[name] for rank in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_find_what_one_finds(name, together, alone):
    wanted, rows = alone(name)
    patch = NeuronPatch.from_pretrained(together / f"{name}.safetensors")
    assert len(patch.weights) > 0
    assert coordinates(patch) == coordinates(wanted)
    for ours, theirs in zip(patch.weights, wanted.weights, strict=True):
        # They are read of whole weights, so not a bit may differ.
        assert np.array_equal(ours.before, theirs.before)
        if theirs.value is not None:
            assert np.array_equal(ours.value, theirs.value)
    for one in seen(together, name):
        assert Counter(one["rows"]) == Counter(rows)


@pytest.mark.parametrize("name", CASES)
def test_each_process_holds_its_half_of_the_scores(name, together, cases, folder):
    config = json.loads((folder / cases[name]["model"] / "config.json").read_text())
    units, hidden = config["intermediate_size"], config["hidden_size"]
    halves = [seen(together, name)[rank]["scores"] for rank in (0, 1)]
    for (matrix, first, weights), (same, second, others) in zip(*halves, strict=True):
        assert (matrix, first, second) == (same, weights, others)
        if ".mlp." in matrix or "gate" in matrix or "up" in matrix or "down" in matrix:
            assert first + second == units * hidden
            assert abs(first - second) <= hidden
