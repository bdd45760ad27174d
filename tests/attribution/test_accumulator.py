"""Fused per-sample scores against autograd in float64, one sample at a time."""

import pytest
import torch

from neuropatch.attribution.accumulator import GradientAccumulator
from neuropatch.attribution.plan import ScorePlan
from neuropatch.attribution.reference import snip_scores
from neuropatch.attribution.run import TopWeightsRun, Wanted, score_batch
from neuropatch.data.batching import packed_batches
from neuropatch.errors import ModelError
from neuropatch.models.modules import model_layout, resolve_parameters

# Float32 rounds each of a few hundred terms of a sum by 6e-8; bfloat16 rounds the activations and
# gradients of every layer by 4e-3, and two layers and their norms add up.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 6e-2}


def fused_scores(model, samples, batch_tokens):
    model.requires_grad_(False)
    layout = model_layout(model)
    slots = resolve_parameters(model, layout, layout.matrices())
    accumulator = GradientAccumulator(model, slots)
    for batch in packed_batches(samples, batch_tokens=batch_tokens):
        score_batch(model, accumulator, batch)
    return {slot.matrix: accumulator.score(slot.matrix) for slot in slots}


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gpt2"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("batch_tokens", [1, 64])
def test_scores_equal_autograd(make_model, make_samples, model_type, dtype, batch_tokens):
    model = make_model(model_type, dtype)
    samples = make_samples(7)
    exact = snip_scores(model, samples, model_layout(model).matrices())
    found = fused_scores(model, samples, batch_tokens)
    assert found.keys() == exact.keys()
    for matrix, score in exact.items():
        assert score.norm() > 0
        error = (found[matrix].double() - score).norm() / score.norm()
        assert error <= TOLERANCE[dtype], (str(matrix), float(error))


def test_the_absolute_value_is_inside_the_mean(make_model, make_samples):
    """Two samples whose gradients cancel must not cancel in the score."""
    model = make_model("llama", "float64")
    first, second = make_samples(2)
    scores = [fused_scores(model, part, 64) for part in ([first], [second], [first, second])]
    for matrix, both in scores[2].items():
        mean = (scores[0][matrix] + scores[1][matrix]) / 2
        torch.testing.assert_close(both, mean, rtol=1e-10, atol=1e-18)


def test_frozen_flags_and_hooks_are_as_before_after_a_run(make_model, make_samples):
    model = make_model("llama")
    model.lm_head.weight.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    run(model, make_samples(5), windows=2)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def run(model, samples, *, windows, scope="matrix", **options):
    layout = model_layout(model)
    matrices = layout.matrices()
    layers = [tuple(m for m in matrices if m.layer == layer) for layer in range(2)]
    plan = ScorePlan(tuple(layers) if windows == 2 else (tuple(matrices),), 0, 0, 0, 0)
    wanted = {"a": Wanted(samples, 11)}
    one = TopWeightsRun(model, layout, wanted, scope=scope, plan=plan, batch_tokens=32, **options)
    return {m: index.tolist() for m, index in one.run()["a"].items()}


@pytest.mark.parametrize("scope", ["matrix", "layer", "model"])
def test_windows_of_layers_find_the_same_weights(make_model, make_samples, scope):
    model, samples = make_model("llama"), make_samples(9)
    assert run(model, samples, windows=2, scope=scope) == run(
        model, samples, windows=1, scope=scope
    )


def test_a_loss_that_is_not_finite_names_the_row(make_model, make_samples):
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight[:] = float("nan")
    with pytest.raises(ModelError, match=r"the loss of row .* is not finite"):
        run(model, make_samples(3), windows=1)


def test_a_matrix_that_is_no_linear_weight_is_refused(make_model):
    model = make_model("llama")
    layout = model_layout(model)
    slot = resolve_parameters(model, layout, layout.matrices(("up",)))[0]
    renamed = type(slot)(slot.matrix, "model.embed_tokens.other", slot.parameter, slot.slot)
    with pytest.raises(ModelError, match=r"embed_tokens\.other"):
        GradientAccumulator(model, [renamed])


@pytest.mark.parametrize("model_type", ["mistral", "qwen2"])
def test_a_sliding_window_hides_the_same_tokens_in_a_packed_row(
    make_model, make_samples, model_type
):
    options = {"layer_types": ["sliding_attention"] * 2} if model_type == "qwen2" else {}
    windowed = {"sliding_window": 3, "use_sliding_window": True} | options
    model = make_model(model_type, "float64", **windowed)
    samples = make_samples(7)
    exact = snip_scores(model, samples, model_layout(model).matrices())
    unlimited = snip_scores(make_model(model_type), samples, model_layout(model).matrices())
    for matrix, score in fused_scores(model, samples, 64).items():
        torch.testing.assert_close(score, exact[matrix], rtol=1e-10, atol=1e-18)
        assert not torch.allclose(score, unlimited[matrix])


def test_a_run_leaves_the_attention_of_the_model_alone(make_model, make_samples):
    for implementation in ("eager", "sdpa"):
        model = make_model("llama")
        model.set_attn_implementation(implementation)
        run(model, make_samples(5), windows=1)
        assert model.config._attn_implementation == implementation


def test_a_model_whose_attention_stays_is_refused(make_model, make_samples, monkeypatch):
    """Its samples would see each other."""
    model = make_model("llama")
    monkeypatch.setattr(model, "_can_set_attn_implementation", lambda: False)
    with pytest.raises(ModelError, match="does not let its attention be exchanged"):
        run(model, make_samples(3), windows=1)


def test_nothing_below_the_lowest_scored_layer_is_differentiated(make_model, make_samples):
    model = make_model("llama").requires_grad_(False)
    layout = model_layout(model)
    slots = resolve_parameters(model, layout, [m for m in layout.matrices() if m.layer == 1])
    seen = {}

    def see(name):
        return lambda module, args, output: seen.update({name: output[0].requires_grad})

    model.model.layers[0].register_forward_hook(see(0))
    model.model.layers[1].register_forward_hook(see(1))
    (batch,) = packed_batches(make_samples(4), batch_tokens=100)
    score_batch(model, GradientAccumulator(model, slots), batch)
    assert seen == {0: False, 1: True}
