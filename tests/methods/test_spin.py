"""SPIN against its definition: sets of weights by float64 autograd, one sample at a time."""

import signal

import numpy as np
import pytest

from neuropatch.attribution import certified
from neuropatch.attribution import run as run_module
from neuropatch.attribution.plan import plan_scores
from neuropatch.attribution.reference import snip_scores
from neuropatch.attribution.second_look import SecondLook
from neuropatch.attribution.selection import amount_of
from neuropatch.attribution.state import fingerprint_of_weights
from neuropatch.data.batching import largest_batch
from neuropatch.data.columns import Columns
from neuropatch.data.corpus import Corpus
from neuropatch.data.tokenize import Sample, TokenizedCorpus
from neuropatch.errors import OutputError, ResourceError, SelectionError, UsageError
from neuropatch.methods._base import Given, Inputs, Limits, find_method, method_names
from neuropatch.methods.spin import SpinConfig, coupled_sets, localize
from neuropatch.models.coordinates import parse_target
from neuropatch.models.modules import model_layout
from neuropatch.patch.format import encode


@pytest.fixture
def corpus():
    """``corpus(name, seed)``: a data set of 9 samples of invented tokens."""

    def make(name, seed):
        rng = np.random.default_rng(seed)
        samples = []
        for row in range(9):
            ids = rng.integers(3, 50, int(rng.integers(4, 15))).tolist()
            samples.append(Sample(row, ids, int(rng.integers(1, len(ids)))))
        return Corpus(
            name=name,
            source=f"{name}.csv",
            revision=None,
            sha256=f"{seed:064x}",
            rows=9,
            used=tuple(range(9)),
            columns=Columns(("prompt",), "response"),
            tokenized=TokenizedCorpus(tuple(samples), 0, 0),
            notes=(),
        )

    return make


@pytest.fixture
def inputs(make_model, corpus):
    """``inputs(model_type)``: two conflicting data sets and a general one on a tiny model."""

    def make(model_type="llama", dtype="float32", **options):
        return Inputs(
            model=make_model(model_type, dtype),
            datasets={"privacy": corpus("privacy", 1), "fairness": corpus("fairness", 2)},
            general=corpus("general", 3),
            **options,
        )

    return make


def defined_sets(inputs, config):
    """``(T_1 and T_2) minus T_g`` with Python sets, from the reference scores."""
    layout = model_layout(inputs.model)
    matrices = layout.matrices(parse_target(config.target))

    def top(corpus, amount):
        scores = snip_scores(inputs.model, corpus.samples, matrices)
        groups = {}
        for matrix in matrices:
            group = {"matrix": matrix, "layer": matrix.layer, "model": None}[config.scope]
            flat = scores[matrix].reshape(-1).tolist()
            groups.setdefault(group, []).extend((s, matrix, i) for i, s in enumerate(flat))
        return {
            entry[1:]
            for entries in groups.values()
            for entry in sorted(entries, key=lambda e: -e[0])[: amount_of(amount, len(entries))]
        }

    conflicting = [top(corpus, config.q) for corpus in inputs.datasets.values()]
    return set.intersection(*conflicting) - top(inputs.general, config.p)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("scope", ["matrix", "layer", "model"])
@pytest.mark.parametrize("target", ["mlp", "attn"])
def test_edits_are_the_papers_set(inputs, model_type, scope, target):
    given = inputs(model_type)
    config = SpinConfig(p=0.1, q=0.3, scope=scope, target=target)
    found = localize(given, config)
    layout = model_layout(given.model)
    coordinates = {
        (edit.matrix, int(row) * layout.shape(edit.matrix)[1] + int(column))
        for edit in found.patch.weights
        for row, column in zip(edit.rows, edit.columns, strict=True)
    }
    expected = defined_sets(given, config)
    assert expected
    assert coordinates == expected
    assert {edit.kind for edit in found.patch.weights} == {"zero"}
    assert found.statistics["edited"] == len(expected)


def test_before_holds_the_models_values(inputs, base_of):
    given = inputs("gpt2", "bfloat16")
    patch = localize(given, SpinConfig(p=0.1, q=0.3, target="all")).patch
    base = base_of(given.model)
    for edit in patch.weights:
        assert np.array_equal(edit.before, base[edit.matrix][edit.rows, edit.columns])


def test_three_data_sets_are_intersected(inputs, corpus):
    given = inputs()
    config = SpinConfig(p=0.05, q=0.4)
    more = Inputs(given.model, {**given.datasets, "third": corpus("third", 4)}, given.general)
    two, three = (localize(i, config).statistics["edited"] for i in (given, more))
    assert 0 < three < two
    assert three == len(defined_sets(more, config))


def test_the_general_set_takes_weights_away(inputs):
    given = inputs()
    protected = localize(given, SpinConfig(p=0.3, q=0.3)).statistics
    assert protected["edited"] < protected["shared"]


def test_two_runs_write_identical_bytes(inputs):
    config = SpinConfig(p=0.1, q=0.3)
    first, second = (encode(localize(inputs(), config).patch) for _ in range(2))
    assert first == second


def test_windows_under_a_memory_limit_change_nothing(inputs):
    config = SpinConfig(p=0.1, q=0.3, scope="model")
    notes = []
    whole = localize(inputs(), config).patch
    small = Limits(memory=_peak(inputs()) - 1)
    windowed = localize(inputs(limits=small, note=notes.append), config).patch
    assert "2 windows" in notes[0]
    assert encode(windowed) == encode(whole)


@pytest.mark.parametrize("scope", ["matrix", "layer", "model"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_certified_mode_writes_the_same_bytes(inputs, scope, dtype):
    config = SpinConfig(p=0.1, q=0.3, scope=scope, target="all")
    whole = encode(localize(inputs(dtype=dtype), config).patch)
    notes = []
    limits = Limits(mode="certified")
    certified = localize(inputs(dtype=dtype, limits=limits, note=notes.append), config)
    assert encode(certified.patch) == whole
    assert "certified top weights" in notes[0]
    assert "as asked" in notes[0]
    assert [note.split(":")[0] for note in notes[1:]] == ["privacy", "fairness", "general"]
    assert all("passes" in note and "second look" in note for note in notes[1:])


def test_a_float64_model_has_no_certified_mode(inputs):
    with pytest.raises(UsageError, match="--memory certified takes models in float32"):
        localize(inputs(dtype="float64", limits=Limits(mode="certified")), SpinConfig(p=0.1, q=0.3))


def _peak(given):
    layout = model_layout(given.model)
    weights = sum(p.numel() * p.element_size() for p in given.model.parameters())
    matrices = layout.matrices(parse_target("mlp"))
    sizes = [largest_batch(corpus.samples, batch_tokens=1024) for corpus in given.corpora]
    return plan_scores(
        layout,
        matrices,
        weights=weights,
        batch_tokens=max(tokens for tokens, _ in sizes),
        labels=max(labels for _, labels in sizes),
        item_size=4,
        budget=1 << 40,
    ).total


def test_memory_below_one_layer_is_refused_before_any_pass(inputs):
    with pytest.raises(ResourceError, match="one layer at a time"):
        localize(inputs(limits=Limits(memory=1000)), SpinConfig(p=0.1, q=0.3))


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_an_interrupted_run_goes_on_to_the_same_bytes(inputs, tmp_path, monkeypatch, cut):
    config = SpinConfig(p=0.1, q=0.3)
    limits = Limits(batch_tokens=30, resume=tmp_path / "patch.resume")
    whole = encode(localize(inputs(limits=Limits(batch_tokens=30)), config).patch)
    score_batch = run_module.score_batch
    done = []

    def interrupt(*args):
        score_batch(*args)
        done.append(args)
        if len(done) == cut:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "score_batch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            localize(inputs(limits=limits), config)
    assert len(done) == cut
    assert limits.resume.is_dir()

    def count(*args):
        score_batch(*args)
        done.append(args)

    monkeypatch.setattr(run_module, "score_batch", count)
    resumed = encode(localize(inputs(limits=limits), config).patch)
    assert resumed == whole
    total = len(done)
    done.clear()
    localize(inputs(limits=Limits(batch_tokens=30)), config)
    assert total == len(done), "no batch may be run twice or left out"


@pytest.mark.parametrize("cut", range(1, 20, 3))
def test_an_interrupted_certified_run_goes_on_to_the_same_bytes(inputs, tmp_path, monkeypatch, cut):
    """Cut in the pilot, in the pass and in the second look of each data set."""
    monkeypatch.setattr(certified, "FIRST_LEAST", 1)
    monkeypatch.setattr(certified, "FIRST_PER_TAKEN", 1)
    monkeypatch.setattr(certified, "FIRST_SHARE", 0)
    config = SpinConfig(p=20, q=60)
    options = {"batch_tokens": 30, "mode": "certified"}
    whole = encode(localize(inputs(limits=Limits(batch_tokens=30)), config).patch)
    limits = Limits(**options, resume=tmp_path / "patch.resume")
    score_batch = run_module.score_batch
    recorders = []

    def interrupt(model, recorder, batch):
        score_batch(model, recorder, batch)
        recorders.append(type(recorder))
        if len(recorders) == cut:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "score_batch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            localize(inputs(limits=limits), config)
    assert len(recorders) == cut

    def count(model, recorder, batch):
        score_batch(model, recorder, batch)
        recorders.append(type(recorder))

    monkeypatch.setattr(run_module, "score_batch", count)
    resumed = encode(localize(inputs(limits=limits), config).patch)
    assert resumed == whole
    total = len(recorders)
    recorders.clear()
    localize(inputs(limits=Limits(**options)), config)
    assert SecondLook in recorders
    # A pilot that was cut off is one batch, and is run again.
    assert total - len(recorders) in (0, 1)


def test_an_interrupted_run_without_resume_leaves_nothing(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "score_batch", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        localize(inputs(), SpinConfig(p=0.1, q=0.3))
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_another_run_is_refused(inputs, tmp_path, monkeypatch):
    limits = Limits(batch_tokens=30, resume=tmp_path / "patch.resume")
    score_batch = run_module.score_batch

    def interrupt(*args):
        score_batch(*args)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "score_batch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            localize(inputs(limits=limits), SpinConfig(p=0.1, q=0.3))
    with pytest.raises(OutputError, match="another model, data or options"):
        localize(inputs(limits=limits), SpinConfig(p=0.1, q=0.2))


def test_an_amount_of_no_weight_anywhere_is_an_error(inputs):
    with pytest.raises(SelectionError, match=r"--q 5e-07 selects no weight") as caught:
        localize(inputs(), SpinConfig())
    # What the hint proposes must work.
    proposed = float(caught.value.hint.split()[2])
    layout = model_layout(inputs().model)
    find_method("spin").check(layout, Given(("a", "b"), True), SpinConfig(q=proposed))


def test_an_amount_of_no_weight_in_some_matrices_is_counted(inputs, corpus):
    # Equal data sets share their top weights, however few; of the 96 weights of k that is none.
    twins = {"privacy": corpus("privacy", 1), "fairness": corpus("fairness", 1)}
    given = inputs()
    config = SpinConfig(p=1, q=0.01, target="q,k")
    found = localize(Inputs(given.model, twins, given.general), config)
    assert found.notes == ("--q 0.01 takes no weight from 2 of 4 (matrix scope)",)


@pytest.mark.parametrize("option", ["p", "q"])
def test_a_count_of_every_weight_is_refused(inputs, option):
    with pytest.raises(UsageError, match=rf"--{option} 480 takes all 480 weights of a model"):
        localize(inputs(), SpinConfig(**{"p": 1, "q": 1, option: 480}, scope="model", target="up"))


def test_a_state_of_a_retrained_model_is_refused(inputs, make_model):
    digests = {
        fingerprint_of_weights(make_model("llama", dtype, seed=seed))
        for seed in (0, 1)
        for dtype in ("float32", "bfloat16")
    }
    assert len(digests) == 4
    assert fingerprint_of_weights(make_model("llama")) in digests


def test_an_empty_intersection_says_what_was_shared(inputs):
    with pytest.raises(SelectionError, match=r"share [1-9]\d* .* protects all of them") as caught:
        localize(inputs(), SpinConfig(p=0.9999, q=0.3))
    assert "--p" in caught.value.hint
    with pytest.raises(SelectionError, match="share none of their top weights"):
        localize(inputs(), SpinConfig(p=1, q=1, scope="model"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"p": 0}, "--p is 0"),
        ({"q": 2.5}, "--q is 2.5"),
        ({"scope": "galaxy"}, "unknown scope 'galaxy'"),
        ({"target": "mlp,knee"}, "unknown target 'knee'"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        SpinConfig(**wrong)


def test_data_sets_that_are_missing_or_misnamed_are_refused(inputs, corpus):
    given = inputs()
    config = SpinConfig(p=0.1, q=0.3)
    one = {"privacy": given.datasets["privacy"]}
    for datasets, general in ((one, given.general), (given.datasets, None)):
        with pytest.raises(UsageError, match="compares data sets"):
            localize(Inputs(given.model, datasets, general), config)
    with pytest.raises(UsageError, match="cannot be called 'general'"):
        localize(Inputs(given.model, {**one, "general": given.general}, given.general), config)


def test_coupled_sets_are_sets_of_indices():
    first = {"a": np.array([1, 5, 9]), "b": np.array([2])}
    second = {"a": np.array([5, 9, 11]), "c": np.array([2])}
    coupled = coupled_sets({"x": first, "y": second}, {"a": np.array([9])})
    assert {name: index.tolist() for name, index in coupled.items()} == {"a": [5]}


def test_methods_are_found_by_name():
    assert "spin" in method_names()
    assert all(find_method(name).name == name for name in method_names())
    with pytest.raises(UsageError, match="there is no method 'spun'"):
        find_method("spun")
