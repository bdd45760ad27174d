"""The bound of distribution inference, on empirical distributions and in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neuropatch.evaluation.results import Estimate
from neuropatch.fairness import metrics
from neuropatch.fairness.distributions import Distributions
from neuropatch.fairness.group_metrics import group_metrics

# Sums of a few quotients of small integers: a relative error of 1e-15 each.
CLOSE = 1e-12


def exact(counts):
    """Delta_EO, W and Adv in rational numbers, written down as they are defined."""
    groups = range(counts.shape[1])

    def of(side, group, label, prediction):
        return Fraction(int(counts[side, group, label, prediction]))

    def rows(side, group, label):
        return of(side, group, label, 0) + of(side, group, label, 1)

    delta, distance, lead = Fraction(0), Fraction(0), Fraction(0)
    for label in (0, 1):
        rates = [
            sum(of(side, group, label, 1) for side in (0, 1))
            / sum(rows(side, group, label) for side in (0, 1))
            for group in groups
            if any(rows(side, group, label) for side in (0, 1))
        ]
        delta = max([delta, *(abs(one - other) for one in rates for other in rates)])
        totals = [sum(rows(side, group, label) for group in groups) for side in (0, 1)]
        if not all(totals):
            continue
        shares = [[rows(side, group, label) / totals[side] for group in groups] for side in (0, 1)]
        apart = sum(abs(one - other) for one, other in zip(*shares, strict=True)) / 2
        distance = max(distance, apart)
        ones = [
            sum(of(side, group, label, 1) for group in groups) / totals[side] for side in (0, 1)
        ]
        lead = max(lead, abs(ones[0] - ones[1]))
    return delta, distance, lead


@st.composite
def compositions(draw, most_groups=4):
    """A predictor with any group rates, and two samples of its rows in any composition.

    Each side holds every cell of (group, label) some number of times, so that a group's rates are
    the same in both, as the bound assumes.
    """
    groups = draw(st.integers(2, most_groups))
    cell = st.tuples(st.integers(0, 6), st.integers(0, 6))
    times = st.integers(0, 5)
    counts = np.zeros((2, groups, 2, 2))
    for group in range(groups):
        for label in (0, 1):
            predictions = draw(cell)
            for side in (0, 1):
                counts[side, group, label] = np.multiply(predictions, draw(times))
    assume((counts.sum(axis=(1, 3)) > 0).all())
    return counts


any_counts = st.integers(2, 4).flatmap(
    lambda groups: st.lists(st.integers(0, 9), min_size=8 * groups, max_size=8 * groups).map(
        lambda cells: np.array(cells, dtype=float).reshape(2, groups, 2, 2)
    )
)


@given(compositions())
def test_the_bound_holds_for_any_predictor_and_composition(counts):
    delta, distance, lead = exact(counts)
    assert lead <= delta * distance
    assert metrics.advantage(counts) <= metrics.bound(counts) + CLOSE


@given(compositions(most_groups=2))
def test_the_bound_is_tight_for_a_binary_attribute(counts):
    # Label by label: the largest rate difference and the largest distance may be of two labels.
    for label in (0, 1):
        one = counts.copy()
        one[:, :, 1 - label] = 0
        delta, distance, lead = exact(one)
        assert lead == delta * distance
        assert metrics.advantage(one) == pytest.approx(metrics.bound(one), abs=CLOSE)


@given(any_counts)
def test_pure_groups_are_as_far_apart_as_can_be(counts):
    half = counts.shape[1] // 2
    counts[0, half:] = 0
    counts[1, :half] = 0
    assume((counts.sum(axis=(1, 3)) > 0).all())
    delta, distance, lead = exact(counts)
    assert distance == 1
    assert lead <= delta
    assert metrics.composition_distance(counts) == pytest.approx(1, abs=CLOSE)
    if counts.shape[1] == 2:
        assert lead == delta


@given(any_counts)
def test_the_numbers_are_those_of_the_definitions(counts):
    assume((counts.sum(axis=(1, 2, 3)) > 0).all())
    delta, distance, lead = exact(counts)
    assert metrics.delta_eo(counts) == pytest.approx(float(delta), abs=CLOSE)
    assert metrics.composition_distance(counts) == pytest.approx(float(distance), abs=CLOSE)
    assert metrics.advantage(counts) == pytest.approx(float(lead), abs=CLOSE)
    assert 0 <= metrics.composition_distance(counts) <= 1 + CLOSE


@given(any_counts)
def test_the_matched_gap_is_the_gap_of_equal_label_shares(counts):
    assume((counts.sum(axis=(1, 3)) > 0).all())
    lead = metrics.advantage(counts)
    gap = metrics.matched_accuracy_gap(counts)
    assert gap <= lead + CLOSE
    # Rows weighted so that both sides have the label shares of all rows.
    whole = counts.sum(axis=(0, 1, 3)) / counts.sum()
    own = counts.sum(axis=(1, 3)) / counts.sum(axis=(1, 2, 3))[:, None]
    weighted = counts * (whole / own)[:, None, :, None]
    assert gap == pytest.approx(metrics.accuracy_gap(weighted), abs=CLOSE)


def test_the_bound_needs_the_same_group_rates_on_both_sides():
    # One group on both sides in the same share, and right on G0 only: W is 0, the advantage is not.
    counts = np.array([[[[0, 9], [0, 9]], [[9, 0], [9, 0]]], [[[9, 0], [9, 0]], [[9, 0], [9, 0]]]])
    assert metrics.bound(counts) == 0
    assert metrics.advantage(counts) == 0.5
    assert metrics.measure(counts.astype(float), resamples=500).inequality == "violated"


def test_tabulate_counts_rows(make_examples):
    examples = make_examples(50)
    sides = Distributions(examples.select(np.arange(20)), examples.select(np.arange(20, 50)), "ab")
    rng = np.random.default_rng(1)
    probabilities = rng.random(20), rng.random(30)
    counts = metrics.tabulate(sides, probabilities)
    for number, (side, p) in enumerate(zip(sides.sides, probabilities, strict=True)):
        for group in (0, 1):
            for label in (0, 1):
                there = (side.groups == group) & (side.labels == label)
                assert counts[number, group, label, 1] == np.sum(p[there] >= 0.5)
                assert counts[number, group, label, 0] == np.sum(p[there] < 0.5)
    assert metrics.accuracies(counts)[0] == np.mean((probabilities[0] >= 0.5) == sides.g0.labels)


def test_delta_eo_is_the_equalized_odds_difference_of_fairlearn():
    rng = np.random.default_rng(3)
    labels, predictions = rng.integers(2, size=(2, 900))
    groups = rng.integers(3, size=900)
    found = group_metrics(labels, predictions, groups, ("a", "b", "c"))
    side = (rng.random(900) < 0.5).astype(int)
    counts = np.zeros((2, 3, 2, 2))
    np.add.at(counts, (side, groups, labels, predictions), 1)
    assert metrics.delta_eo(counts) == pytest.approx(found.equalized_odds_difference, abs=CLOSE)
    rates = metrics.group_rates(counts)
    assert [one.true_positive_rate for one in found.groups] == pytest.approx(rates[:, 1])
    assert [one.false_positive_rate for one in found.groups] == pytest.approx(rates[:, 0])


def test_intervals_cover_the_truth():
    # 150 samples from known rates; 95 % intervals should miss about 7, and 20 or more with a
    # probability below 1e-4.
    rates = np.array([[0.2, 0.9], [0.4, 0.6]])  # [groups, labels]
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(150):
        counts = np.zeros((2, 2, 2, 2))
        for group in (0, 1):
            for label in (0, 1):
                ones = rng.binomial(300, rates[group, label])
                counts[group, group, label] = [300 - ones, ones]
        found = metrics.measure(counts, resamples=400, seed=1).delta_eo
        missed += not found.low <= 0.3 <= found.high
    assert missed < 20


def test_measure_is_deterministic_and_contains_its_values():
    counts = np.random.default_rng(0).integers(5, 60, size=(2, 2, 2, 2)).astype(float)
    found = metrics.measure(counts, resamples=300, seed=4)
    assert found == metrics.measure(counts, resamples=300, seed=4)
    assert found != metrics.measure(counts, resamples=300, seed=5)
    for estimate in (*found.accuracy, found.accuracy_gap, found.delta_eo, found.bound):
        assert isinstance(estimate, Estimate)
        assert estimate.low <= estimate.value <= estimate.high


def test_a_group_without_rows_of_a_label_is_told_and_left_out():
    labels = np.array([0, 1] * 30 + [1] * 5)
    groups = np.array([0, 0, 1, 1] * 15 + [2] * 5)
    predictions = np.ones(65, dtype=int)
    found = group_metrics(labels, predictions, groups, ("a", "b", "c"))
    assert found.left_out == ("c",)
    assert found.equalized_odds_difference == 0
    notes = " ".join(found.notes())
    assert "predicts 1 for every row" in notes
    assert "group c has rows of one label only" in notes
    assert "group a has only 15 rows" in notes
