"""The certified mode against the full one: identical sets, and bounds that hold."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropatch.attribution import certified
from neuropatch.attribution.bounds import Bound, RankOneBound, Rounding
from neuropatch.attribution.candidates import Candidates
from neuropatch.attribution.certified import CertifiedPass, first_count
from neuropatch.attribution.certified_run import CertifiedRun
from neuropatch.attribution.plan import ScorePlan
from neuropatch.attribution.run import TopWeightsRun, Wanted
from neuropatch.attribution.second_look import SecondLook
from neuropatch.attribution.watching import Samples
from neuropatch.data.batching import packed_batches
from neuropatch.errors import ModelError, ResourceError
from neuropatch.kernels import KernelBackend, snip_accumulate_
from neuropatch.models.modules import model_layout

ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gpt2"]
SCOPES = ["matrix", "layer", "model"]


@pytest.fixture
def reluctant(monkeypatch):
    """Hardly any candidates from the start, so that tiny models take every path there is.

    A function that sets how near to the threshold a weight joins: with a huge value none does,
    and all that are not there from the start are left to the second look.
    """
    monkeypatch.setattr(certified, "FIRST_LEAST", 1)
    monkeypatch.setattr(certified, "FIRST_PER_TAKEN", 1)
    monkeypatch.setattr(certified, "FIRST_SHARE", 0)
    return lambda reach: monkeypatch.setattr(certified, "REACH", reach)


def runs(model, samples, amount, scope, batch_tokens=32, candidates=10**6, roles=None):
    """The sets of the full and of the certified mode, and what the latter cost."""
    layout = model_layout(model)
    matrices = tuple(layout.matrices() if roles is None else layout.matrices(roles))
    wanted = {"a": Wanted(samples, amount)}
    found = []
    for kind, count in ((TopWeightsRun, 0), (CertifiedRun, candidates)):
        plan = ScorePlan((matrices,), 0, 0, 0, 0, count)
        one = kind(model, layout, wanted, scope=scope, plan=plan, batch_tokens=batch_tokens)
        found.append({m: index.tolist() for m, index in one.run()["a"].items()})
    return found[0], found[1], one.costs["a"]


@pytest.mark.parametrize("model_type", ["mixtral", "bloom"])
def test_experts_and_samples_one_by_one(make_model, make_samples, reluctant, model_type):
    reluctant(0.6)
    full, found, _ = runs(make_model(model_type), make_samples(17), 5, "layer")
    assert found == full
    assert all(matrix.expert >= 0 for matrix in full if matrix.role == "up") == (
        model_type == "mixtral"
    )


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("scope", SCOPES)
def test_sets_are_those_of_the_full_mode(make_model, make_samples, reluctant, model_type, scope):
    reluctant(0.6)
    full, found, cost = runs(make_model(model_type), make_samples(17), 5, scope)
    assert found == full
    assert cost.undecided > 0
    assert cost.run > cost.tokens


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model_type=st.sampled_from(ARCHITECTURES),
    scope=st.sampled_from(SCOPES),
    amount=st.sampled_from([1, 2, 7, 0.01, 0.2]),
    reach=st.sampled_from([0.0, 0.3, 0.9, 1e9]),
    batch_tokens=st.sampled_from([1, 20, 64, 1000]),
    count=st.integers(1, 24),
    seed=st.integers(0, 2**16),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
)
def test_sets_are_those_of_the_full_mode_for_any_run(
    make_model, make_samples, reluctant, model_type, scope, amount, reach, batch_tokens, count,
    seed, dtype,
):  # fmt: skip
    reluctant(reach)
    model = make_model(model_type, dtype, seed=seed % 7)
    full, found, _ = runs(model, make_samples(count, seed), amount, scope, batch_tokens)
    assert found == full


def with_twins(model):
    """Each MLP unit twice: equal weights, so equal scores to the bit, all over a matrix."""
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj"):
            weight = getattr(layer.mlp, name).weight.data
            weight[1::2] = weight[::2]
        weight = layer.mlp.down_proj.weight.data
        weight[:, 1::2] = weight[:, ::2]
    return model


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("amount", [1, 3, 5, 31])
@pytest.mark.parametrize("reach", [0.6, 1e9])
def test_ties_go_to_the_lower_coordinate(make_model, make_samples, reluctant, scope, amount, reach):
    reluctant(reach)
    model = with_twins(make_model("llama"))
    # Layers that do the same to the same input have the same scores beside each other.
    full, found, _ = runs(model, make_samples(13), amount, scope, roles=("gate", "up", "down"))
    assert found == full
    # An odd number cuts a pair of twins at the threshold.
    if scope == "matrix":
        assert any(len(index) % 2 for index in full.values())


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("amount", [100, 0.5])
def test_scores_of_zero_are_never_taken(make_model, make_samples, reluctant, scope, amount):
    """Fewer weights with a score than are asked for: dead units, and inputs that are zero."""
    reluctant(0.6)
    model = make_model("llama")
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data[:, 2:] = 0
        layer.mlp.gate_proj.weight.data[5:] = 0
        layer.mlp.up_proj.weight.data[:, ::2] = 0
    full, found, _ = runs(model, make_samples(9), amount, scope, roles=("gate", "up", "down"))
    assert found == full
    assert 0 < sum(map(len, full.values())) < 6 * 240 // 2


def test_without_undecided_weights_there_is_no_second_look(make_model, make_samples):
    full, found, cost = runs(make_model("llama"), make_samples(17), 5, "matrix")
    assert found == full
    assert cost.undecided == 0
    pilot = cost.run - cost.tokens
    assert 0 < pilot <= 2 * 14


def test_too_many_undecided_weights_are_an_error_that_says_what_to_do(
    make_model, make_samples, reluctant
):
    reluctant(1e9)
    with pytest.raises(ResourceError, match=r"room for 60 exact scores") as caught:
        runs(make_model("llama"), make_samples(9), 2, "matrix", candidates=60)
    assert "--memory windows" in caught.value.hint


def test_candidates_never_outgrow_their_room(make_model, make_samples, reluctant, monkeypatch):
    """With room for a few only the strongest join; the others are decided by the second look."""
    reluctant(0.0)
    most = []
    let_join = CertifiedPass._let_join

    def watch(self, *arguments):
        let_join(self, *arguments)
        most.append(sum(map(len, self.candidates.values())))

    monkeypatch.setattr(CertifiedPass, "_let_join", watch)
    monkeypatch.setattr(CertifiedPass, "_check_count", lambda *_: None)
    full, found, cost = runs(make_model("llama"), make_samples(17), 2, "matrix", candidates=100)
    assert found == full
    assert 28 < max(most) <= 100
    assert cost.undecided > 0


@pytest.mark.parametrize("where", ["gradient", "weight"])
def test_scores_that_are_not_finite_are_refused_by_name(make_model, make_samples, where):
    model = make_model("llama")
    if where == "weight":
        model.model.layers[1].mlp.up_proj.weight.data[3, 2] = float("inf")
    else:
        model.model.layers[1].mlp.gate_proj.register_full_backward_pre_hook(
            lambda m, g: (g[0] * float("inf"),)
        )
    with pytest.raises(ModelError, match="not finite"):
        runs(model, make_samples(3), 2, "matrix", roles=("gate", "up", "down"))


@settings(max_examples=70)
@given(data=st.data(), scale=st.sampled_from([1e-38, 1e-20, 1.0, 1e15]))
def test_bounds_are_never_below_computed_scores(data, scale):
    """Any tokens in any samples and batches, denormals and zeros included."""
    out, into = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    entry = st.floats(width=32, min_value=-1, max_value=1) | st.just(0.0)

    def matrix(rows, columns):
        cells = data.draw(st.lists(entry, min_size=rows * columns, max_size=rows * columns))
        return torch.tensor(cells).reshape(rows, columns)

    lengths = data.draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1,
                                 max_size=3))  # fmt: skip
    weight = matrix(out, into) * scale
    bound = Bound.none((out, into), torch.device("cpu"))
    sums = torch.zeros(out, into)
    for batch in lengths:
        tokens = sum(batch)
        grad, x = matrix(tokens, out) * scale, matrix(tokens, into)
        offsets = torch.tensor([0, *batch]).cumsum(0)
        snip_accumulate_(sums, grad, x, offsets)
        bound.now.add(grad, x)
        if data.draw(st.booleans()):
            bound.settle()
    flat = [length for batch in lengths for length in batch]
    slack = Rounding.of(flat, len(lengths))
    scores = (sums * weight.abs() / len(flat)).reshape(-1)
    everything = torch.arange(out * into)
    upper = slack.raise_(
        weight.abs().double().reshape(-1), bound.at(everything).double(), len(flat)
    )
    assert (upper >= scores.double()).all()
    # And so whatever the limit, nothing that reaches it is overlooked.
    for limit in {float(score) for score in scores if score > 0}:
        reaching = bound.reaching(weight, limit, len(flat), slack)
        assert set((scores >= limit).nonzero().squeeze(1).tolist()) <= set(reaching.tolist())
    # Nothing with a certain zero is looked at.
    assert set(bound.reaching(weight, 0.0, len(flat), slack).tolist()) >= set(
        (scores > 0).nonzero().squeeze(1).tolist()
    )


def test_the_bound_of_what_is_left(make_samples):
    """The bound of later tokens from that of all and that of the first is never too low."""
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 1e-22, 1e-40):
        parts = [
            (torch.randn(6, 5, generator=generator) * scale, torch.randn(6, 7, generator=generator))
            for _ in range(4)
        ]
        whole, part, rest = (RankOneBound.none((5, 7), torch.device("cpu")) for _ in range(3))
        for number, (grad, x) in enumerate(parts):
            whole.add(grad, x)
            (part if number < 2 else rest).add(grad, x)
        left = whole.without(part, 2)
        # A bound of the rest computed by itself is rounded up too, by one float32 a batch.
        for found, least in ((left.rows, rest.rows), (left.columns, rest.columns)):
            assert (found >= least * (1 - 2.0**-20) - 2.0**-145).all()
            assert (found <= whole.rows.max() + whole.columns.max()).all()
        if scale == 1.0:
            torch.testing.assert_close(left.rows, rest.rows, rtol=1e-4, atol=0)


def test_a_token_without_a_gradient_loosens_nothing():
    grad, x = torch.randn(4, 3), torch.randn(4, 5)
    grad[2] = 0
    x[2] = 1e9
    with_it, without = (RankOneBound.none((3, 5), torch.device("cpu")) for _ in range(2))
    with_it.add(grad, x)
    without.add(grad[[0, 1, 3]], x[[0, 1, 3]])
    assert torch.equal(with_it.columns, without.columns)
    assert torch.equal(with_it.rows, without.rows)


def test_two_parts_are_tighter_than_the_whole():
    """What rows did in the past does not meet what columns do now."""
    bound = Bound.none((2, 2), torch.device("cpu"))
    bound.now.add(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    bound.settle()
    bound.now.add(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    assert bound.at(torch.tensor([1, 2])).tolist() == [0, 0]
    assert (bound.whole().at(torch.tensor([0, 1, 2, 3])) > 0.99).all()
    slack = Rounding.of([1, 1], 2)
    assert bound.reaching(torch.ones(2, 2), 1e-30, 2, slack).tolist() == [0, 3]


def test_balanced_tokens_make_the_bound_tight():
    """A huge input with a tiny gradient, as first tokens have, beside an ordinary token."""
    grad = torch.tensor([[1e-6, 2e-6], [1.0, -1.0]])
    x = torch.tensor([[1e4, 2e4], [1.0, 0.5]])
    bound = RankOneBound.none((2, 2), torch.device("cpu"))
    bound.add(grad, x)
    unbalanced = torch.outer(grad.norm(dim=0), x.norm(dim=0))
    assert (torch.outer(bound.rows, bound.columns) < 2e-3 * unbalanced).all()


def test_what_rules_the_mode_out(monkeypatch):
    assert certified.obstacle(torch.float32) is None
    assert "float32" in certified.obstacle(torch.float64).hint
    amx = KernelBackend("snip_accumulate_", "amx", "forced")
    monkeypatch.setattr(certified, "backends", lambda: (amx,))
    assert "NEUROPATCH_KERNELS=amx" in certified.obstacle(torch.bfloat16).message


def test_looks_are_spread_over_the_samples():
    samples = Samples.of([[9]] * 40)
    looks = samples.looks()
    assert len(looks) == 8
    assert looks == {1: 6, 6: 11, 11: 16, 16: 21, 21: 26, 26: 31, 31: 36, 36: 40}
    assert Samples.of([[3, 4]]).looks() == {}
    assert Samples.of([[3, 4], [5]]).looks() == {1: 3}


def test_how_many_candidates_there_are_from_the_start():
    assert first_count(0, 10**6, 1) == 0
    assert first_count(1, 10**6, 1) == 1500
    assert first_count(50, 10**6, 1) == 5000
    assert first_count(50, 10**6, 0.003) == 3000
    assert first_count(50, 10**6, 0) == 100
    assert first_count(50, 40, 1) == 40


def test_candidates_stay_in_order_when_others_join():
    some = Candidates.at(torch.tensor([1, 8, 9]), 5)
    some.sums += torch.tensor([1.0, 2.0, 3.0])
    late = Candidates.at(torch.tensor([0, 7]), 5, rest=torch.tensor([0.5, 0.25]))
    both = some.joined(late, 5)
    assert both.index(5).tolist() == [0, 1, 7, 8, 9]
    assert both.sums.tolist() == [0, 1, 0, 2, 3]
    assert both.rest.tolist() == [0.5, 0, 0.25, 0, 0]


def test_a_pass_can_be_saved_and_continued(make_model, make_samples, reluctant):
    """Both passes, cut after every batch: see tests/methods for whole runs."""
    reluctant(0.6)
    model, samples = make_model("llama"), make_samples(17)
    whole = runs(model, samples, 5, "layer")[1]
    layout = model_layout(model)
    plan = ScorePlan((tuple(layout.matrices()),), 0, 0, 0, 0, 10**6)
    for kind in (CertifiedPass, SecondLook):
        recording = kind.recording

        def reload(self, batch, recording=recording):
            state = {name: values.clone() for name, values in self.state().items()}
            if self.batches:
                self.load(state, self.samples, self.batches)
            return recording(self, batch)

        kind.recording = reload
        try:
            one = CertifiedRun(
                model, layout, {"a": Wanted(samples, 5)}, scope="layer", plan=plan, batch_tokens=32
            )
            assert {m: i.tolist() for m, i in one.run()["a"].items()} == whole
        finally:
            kind.recording = recording
    assert len(list(packed_batches(samples, batch_tokens=32))) > 3
