from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from neuropatch.data.tokenize import text_windows
from neuropatch.evaluation import divergence as divergence_module
from neuropatch.evaluation import perplexity as perplexity_module
from neuropatch.evaluation.divergence import total_kl
from neuropatch.evaluation.measure import Variant, measure_text
from neuropatch.evaluation.perplexity import perplexity, total_nll, window_logits
from neuropatch.progress import Silent

TEXT = "The ferry to Ost leaves at nine, and the mill stands still until ten."
LENGTH = 11


def naive(model, tokenizer, bos):
    """Sum of negative log likelihoods and number of tokens, token by token in float64."""
    wide = copy.deepcopy(model).double()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    step = LENGTH - len(bos)
    total, tokens = 0.0, 0
    for start in range(0, len(ids), step):
        window = [*bos, *ids[start : start + step]]
        for place in range(1, len(window)):
            with torch.no_grad():
                logits = wide(input_ids=torch.tensor([window[:place]])).logits[0, -1]
            total -= float(torch.log_softmax(logits, -1)[window[place]])
            tokens += 1
    return total, tokens


@pytest.mark.parametrize("bos", [False, True])
def test_equals_a_naive_float64_computation(model, make_tokenizer, bos):
    tokenizer = make_tokenizer(bos)
    windows = text_windows([TEXT], tokenizer, LENGTH)
    scores = measure_text(model, windows, [Variant("the model")], Silent())
    total, tokens = naive(model, tokenizer, [0] if bos else [])
    assert scores.tokens.sum() == tokens
    # Each token's float32 log likelihood is off by some 1e-6 at most, of about 6.
    assert scores.nll.sum() == pytest.approx(total, rel=1e-5)
    value = perplexity(scores.nll.sum(axis=1) / scores.tokens.sum())
    assert value[0] == pytest.approx(math.exp(total / tokens), rel=1e-4)


def test_divergence_equals_a_naive_float64_computation(model, make_model, tokenizer):
    other = make_model("llama", vocab_size=260, initializer_range=0.5, seed=1)
    window = text_windows([TEXT], tokenizer, LENGTH)[0]
    (base, _), (found, _) = window_logits(model, window), window_logits(other, window)
    p, q = (torch.log_softmax(x.double(), -1) for x in (base, found))
    expected = float((p.exp() * (p - q)).sum())
    assert expected > 1
    assert total_kl(base, found) == pytest.approx(expected, rel=1e-5)


def test_divergence_of_equal_logits_is_exactly_zero():
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)) * 20
    assert total_kl(logits, logits.clone()) == 0.0


def test_a_token_that_the_base_rules_out_adds_nothing():
    base = torch.tensor([[0.0, 0.0, -math.inf]])
    other = torch.tensor([[0.0, 0.0, 0.0]])
    assert total_kl(base, other) == pytest.approx(math.log(3 / 2), rel=1e-6)
    assert total_kl(base, base) == 0.0
    assert total_kl(other, base) == math.inf


def test_chunks_of_positions_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    base, other = (torch.randn(9, 50, generator=generator) for _ in range(2))
    targets = torch.arange(9)
    whole = total_nll(base, targets), total_kl(base, other)
    monkeypatch.setattr(perplexity_module, "_CHUNK_ELEMENTS", 120)
    assert [len(base[rows]) for rows in divergence_module.position_chunks(base)] == [2, 2, 2, 2, 1]
    assert (total_nll(base, targets), total_kl(base, other)) == pytest.approx(whole, rel=1e-12)


def test_half_precision_logits_are_widened_before_they_are_normalised():
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)).bfloat16() * 4
    targets = torch.arange(5)
    wide = torch.log_softmax(logits.double(), -1)[targets, targets]
    assert total_nll(logits, targets) == pytest.approx(-float(wide.sum()), rel=1e-6)


def test_perplexity_beyond_any_float_is_infinite():
    assert perplexity(np.array([0.0, 1000.0])).tolist() == [1.0, math.inf]
