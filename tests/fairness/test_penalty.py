"""The penalties against slow references in float64, and batches that lack cells."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuropatch.fairness.penalty import accuracy_gap_penalty, equalized_odds_penalty, soft_rates

CELLS = st.lists(
    st.tuples(st.floats(-5, 5), st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=12
)


def _columns(rows):
    odds, labels, groups = map(list, zip(*rows, strict=True))
    return (
        torch.tensor(odds, dtype=torch.float64, requires_grad=True),
        torch.tensor(labels),
        torch.tensor(groups),
    )


def _rate(rows, group, label, temperature):
    soft = [1 / (1 + np.exp(-z / temperature)) for z, y, a in rows if (a, y) == (group, label)]
    return np.mean(soft) if soft else None


@given(CELLS, st.sampled_from([0.25, 1.0]))
def test_equalized_odds_penalty(rows, temperature):
    odds, labels, groups = _columns(rows)
    wanted = 0.0
    for label in (0, 1):
        rates = [_rate(rows, group, label, temperature) for group in range(3)]
        there = [rate for rate in rates if rate is not None]
        pairs = [(a - b) ** 2 for i, a in enumerate(there) for b in there[i + 1 :]]
        wanted += np.mean(pairs) if pairs else 0.0
    found = equalized_odds_penalty(odds, labels, groups, 3, temperature)
    # The same sums in another order, in float64.
    assert found.item() == pytest.approx(wanted, abs=1e-12)
    found.backward()
    assert torch.isfinite(odds.grad).all()


@given(CELLS)
def test_a_batch_of_one_group_has_no_penalty_and_no_gradient(rows):
    odds, labels, groups = _columns([(z, y, 1) for z, y, _ in rows])
    found = equalized_odds_penalty(odds, labels, groups, 3)
    found.backward()
    assert found.item() == 0
    assert (odds.grad == 0).all()


@given(CELLS)
def test_accuracy_gap_penalty(rows):
    odds, labels, sides = _columns([(z, y, a % 2) for z, y, a in rows])
    right = [[], []]
    for z, y, a in rows:
        right[a % 2].append(1 / (1 + np.exp(-z if y else z)))
    wanted = (np.mean(right[0]) - np.mean(right[1])) ** 2 if all(right) else 0.0
    found = accuracy_gap_penalty(odds, labels, sides)
    assert found.item() == pytest.approx(wanted, abs=1e-12)
    found.backward()
    assert torch.isfinite(odds.grad).all()


def test_soft_rates_approach_the_rates():
    odds = torch.tensor([0.4, -0.2, 0.1, -3.0])
    labels, groups = torch.tensor([1, 1, 0, 0]), torch.tensor([0, 0, 0, 1])
    rates, rows = soft_rates(odds, labels, groups, 2, 0.01)
    assert rows.tolist() == [[1, 2], [1, 0]]
    # At this temperature the nearest log odds, 0.1, is ten widths of the sigmoid from the cut.
    torch.testing.assert_close(rates, torch.tensor([[1.0, 0.5], [0.0, 0.0]]), atol=1e-4, rtol=0)


def test_the_gradient_of_the_penalty_brings_rates_together():
    odds = torch.tensor([2.0, -2.0], requires_grad=True)
    equalized_odds_penalty(odds, torch.tensor([1, 1]), torch.tensor([0, 1]), 2).backward()
    assert odds.grad[0] > 0 > odds.grad[1]
