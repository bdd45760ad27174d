from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neuropatch.errors import DataError
from neuropatch.evaluation.leakage.exposure import (
    ExposureSummary,
    _log_cdf,
    candidate_losses,
    chance_exposure,
    exposure_among,
    measure_exposure,
)
from neuropatch.evaluation.leakage.scores import Probe


def plain_loss(model, tokenizer, prompt, text):
    """The loss of a text after a prompt, each text alone and in float64."""
    first = len(tokenizer(prompt)["input_ids"])
    ids = torch.tensor([tokenizer(f"{prompt} {text}")["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits[0, first - 1 : -1].double()
    return float(torch.nn.functional.cross_entropy(logits, ids[0, first:], reduction="sum"))


@pytest.mark.parametrize("bos", [False, True])
def test_candidates_that_share_the_prompts_cache_have_their_own_losses(model, make_tokenizer, bos):
    tokenizer = make_tokenizer(bos)
    texts = ["12", "1", "977", "x y", "12"]
    found = candidate_losses(model, tokenizer, "the code is", texts, batch_tokens=7)
    expected = [plain_loss(model, tokenizer, "the code is", text) for text in texts]
    # Losses of up to about 50, in float32 through the cache.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert found[0] == pytest.approx(found[4], rel=1e-6)


def test_candidates_after_a_prompt_of_one_token(model, tokenizer):
    found = candidate_losses(model, tokenizer, "n", ["12", "34"])
    expected = [plain_loss(model, tokenizer, "n", text) for text in ("12", "34")]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_exposure_is_exact_where_the_space_is_enumerated(model, tokenizer):
    space = [f"{number:02d}" for number in range(100)]
    losses = {text: plain_loss(model, tokenizer, "code", text) for text in space}
    order = sorted(space, key=lambda text: losses[text])
    for rank in (1, 7, 100):
        secret = order[rank - 1]
        found = measure_exposure(
            model,
            tokenizer,
            Probe("code", secret),
            [text for text in space if text != secret],
            complete=True,
        )
        assert found.rank == rank
        assert found.bits == pytest.approx(math.log2(100) - math.log2(rank))
        assert found.extrapolated is None


def test_sampled_exposure_is_near_the_exact_one():
    rng = np.random.default_rng(0)
    space = rng.normal(30, 4, 20_000)
    for secret in np.quantile(space, [0.3, 0.05, 0.005]):
        exact = exposure_among(secret, space, complete=True)
        sampled = exposure_among(secret, rng.choice(space, 5000, replace=False))
        # Of 5000, about 25 stand before the rarest of these secrets, give or take 5 (0.3 bits).
        assert sampled.bits == pytest.approx(exact.bits, abs=1.0)
        assert sampled.extrapolated == pytest.approx(exact.bits, abs=0.6)
        assert 0 < sampled.error < 0.6


def test_extrapolation_reaches_beyond_the_candidates():
    rng = np.random.default_rng(1)
    found = exposure_among(30.0 - 6 * 4.0, rng.normal(30, 4, 2000))
    assert found.bits == pytest.approx(math.log2(2001))
    truth = -float(torch.special.log_ndtr(torch.tensor(-6.0, dtype=torch.float64))) / math.log(2)
    assert found.extrapolated == pytest.approx(truth, abs=4 * found.error)
    assert found.extrapolated > 20
    capped = exposure_among(6.0, rng.normal(30, 4, 2000), space_bits=12.5)
    assert capped.extrapolated == 12.5


def test_candidates_that_are_all_alike_cannot_be_extrapolated():
    found = exposure_among(3.0, np.full(5, 4.0))
    assert (found.rank, found.extrapolated, found.error) == (1, None, None)
    assert exposure_among(4.0, np.full(5, 4.0)).rank == 1, "equals stand behind the secret"


def test_chance_is_the_mean_over_all_ranks():
    for total in (2, 9, 300):
        by_hand = np.mean([math.log2(total) - math.log2(rank) for rank in range(1, total + 1)])
        assert chance_exposure(total - 1) == pytest.approx(by_hand)


@pytest.mark.parametrize("z", [-30.0, -8.0, -1.0, -0.01, 0.0, 0.4, 3.0])
def test_the_skew_normal_tail_agrees_with_closed_forms(z):
    log_phi = float(torch.special.log_ndtr(torch.tensor(z, dtype=torch.float64)))

    def log_cdf(at, shape):
        return float(_log_cdf(np.array([at]), np.array([shape]))[0])

    # Shape 0 is the normal distribution, and shape 1 the larger of two normal variables. The
    # trapezoid rule is good to about 1e-4.
    assert log_cdf(z, 0.0) == pytest.approx(log_phi, rel=1e-4, abs=1e-5)
    assert log_cdf(z, 1.0) == pytest.approx(2 * log_phi, rel=1e-4, abs=1e-5)
    for shape in (-15.0, 2.0, 15.0):
        at_zero = math.log(0.5 - math.atan(shape) / math.pi)
        assert log_cdf(0.0, shape) == pytest.approx(at_zero, rel=1e-3)
        total = math.exp(log_cdf(z, shape)) + math.exp(log_cdf(-z, -shape))
        assert total == pytest.approx(1.0, abs=1e-3)


def test_a_summary_averages_and_names_the_level_of_chance():
    one = exposure_among(1.0, np.array([2.0, 3.0, 4.0]), complete=True)
    other = exposure_among(3.5, np.array([2.0, 3.0, 4.0]), complete=True)
    found = ExposureSummary.of([one, other])
    assert found.bits == pytest.approx((2 + math.log2(4 / 3)) / 2)
    assert found.reciprocal_rank == pytest.approx((1 + 1 / 3) / 2)
    assert found.chance == pytest.approx(chance_exposure(3))
    assert found.extrapolated is None
    with pytest.raises(DataError, match="no exposure"):
        ExposureSummary.of([])


def test_no_candidates_are_refused(model, tokenizer):
    with pytest.raises(DataError, match="no candidates"):
        measure_exposure(model, tokenizer, Probe("code", "1"), [])
