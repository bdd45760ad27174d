from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from neuropatch.evaluation.bootstrap import Bootstrap, interval


def test_draws_have_the_exact_distribution_of_a_small_space():
    numerators, weights = np.array([1.0, 5.0, 2.0]), np.array([1.0, 2.0, 4.0])
    drawn = Bootstrap(3, seed=1, resamples=27_000).ratios(numerators[None], weights)[0]
    exact = sorted(
        numerators[list(draw)].sum() / weights[list(draw)].sum()
        for draw in product(range(3), repeat=3)
    )
    values, counts = np.unique(np.round(exact, 12), return_counts=True)
    found, frequency = np.unique(np.round(drawn, 12), return_counts=True)
    np.testing.assert_allclose(found, values)
    # Each of the 27 draws is expected 1000 times; 5 standard deviations of a binomial count.
    assert (np.abs(frequency - 1000 * counts) < 5 * np.sqrt(1000 * counts)).all()


def test_interval_of_a_mean_is_the_normal_one_for_many_items():
    items = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    low, high = interval(Bootstrap(2000).ratios(items[None], np.ones(2000))[0])
    error = items.std() / np.sqrt(2000)
    # A 2.5 % quantile of 10,000 draws has a standard deviation of 0.027 standard errors
    # (sqrt(p (1 - p) / R) / density); skew moves it by about as much.
    assert low == pytest.approx(items.mean() - 1.96 * error, abs=0.12 * error)
    assert high == pytest.approx(items.mean() + 1.96 * error, abs=0.12 * error)


def test_intervals_cover_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(300):
        items = rng.exponential(1.0, size=80)
        draws = Bootstrap(80, seed=trial, resamples=500).ratios(items[None], np.ones(80))[0]
        low, high = interval(draws)
        covered += low <= 1.0 <= high
    # 95 % is aimed at; skewed items and 80 of them cost about 2 %, chance +-1.3 % (one sigma).
    assert 0.89 <= covered / 300 <= 0.98


def test_differences_are_paired():
    items = np.random.default_rng(0).normal(size=50) * 100
    base, shifted = Bootstrap(50).ratios(np.stack([items, items + 1]), np.ones(50))
    assert interval(base)[1] - interval(base)[0] > 20
    np.testing.assert_allclose(shifted - base, 1.0, atol=1e-9)


def test_equal_seeds_draw_equally_and_chunks_do_not_matter():
    items, weights = np.arange(10.0)[None], np.ones(10)
    first = Bootstrap(10, seed=3, resamples=2500).ratios(items, weights)
    np.testing.assert_array_equal(first, Bootstrap(10, 3, 2500).ratios(items, weights))
    np.testing.assert_array_equal(first[:, :1500], Bootstrap(10, 3, 1500).ratios(items, weights))
    assert (first != Bootstrap(10, 4, 2500).ratios(items, weights)).any()
