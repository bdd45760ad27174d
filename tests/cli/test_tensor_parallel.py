"""Localisation on two processes that hold half of the weights each: the results of one process."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from neuropatch import pipeline
from neuropatch.attribution import run
from neuropatch.attribution.selection import SCOPES, TopSelector
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.distributed import Parts
from neuropatch.errors import ModelError, UsageError
from neuropatch.methods._base import Limits, find_method, method_names
from neuropatch.models import loading
from neuropatch.models.modules import model_layout, resolve_parameters
from neuropatch.patch.patch import NeuronPatch
from neuropatch.world import ALONE, World

SCRIPTS = Path(__file__).parent / "processes"

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
def folder(make_model, tokenizer, spread_data, tmp_path_factory):
    """A folder with models and data sets."""
    made = tmp_path_factory.mktemp("parts")
    for name, sizes in MODELS.items():
        vocabulary = {"vocab_size": 300, "max_position_embeddings": 64}
        make_model("llama", "float32", **vocabulary, **sizes).save_pretrained(made / name)
        tokenizer.save_pretrained(made / name)
    spread_data(made)
    return made


@pytest.fixture(scope="module")
def cases(folder, as_case):
    """What the pipeline is given in each case, as a JSON document."""
    return {
        name: {"model": model, **as_case(folder, method, *case)}
        for name, (method, model, *case) in CASES.items()
    }


@pytest.fixture(scope="module")
def together(folder, cases, torchrun):
    """The folder after all cases on two processes of one torchrun."""
    (folder / "cases.json").write_text(json.dumps(cases))
    torchrun(SCRIPTS / "parts.py", folder)
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
def test_each_process_holds_its_half_of_the_scores(name, together, folder):
    layout = Checkpoint.open(folder / CASES[name][1]).layout
    sizes = {str(matrix): layout.shape(matrix) for matrix in layout.matrices()}
    first, second = seen(together, name)
    assert len(first["scores"]) == len(second["scores"]) > 0
    for (matrix, scores, weights), (other, others, _) in zip(
        first["scores"], second["scores"], strict=True
    ):
        height, width = sizes[matrix]
        assert matrix == other
        assert scores == weights
        assert scores + others == height * width
        # One row or column more where there is an odd number.
        assert abs(scores - others) <= max(height, width) * (name == "layer")


def test_a_death_ends_all_and_the_run_goes_on(folder, localizing, cli, pair, tmp_path):
    output = tmp_path / "out" / "p.safetensors"
    # Both run the 12 samples of each of three data sets, every one a batch.
    typed = localizing(
        folder / "llama", output, "--resume", "--batch-tokens", "1", "--target", "all"
    )
    (out, err, code), (_, other_err, killed) = pair(17, [*typed, "--tp"])
    assert killed == -signal.SIGKILL, (err, other_err)
    assert (code, out) == (1, "")
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert errors == ["error: rank 1 of 2 ended: it was killed, maybe for want of memory"]
    (_, err, code), _ = pair(0, typed)
    assert code == 1
    assert "holds the state of a run with another model, data or options" in err
    (out, err, code), (other, other_err, other_code) = pair(0, [*typed, "--tp"])
    assert (code, other_code, other) == (0, 0, ""), (err, other_err)
    assert f"wrote {output}" in out
    assert "2 processes: each holds its part of the weights, and all run every data set" in err
    assert other_err == "20 batches\n"
    assert not output.with_suffix(".resume").exists()
    single = tmp_path / "single.safetensors"
    typed = localizing(folder / "llama", single, "--batch-tokens", "1", "--target", "all")
    assert cli(*typed).code == 0
    assert coordinates(NeuronPatch.from_pretrained(output)) == coordinates(
        NeuronPatch.from_pretrained(single)
    )


def test_one_process_has_nobody_to_split_weights_with(folder, localizing, cli, tmp_path):
    ended = cli(*localizing(folder / "llama", tmp_path / "p.safetensors", "--tp"))
    assert ended.code == 1
    assert "--tp splits the weights among processes, and there is one" in ended.err


@pytest.fixture
def parts():
    """One of two processes that share weights, which never joined the other."""
    one = object.__new__(Parts)
    one.rank, one.size = 0, 2
    return one


def test_only_scores_of_weights_run_on_parts_of_them(parts, folder, cases):
    for name in method_names():
        method = find_method(name)
        configs = [method.config()]
        if name == "snip":
            configs.append(method.config(granularity="weights"))
        for config in configs:
            method.check_split(ALONE, config)
            if name == "spin" or (name == "snip" and not config.finds_units):
                method.check_split(parts, config)
                continue
            with pytest.raises(UsageError, match=f"method {name} does not run with --tp"):
                method.check_split(parts, config)


@pytest.mark.parametrize(
    ("model", "mode", "said"),
    [
        ("uneven", "auto", "the 3 heads of this model cannot be split among 2 processes"),
        ("llama", "certified", "--memory certified takes weights that are not split"),
    ],
)
def test_what_cannot_be_split_is_refused(model, mode, said, parts, folder, cases, monkeypatch):
    monkeypatch.setattr(Parts, "device", lambda self, device: device)
    monkeypatch.setattr(Parts, "least", lambda self, number: number)
    load = loading.load_causal_model
    # The model is refused before its weights are asked for.
    monkeypatch.setattr(
        loading, "load_causal_model", lambda path, **options: load(path, device="cpu")
    )
    parts.local_size = 2
    case = cases["matrix"]
    options = pipeline.RunOptions(
        case["method"], case["config"], device="cpu", limits=Limits(mode=mode), world=parts
    )
    with pytest.raises(UsageError, match=said):
        pipeline.localize(str(folder / model), pipeline.DataFiles(**case["files"]), options)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({}, "keeps it whole"),
        ({"layers.*.mlp.up_proj": "colwise"}, "keeps it whole"),
        ({"layers.*.mlp.up_proj": "colwise_gather_output"}, "the rule 'colwise_gather_output'"),
    ],
)
def test_weights_that_are_not_split_are_named(plan, said, make_model):
    model = make_model("llama")
    model._tp_plan = {f"model.{name}": rule for name, rule in plan.items()}
    layout = model_layout(model)
    matrices = layout.matrices(("up",))
    with pytest.raises(ModelError, match=f"'model.layers.0.mlp.up_proj.weight' .* {said}"):
        resolve_parameters(model, layout, matrices, split=True)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dimension", [0, 1])
def test_ties_go_as_if_one_process_had_seen_all(scope, dimension, make_layout):
    layout = make_layout("llama")
    matrices = layout.matrices(("up", "down"))
    rng = np.random.default_rng(3)
    # Few different scores, so that every threshold cuts through many equal ones.
    scores = {
        matrix: torch.from_numpy(rng.integers(0, 4, layout.shape(matrix)).astype(np.float32))
        for matrix in matrices
    }
    whole, *halves = (TopSelector(layout, matrices, scope, 0.3) for _ in range(3))
    for matrix, score in scores.items():
        whole.add(matrix, score)
        first = 0
        for half, part in zip(halves, score.tensor_split(2, dim=dimension), strict=True):
            at = {("first_row", "first_column")[dimension]: first}
            half.add(matrix, part.contiguous(), **at)
            first += part.shape[dimension]

    class Both(World):
        """The first process, as the second one answers it."""

        splits = True

        def __init__(self):
            self.answers = iter(halves[1].state().values())

        def pieces(self, row):
            return np.concatenate([row, next(self.answers).astype(np.float64)])

    halves[0].unite(Both())
    found, wanted = halves[0].result(), whole.result()
    assert sorted(map(str, found)) == sorted(map(str, wanted))
    for matrix, index in wanted.items():
        assert np.array_equal(found[matrix], index)
