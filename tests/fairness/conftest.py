"""Labelled rows with a known bias, and the smallest classifiers that can learn it."""

from __future__ import annotations

import numpy as np
import pytest

from neuropatch.data.tables import Table
from neuropatch.fairness.examples import Examples


@pytest.fixture(scope="session")
def make_table():
    """``make_table(columns, rows)``: a table in memory; a row is a list of cells."""

    def make(columns, rows, source="rows.csv"):
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        return Table(source, tuple(columns), named, "0" * 64)

    return make


@pytest.fixture(scope="session")
def make_examples():
    """``make_examples(n, shift)``: two groups, ``f`` and ``m``, whose label follows ``x``.

    In group ``m`` the label is 1 where ``x > shift``, in ``f`` where ``x > -shift``: a model of one
    group is wrong between the two cuts in the other.
    """

    def make(n=400, shift=0.5, seed=0):
        rng = np.random.default_rng(seed)
        groups = rng.integers(2, size=n)
        x = rng.normal(size=n)
        return Examples(
            columns={"x": x, "kind": rng.choice(["a", "b"], n).astype(np.str_)},
            texts=None,
            labels=(x > np.where(groups == 1, shift, -shift)).astype(np.int64),
            groups=groups,
            group_names=("f", "m"),
            sensitive="sex",
            label="y=1",
            positive="1",
        )

    return make


class Stump:
    """Predicts by the threshold on ``x`` that is most often right in its training rows."""

    def __init__(self, examples):
        x = examples.columns["x"]
        cuts = np.quantile(x, np.linspace(0.02, 0.98, 49))
        right = [np.mean((x > cut) == examples.labels) for cut in cuts]
        self.cut = cuts[int(np.argmax(right))]

    def probabilities(self, examples):
        return 1 / (1 + np.exp(-4 * (examples.columns["x"] - self.cut)))


@pytest.fixture(scope="session")
def train():
    """A trainer: a stump on a half of the rows that depends on the seed."""

    def fit(examples, seed):
        rows = np.random.default_rng(seed).permutation(len(examples))[: len(examples) // 2 + 1]
        return Stump(examples.select(rows))

    return fit
