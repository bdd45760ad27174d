"""Integrated gradients against whole passes, against captum, and against what they add up to."""

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients as CaptumGradients

from neuropatch.attribution import reference
from neuropatch.attribution.integrated import (
    IntegratedGradients,
    Question,
    causal_question,
    masked_question,
)
from neuropatch.attribution.joining import plan_points
from neuropatch.data.tokenize import MaskedSample
from neuropatch.errors import ModelError
from neuropatch.models import shared_prefix
from neuropatch.models.coordinates import BlockId
from neuropatch.models.modules import model_layout

CAUSAL = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gpt2", "bert")

# The same sums in another order: 1e-16 for each of a few hundred terms.
EXACT = {"rtol": 1e-10, "atol": 1e-13}


def sharpen(model, seed=0):
    """Weights large enough for layers to be far from linear, and probabilities from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="session")
def question():
    """Four tokens of a text, the second of them predicted from the first token alone."""
    ids = np.random.default_rng(1).integers(3, 50, 12).tolist()
    places = (0, 4, 5, 10)
    return Question(tuple(ids[:11]), places, tuple(ids[place + 1] for place in places))


@pytest.fixture(scope="session")
def make_sharp(make_model):
    return lambda *args, **options: sharpen(make_model(*args, **options))


@pytest.fixture(scope="session")
def make_masked(tiny_configs):
    def make(dtype=torch.float64):
        from transformers import AutoConfig, AutoModelForMaskedLM

        config = AutoConfig.for_model(**{**tiny_configs["bert"], "is_decoder": False})
        return sharpen(AutoModelForMaskedLM.from_config(config).to(dtype).eval())

    return make


def attribute(model, question, *, steps=7, **options):
    return IntegratedGradients(model, model_layout(model), steps=steps, **options).attribute(
        question
    )


def assert_equal(found, expected, **tolerance):
    assert list(found.scores) == list(expected.scores)
    for block, scores in expected.scores.items():
        assert scores.abs().max() > 1e-4
        torch.testing.assert_close(found.scores[block], scores, **tolerance)
    torch.testing.assert_close(found.probabilities, expected.probabilities, **tolerance)


@pytest.mark.parametrize("model_type", CAUSAL)
@pytest.mark.parametrize("batch_tokens", [1024, 30, 5], ids=["one pass", "some", "many passes"])
def test_continuing_tokens_are_whole_passes(make_sharp, question, model_type, batch_tokens):
    model = make_sharp(model_type, "float64")
    notes = []
    found = attribute(model, question, batch_tokens=batch_tokens, note=notes.append)
    assert_equal(found, reference.integrated_gradients(model, question, steps=7), **EXACT)
    assert not notes


@pytest.mark.parametrize("window", [3, 5])
def test_what_has_left_a_sliding_window_is_not_seen(make_sharp, question, window):
    model = make_sharp("mistral", "float64", sliding_window=window)
    notes = []
    found = attribute(model, question, note=notes.append)
    assert_equal(found, reference.integrated_gradients(model, question, steps=7), **EXACT)
    assert not notes


def test_float32(make_sharp, question):
    model = make_sharp("llama", "float32")
    found = attribute(model, question)
    exact = reference.integrated_gradients(make_sharp("llama", "float64"), question, steps=7)
    for block, scores in exact.scores.items():
        # Roundings of 6e-8 in some 50 operations one behind the other, relative to the largest.
        error = (found.scores[block].double() - scores).abs().max() / scores.abs().max()
        assert error < 2e-5
    assert found.scores[block].dtype == torch.float32


def test_half_precision_is_accepted(make_sharp, question):
    model = make_sharp("llama", "bfloat16")
    notes = []
    found = attribute(model, question, note=notes.append)
    exact = reference.integrated_gradients(make_sharp("llama", "float64"), question, steps=7)
    assert not notes
    for block, scores in exact.scores.items():
        mine = found.scores[block]
        assert mine.dtype == torch.float32
        # Eight bits of a number, lost at every step; the direction is what is left of the scores.
        cosine = torch.cosine_similarity(mine.double().flatten(), scores.flatten(), dim=0)
        assert cosine > 0.98


@pytest.mark.parametrize("batch_tokens", [1024, 30, 5])
def test_masked_models(make_masked, question, batch_tokens):
    model = make_masked()
    found = attribute(model, question, kind="masked", batch_tokens=batch_tokens)
    expected = reference.integrated_gradients(model, question, kind="masked", steps=7)
    assert_equal(found, expected, **EXACT)


def test_a_model_with_attention_of_its_own_reads_whole_texts(make_sharp, question, monkeypatch):
    model = make_sharp("llama", "float64")
    # transformers warns and changes nothing where a model does not support another function.
    monkeypatch.setattr(type(model), "set_attn_implementation", lambda self, name: None)
    notes = []
    found = attribute(model, question, note=notes.append)
    assert_equal(found, reference.integrated_gradients(model, question, steps=7), **EXACT)
    (note,) = notes
    assert "does not let its attention be exchanged" in note
    assert "reads its whole text" in note


def test_a_model_that_mixes_tokens_elsewhere_reads_whole_texts(make_sharp, question):
    model = make_sharp("llama", "float64")

    def shift(module, args, output):
        return output + 0.5 * torch.cat([torch.zeros_like(output[:, :1]), output[:, :-1]], dim=1)

    handle = model.model.embed_tokens.register_forward_hook(shift)
    notes = []
    gradients = IntegratedGradients(model, model_layout(model), steps=7, note=notes.append)
    expected = reference.integrated_gradients(model, question, steps=7)
    for _ in range(2):
        assert_equal(gradients.attribute(question), expected, **EXACT)
    handle.remove()
    (note,) = notes
    assert "is not what it is in its text" in note


def test_a_model_without_a_cache_reads_whole_texts(make_sharp, question, monkeypatch):
    model = make_sharp("llama", "float64")
    plain = model.forward
    monkeypatch.setattr(
        model, "forward", lambda *args, past_key_values=None, **rest: plain(*args, **rest)
    )
    notes = []
    found = attribute(model, question, note=notes.append)
    assert_equal(found, reference.integrated_gradients(model, question, steps=7), **EXACT)
    assert "keeps no keys and values" in notes[0]


def probability(model, ids, position, target, block, hidden):
    """``P`` of a token with other activations at its position, ``[n]`` for ``[n, units]``."""
    down = model.get_submodule(f"model.layers.{block.layer}.mlp.down_proj")

    def put(module, args):
        changed = args[0].clone()
        changed[:, position] = hidden
        return (changed,)

    handle = down.register_forward_pre_hook(put)
    logits = model(input_ids=ids.expand(len(hidden), -1), use_cache=False).logits[:, position]
    handle.remove()
    return logits.softmax(dim=-1)[:, target]


def activations(model, ids, position, block):
    seen = []
    down = model.get_submodule(f"model.layers.{block.layer}.mlp.down_proj")
    handle = down.register_forward_pre_hook(lambda module, args: seen.append(args[0][:, position]))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    handle.remove()
    return seen[0]


def test_attributions_add_up_to_the_difference_that_the_activations_make(make_sharp, question):
    """Completeness; the error of a Riemann sum of points at the right ends falls as 1/m."""
    model = make_sharp("llama", "float64")
    ids = torch.tensor([question.ids])
    found = {steps: attribute(model, question, steps=steps) for steps in (20, 80, 320)}
    for token, (position, target) in enumerate(
        zip(question.positions, question.targets, strict=True)
    ):
        for block in found[20].scores:
            hidden = activations(model, ids, position, block)
            with torch.no_grad():
                ends = torch.cat([torch.zeros_like(hidden), hidden])
                none, all_of_it = probability(model, ids, position, target, block, ends)
            errors = [
                (one.scores[block][token].sum() - (all_of_it - none)).abs().item()
                for one in found.values()
            ]
            # Terms of both signs cancel in the sum: its error is small next to their size.
            assert errors[2] < 1e-2 * found[320].scores[block][token].abs().sum()
            # A quarter each time, but for terms of the second order.
            assert errors[1] == pytest.approx(errors[0] / 4, rel=0.25)
            assert errors[2] == pytest.approx(errors[1] / 4, rel=0.25)


def test_captum_gives_the_same(make_sharp, question):
    model = make_sharp("llama", "float64")
    ids = torch.tensor([question.ids])
    found = attribute(model, question, steps=20)
    for token, (position, target) in enumerate(
        zip(question.positions, question.targets, strict=True)
    ):
        for block, scores in found.scores.items():
            hidden = activations(model, ids, position, block)
            oracle = CaptumGradients(
                lambda h, at=(position, target), block=block: probability(model, ids, *at, block, h)
            )
            expected = oracle.attribute(hidden, baselines=0, n_steps=20, method="riemann_right")
            # captum rounds the length of a step, 1/20, to float32: 1.5e-8 of every term, and
            # terms of both signs may cancel.
            largest = scores[token].abs().max().item()
            torch.testing.assert_close(scores[token], expected[0], rtol=0, atol=1e-6 * largest)


def test_a_planted_neuron_is_found(make_model, question):
    """A unit that writes the output embedding of one token into a stream of nearly nothing."""
    model = make_model("llama", "float64")
    layer, unit, token = 1, 13, 2
    block = BlockId("decoder", layer)
    hidden = activations(model, torch.tensor([question.ids]), question.positions[token], block)
    with torch.no_grad():
        model.lm_head.weight *= 200
        direction = model.lm_head.weight[question.targets[token]]
        direction = direction / direction.norm()
        model.model.layers[layer].mlp.down_proj.weight[:, unit] = direction / hidden[0, unit]
    found = attribute(model, question)
    assert found.probabilities[token] > 0.9
    ranked = sorted(
        (score, block.layer, number)
        for block, values in found.scores.items()
        for number, score in enumerate(values[token].tolist())
    )
    assert ranked[-1][1:] == (layer, unit)
    assert ranked[-1][0] > 10 * ranked[-2][0]


def test_weights_are_left_as_they_were(make_sharp, question):
    model = make_sharp("llama", "float32").requires_grad_(True)
    model.lm_head.requires_grad_(False)
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    attribute(model, question)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == wanted[name]
        assert parameter.grad is None
    assert model.config._attn_implementation != shared_prefix.NAME
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_probability_that_is_not_a_number_is_refused(make_sharp, question):
    model = make_sharp("llama", "float32")
    with torch.no_grad():
        model.lm_head.weight[0] = float("nan")
    with pytest.raises(ModelError, match="not a number"):
        attribute(model, question)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("most", [1, 4, 5, 1000])
def test_every_point_is_in_one_pass(steps, most):
    plan = plan_points(3, steps, most)
    points = [
        (layer, factor)
        for one in plan
        for layer, factors in one.joining.items()
        for factor in factors
    ]
    assert points == [(layer, j / steps) for layer in range(3) for j in range(1, steps)]
    assert [one.plain for one in plan] == [True] + [False] * (len(plan) - 1)
    assert all(sum(map(len, one.joining.values())) <= most for one in plan)


def test_questions_of_a_sample():
    sample = MaskedSample(0, [7, 8, 9, 10, 11], 1, (False, False, True, True, False))
    assert causal_question(sample) == Question((7, 8, 9), (1, 2), (9, 10))
    assert masked_question(sample, 3, [2]) == Question((7, 8, 3, 3, 11, 2), (2, 3), (9, 10))
