from __future__ import annotations

import numpy as np
import pytest

from neuropatch.errors import ModelError
from neuropatch.evaluation.compare import KL, PERPLEXITY, compare, compare_pairs
from neuropatch.evaluation.perplexity import perplexity
from neuropatch.evaluation.results import Metric

SHARE = Metric("preference", "privacy: preference", "", "higher", "prompts", ".3f")
NOISE = np.random.default_rng(0).normal(0, 0.05, size=60)


def result(metric, *shifts, items=60, spread=0.1):
    """A metric whose variants are a noisy base moved by shifts, each with its own small noise."""
    rng = np.random.default_rng(1)
    base = 0.5 + rng.normal(0, spread, size=items)
    rows = [base, *(base + shift + rng.normal(0, 0.01, size=items) for shift in shifts)]
    return compare(metric, np.stack(rows), np.ones(items), seed=0)


@pytest.mark.parametrize(
    ("metric", "shifts", "outcome", "words"),
    [
        (SHARE, (0.2, 0.0, 0.01), "beats-control", "rises (+"),
        (SHARE, (-0.2, 0.0, 0.0), "worse-than-control", "falls (-"),
        (PERPLEXITY, (0.2, 0.0), "worse-than-control", "worse than under its random control"),
        (PERPLEXITY, (-0.2, 0.0), "beats-control", "the patch beats its random control"),
        (PERPLEXITY, (0.2, 0.5, 0.6), "less-than-control", "less than under its random control"),
        # One control that does as much is enough to doubt a patch.
        (SHARE, (0.2, 0.0, 0.2), "within-control", "no difference to its random control"),
        (SHARE, (0.2, 0.0, 0.4), "within-control", "no difference to its random control"),
        (SHARE, (0.2,), "no-control", "any patch might do that"),
    ],
)
def test_a_change_counts_only_beyond_every_control(metric, shifts, outcome, words):
    found = result(metric, *shifts)
    assert found.outcome == outcome
    assert words in found.verdict
    assert found.verdict.startswith(f"{metric.label}: ")


def test_no_difference_is_said_even_where_the_control_moves():
    rng = np.random.default_rng(0)
    base = rng.normal(size=50)
    rows = np.stack([base, base + rng.normal(0, 0.1, size=50), base + 3])
    found = compare(SHARE, rows, np.ones(50), seed=0)
    assert found.outcome == "no-difference"
    assert "no difference to the base can be seen" in found.verdict
    assert "its random control moves it by +3.000" in found.verdict


def test_one_item_cannot_tell():
    found = result(SHARE, 0.2, 0.0, items=1)
    assert found.outcome == "too-few-items"
    assert found.difference.value == pytest.approx(0.2, abs=0.05)
    assert (found.difference.low, found.base.high) == (None, None)
    assert found.verdict == "privacy: preference: 1 prompt cannot tell; evaluate on more"


@pytest.mark.parametrize(
    ("kl", "words"),
    [
        ((0.2, 0.01), "more than under its random control (0.01)"),
        ((0.01, 0.2), "less than under its random control (0.2)"),
        ((0.2, 0.2), "no difference to its random control can be seen"),
        ((0.2,), "any patch might do that"),
        ((0.0, 0.1), "the predictions do not move at all"),
    ],
)
def test_divergence_is_told_as_a_distance(kl, words):
    rows = np.stack([np.zeros(60), *(np.full(60, value) + NOISE * value for value in kl)])
    found = compare(KL, rows, np.ones(60), seed=0)
    assert words.split(" (")[0] in found.verdict
    row = found.row()
    assert row[1] == row[4] == ""


def test_differences_of_perplexity_are_differences_of_perplexities():
    nll, tokens = np.array([[6.0, 2.0], [8.0, 3.0]]), np.array([3.0, 1.0])
    found = compare(PERPLEXITY, nll, tokens, seed=0, transform=perplexity)
    assert found.base.value == pytest.approx(np.exp(8 / 4))
    assert found.difference.value == pytest.approx(np.exp(11 / 4) - np.exp(8 / 4))
    assert found.base.low == pytest.approx(np.exp(2.0))
    assert found.to_json()["relative_difference"] == pytest.approx(np.exp(3 / 4) - 1)
    assert "+111.70% of the base" in found.verdict


def test_pairs_of_one_prompt_are_drawn_together():
    # Prompt 0 has four pairs that all win, prompts 1 and 2 one each that loses: draws are of
    # three prompts, so that a draw without prompt 0 has share 0.
    margin = np.array([[1.0, 1.0, 1.0, 1.0, -1.0, -1.0]])
    found = compare_pairs("p", margin, np.array([0, 0, 0, 0, 1, 2]), seed=0)[0]
    assert found.count == 3
    assert found.base.value == pytest.approx(4 / 6)
    assert (found.base.low, found.base.high) == (0.0, 1.0)


def test_a_value_beyond_any_float_is_an_error():
    with pytest.raises(ModelError, match="perplexity is beyond any number"):
        compare(PERPLEXITY, np.full((1, 3), 5000.0), np.ones(3), seed=0, transform=perplexity)
