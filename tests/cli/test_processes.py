"""Localisation on two processes, with gloo on the CPU: the results of one process."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from neuropatch import pipeline
from neuropatch.attribution import activations, run
from neuropatch.data.tokenize import Sample
from neuropatch.distributed import Processes
from neuropatch.errors import ModelError, UsageError
from neuropatch.methods import depn
from neuropatch.methods._base import SHARING, Limits, find_method, method_names
from neuropatch.patch.patch import NeuronPatch
from neuropatch.world import ALONE, place

SCRIPTS = Path(__file__).parent / "processes"

SPIN = {"datasets": ("privacy", "fairness"), "general": "general"}
BEHAVIOUR = {"pii": "pii", "general": "general"}
WEIGHTS = {"granularity": "weights", "q": 60, "p": 20}
CONTRAST = {"max_neurons": 6, "iterations": 3, "reduce": "absolute", "lambda_general": 0.1}
CASES = {
    "spin": ("spin", {"p": 5, "q": 40}, SPIN, {}),
    "windows": ("spin", {"p": 60, "q": 400, "scope": "model"}, SPIN, {"mode": "windows"}),
    "certified": ("spin", {"p": 3, "q": 40, "target": "all"}, SPIN, {"mode": "certified"}),
    "certified-model": ("spin", {"p": 40, "q": 300, "scope": "model"}, SPIN, {"mode": "certified"}),
    # One of the processes has no sample of this general set.
    "single": ("spin", {"p": 5, "q": 40, "scope": "layer"}, {**SPIN, "general": "single"}, {}),
    "snip-weights": ("snip", WEIGHTS, BEHAVIOUR, {}),
    "snip-units": ("snip", {"max_neurons": 5}, BEHAVIOUR, {}),
    "contrast": ("contrast", CONTRAST, BEHAVIOUR, {}),
    "grad-act": ("grad-act", {"max_neurons": 5, "edit": "noise"}, BEHAVIOUR, {}),
    "wanda-weights": ("wanda", WEIGHTS, BEHAVIOUR, {}),
    "wanda-units": ("wanda", {"max_neurons": 5}, BEHAVIOUR, {}),
    "depn": ("depn", {"max_neurons": 5, "text_share": 0.2}, {"pii": "pii"}, {}),
}


@pytest.fixture(scope="module")
def folder(make_checkpoint, spread_data, tmp_path_factory):
    """A folder with a model and data sets."""
    made = tmp_path_factory.mktemp("processes")
    shutil.copytree(make_checkpoint(), made / "model")
    spread_data(made)
    (made / "single.csv").write_text("prompt,response\nAda lives,at number\n")
    return made


@pytest.fixture(scope="module")
def cases(folder, as_case):
    """What the pipeline is given in each case, as a JSON document."""
    return {name: as_case(folder, *case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def together(folder, cases, torchrun):
    """The folder after all cases on two processes of one torchrun."""
    (folder / "cases.json").write_text(json.dumps(cases))
    torchrun(SCRIPTS / "worker.py", folder)
    return folder


@pytest.fixture
def alone(folder, cases, monkeypatch):
    """``alone(name)``: a case in this process, and the rows that it has run."""
    rows = []

    def noted(original):
        def losses(model, batch, *args):
            rows.extend(batch.rows)
            return original(model, batch, *args)

        return losses

    for module in (run, activations):
        monkeypatch.setattr(module, "packed_losses", noted(module.packed_losses))
    original = depn.IntegratedGradients.attribute

    def attribute(self, question):
        rows.append(len(question.ids))
        return original(self, question)

    monkeypatch.setattr(depn.IntegratedGradients, "attribute", attribute)

    def localize(name):
        case = cases[name]
        limits = Limits(batch_tokens=40, **case["limits"])
        options = pipeline.RunOptions(case["method"], case["config"], device="cpu", limits=limits)
        files = pipeline.DataFiles(**case["files"])
        return pipeline.localize(str(folder / "model"), files, options), Counter(rows)

    return localize


def coordinates(patch):
    """What a patch edits."""
    weights = {
        (str(edit.matrix), row, column)
        for edit in patch.weights
        for row, column in zip(edit.rows.tolist(), edit.columns.tolist(), strict=True)
    }
    return weights | {(str(edit.block), unit) for edit in patch.units for unit in edit.units}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_find_what_one_finds(name, together, alone):
    found, _ = alone(name)
    patch = NeuronPatch.from_pretrained(together / f"{name}.safetensors")
    assert coordinates(patch) == coordinates(found.patch)
    for ours, theirs in zip(patch.units, found.patch.units, strict=True):
        # Activations are float32, and their sums are made in another order.
        assert np.allclose(ours.value, theirs.value, rtol=1e-5, atol=1e-7)
    statistics = json.loads((together / f"{name}.json").read_text())
    for key, value in found.statistics.items():
        exact = not isinstance(value, float)
        assert statistics[key] == (value if exact else pytest.approx(value, rel=1e-4))


@pytest.mark.parametrize("name", CASES)
def test_each_sample_is_run_by_one_process(name, together, alone):
    _, wanted = alone(name)
    shares = [
        Counter(json.loads((together / f"rows-{rank}.json").read_text())[name]) for rank in (0, 1)
    ]
    if CASES[name][-1].get("mode") == "certified":
        # With so few candidates as the worker has, there is a second look.
        assert sum(shares, Counter()).total() > 1.2 * wanted.total()
    else:
        assert sum(shares, Counter()) == wanted
    assert max(share.total() for share in shares) <= 0.65 * sum(shares, Counter()).total()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_shares_are_even_and_complete(size):
    samples = [Sample(row, [1] * (3 + row * 7 % 11), 1) for row in range(14)]
    shares = []
    for rank in range(size):
        one = object.__new__(Processes)
        one.rank, one.size = rank, size
        shares.append(one.share(samples))
        with pytest.raises(UsageError, match=f"1 samples are too few for {size} processes"):
            one.share(samples[:1])
    assert sorted(s.row for share in shares for s in share) == list(range(14))
    assert {len(share) for share in shares} <= {14 // size, -(-14 // size)}
    tokens = [sum(len(s.ids) for s in share) for share in shares]
    assert max(tokens) - min(tokens) <= 13


def test_a_death_ends_all_and_the_run_goes_on(folder, localizing, cli, pair, tmp_path):
    output = tmp_path / "out" / "p.safetensors"
    # Of 12 samples in each of three data sets each process has 6, every one a batch.
    typed = localizing(folder / "model", output, "--resume", "--batch-tokens", "1")
    (out, err, code), (_, other_err, killed) = pair(9, typed)
    assert killed == -signal.SIGKILL, (err, other_err)
    assert (code, out) == (1, "")
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert errors == ["error: rank 1 of 2 ended: it was killed, maybe for want of memory"]
    state = output.with_suffix(".resume")
    assert f"progress is kept in {state}" in err
    assert not output.exists()
    ended = cli(*typed)
    assert ended.code == 1
    assert f"{state} holds the state of a run on 2 processes, and there is one now" in ended.err
    (out, err, code), (other, other_err, other_code) = pair(0, typed)
    assert (code, other_code) == (0, 0)
    assert f"wrote {output}" in out
    # The first process alone prints, and both have done what was left.
    assert other == ""
    assert other_err == "10 batches\n"
    assert err.endswith("10 batches\n")
    assert not state.exists()
    single = tmp_path / "single.safetensors"
    assert cli(*localizing(folder / "model", single, "--batch-tokens", "1")).code == 0
    assert coordinates(NeuronPatch.from_pretrained(output)) == coordinates(
        NeuronPatch.from_pretrained(single)
    )


def test_states_of_other_numbers_of_processes_are_refused(folder, localizing, cli, tmp_path):
    output = tmp_path / "p.safetensors"
    (output.with_suffix(".resume") / "rank-0-of-3").mkdir(parents=True)
    ended = cli(*localizing(folder / "model", output, "--resume"))
    assert ended.code == 1
    assert "holds the state of a run on 3 processes, and there is one now" in ended.err


@pytest.fixture
def launched_as(monkeypatch):
    """``launched_as(rank)``: this process looks like one of two."""

    def arrange(rank, size=2):
        setting = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "here", "MASTER_PORT": 1}
        for name, value in setting.items():
            monkeypatch.setenv(name, str(value))

    return arrange


def test_other_commands_are_refused_once(cli, launched_as):
    launched_as(0)
    first = cli("methods")
    assert (first.code, first.out) == (1, "")
    assert first.err.splitlines() == [
        "error: neuropatch methods runs on one process, and there are 2",
        "  start it without torchrun or accelerate launch",
    ]
    launched_as(1)
    assert tuple(vars(cli("methods")).values()) == (1, "", "")


def test_one_process_of_a_launcher_is_alone(cli, launched_as):
    launched_as(0, size=1)
    assert place() is None
    assert cli("methods").code == 0


def test_methods_say_how_they_share():
    two = object.__new__(Processes)
    two.rank, two.size = 0, 2
    refused = {"distil", "lpnl"}
    for name in method_names():
        method = find_method(name)
        assert method.processes in SHARING
        method.check_processes(ALONE)
        if name not in refused:
            method.check_processes(two)
            continue
        with pytest.raises(UsageError, match=f"method {name} runs on one process, and there are 2"):
            method.check_processes(two)


@pytest.mark.parametrize("name", ["spin", "contrast", "wanda-units"])
def test_a_model_spread_over_devices(name, folder, cases, monkeypatch):
    """On one device, but with the hooks that accelerate puts on every module of a spread model."""
    from accelerate import dispatch_model

    from neuropatch.attribution import accumulator
    from neuropatch.models import loading

    zeros, buffers = accumulator._zeros, []

    def noted(slot):
        made = zeros(slot)
        buffers.append((slot.parameter.device, made.device))
        return made

    load = loading.load_causal_model

    def spread(path, **options):
        assert options["device_map"] == "auto"
        parts = ("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head")
        given = dict.fromkeys((*parts, "model.layers.0", "model.layers.1"), "cpu")
        return dispatch_model(load(path, device="cpu"), given, force_hooks=True)

    case = cases[name]
    files = pipeline.DataFiles(**case["files"])
    options = pipeline.RunOptions(case["method"], case["config"], device="cpu")
    whole = pipeline.localize(str(folder / "model"), files, options)
    monkeypatch.setattr(accumulator, "_zeros", noted)
    monkeypatch.setattr(loading, "load_causal_model", spread)
    options = pipeline.RunOptions(case["method"], case["config"], device_map="auto")
    found = pipeline.localize(str(folder / "model"), files, options)
    assert coordinates(found.patch) == coordinates(whole.patch)
    assert all(weight == scores for weight, scores in buffers)
    assert bool(buffers) == (name == "spin")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device-map", "some"], "unknown --device-map 'some'"),
        (["--device-map", "auto", "--device", "cpu"], "both say where the model goes"),
    ],
)
def test_mistakes_about_devices(options, said, folder, localizing, cli, tmp_path):
    typed = localizing(folder / "model", tmp_path / "p.safetensors")
    typed.remove("--device")
    typed.remove("cpu")
    ended = cli(*typed, *options)
    assert ended.code == 1
    assert said in ended.err


def test_weights_that_are_lent_to_a_device_are_refused(folder):
    from neuropatch.models.loading import load_causal_model

    given = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu"}
    given |= {"lm_head": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    with pytest.raises(ModelError, match="does not fit the devices: 9 weights are on disk"):
        load_causal_model(folder / "model", device_map=given)
