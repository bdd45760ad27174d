from __future__ import annotations

import numpy as np
import pytest

from neuropatch.errors import DataError
from neuropatch.fairness.attacks import (
    LossTest,
    MetaClassifier,
    Responses,
    ThresholdTest,
    attack,
    proportion,
)
from neuropatch.fairness.distributions import Distributions, pure_groups
from neuropatch.fairness.victims import divide, train_population


def responses(on0, on1, seed=0, lean=0.0):
    """A model that is right for a share of 100 rows of each side; its logits lean by ``lean``."""
    counts = np.zeros((2, 2, 2, 2))
    for side, share in enumerate((on0, on1)):
        right = round(share * 100)
        counts[side, side, 1] = [100 - right, right]
    noise = np.random.default_rng(seed).normal(lean, 1, size=(2, 40))
    seen = 1 / (1 + np.exp(-noise))
    return Responses((seen[0], seen[1]), counts)


def test_loss_test_says_where_the_model_is_more_accurate():
    test = LossTest()
    assert test.guess(responses(0.9, 0.8)) == 0
    assert test.guess(responses(0.7, 0.8)) == 1
    assert test.guess(responses(0.8, 0.8)) == 0.5


def test_threshold_test_learns_a_gap_that_does_not_lie_at_0():
    # Rows of G1 are easier for every model: the loss test always says G1.
    shadows0 = [responses(0.80 + one, 0.85 + one) for one in (0.0, 0.03, 0.06)]
    shadows1 = [responses(0.70 + one, 0.90 + one) for one in (0.0, 0.03, 0.06)]
    test = ThresholdTest(shadows0, shadows1)
    assert "right for 100% of the shadows" in test.calibration
    assert test.guess(responses(0.81, 0.88)) == 0
    assert test.guess(responses(0.74, 0.92)) == 1
    assert LossTest().guess(responses(0.81, 0.88)) == 1


def test_threshold_test_works_for_either_direction_and_for_shadows_that_are_all_alike():
    first, second = [responses(0.9, 0.5)] * 2, [responses(0.5, 0.9)] * 2
    assert ThresholdTest(first, second).guess(responses(0.8, 0.5)) == 0
    assert ThresholdTest(second, first).guess(responses(0.8, 0.5)) == 1
    alike = ThresholdTest(first, first)
    assert "right for 50% of the shadows" in alike.calibration


def test_meta_classifier_reads_predictions_that_no_accuracy_shows():
    shadows0 = [responses(0.8, 0.8, seed, lean=-0.5) for seed in range(6)]
    shadows1 = [responses(0.8, 0.8, seed, lean=0.5) for seed in range(6, 12)]
    meta = MetaClassifier(shadows0, shadows1)
    victims0 = [responses(0.8, 0.8, seed, lean=-0.5) for seed in range(20, 30)]
    victims1 = [responses(0.8, 0.8, seed, lean=0.5) for seed in range(30, 40)]
    assert attack(meta, victims0, victims1).accuracy.value >= 0.9
    # Among victims that do not differ it is right for half: the answers do not depend on the side.
    same = attack(meta, victims0, victims0)
    assert same.accuracy.value == 0.5
    assert same.advantage.value == 0
    assert attack(LossTest(), victims0, victims1).guesses == (0.5,) * 20


def test_attack_result():
    victims0 = [responses(0.9, 0.5)] * 4
    victims1 = [responses(0.9, 0.5), *[responses(0.5, 0.9)] * 3]
    found = attack(LossTest(), victims0, victims1)
    assert found.guesses == (0, 0, 0, 0, 0, 1, 1, 1)
    assert found.accuracy.value == 7 / 8
    assert found.advantage.value == 0.75
    assert found.advantage.low == pytest.approx(2 * found.accuracy.low - 1)


@pytest.mark.parametrize(
    ("right", "trials", "low", "high"),
    # Wilson's interval as scipy.stats.binomtest(right, trials).proportion_ci(method="wilson").
    [(10, 10, 0.7224672, 1), (0, 10, 0, 0.2775328), (7, 8, 0.5291118, 0.9775829)],
)
def test_wilson_interval(right, trials, low, high):
    found = proportion(right, trials)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


def test_parts_share_no_row_and_keep_shares(make_examples):
    examples = make_examples(1_000)
    sides = pure_groups(examples)
    parts = divide(sides, 3, shadows=True, most_queries=60)
    for side in (0, 1):
        rows = [set(one.sides[side].columns["x"]) for one in (parts.victims, parts.shadows)]
        rows.append(set(parts.queries.sides[side].columns["x"]))
        assert sum(map(len, rows)) == len(set().union(*rows))
        assert len(rows[2]) == 60
        whole = sides.sides[side]
        assert len(rows[0]) == pytest.approx(0.4 * len(whole), abs=2)
        assert np.mean(parts.victims.sides[side].labels) == pytest.approx(
            np.mean(whole.labels), abs=0.01
        )
    alone = divide(sides, 3, shadows=False, most_queries=60)
    assert alone.shadows is None
    assert len(alone.victims) == pytest.approx(0.8 * len(sides), abs=4)


def test_too_few_rows_to_divide(make_examples):
    with pytest.raises(DataError, match="too few to divide") as caught:
        divide(pure_groups(make_examples(14)), 0, shadows=True, most_queries=10)
    assert "--victims" in caught.value.hint


def test_population_trains_equal_sizes_and_other_samples(make_examples, train):
    whole = pure_groups(make_examples(600))
    # One side is larger: the size of a sample must not say which.
    sides = Distributions(whole.g0, whole.g1.select(np.arange(100)), whole.names)
    seen = []

    def spy(examples, seed):
        seen.append((examples, seed))
        return train(examples, seed)

    done = []
    found = train_population(spy, sides, sides, count=3, seed=0, advance=lambda: done.append(1))
    assert (len(found.g0), len(found.g1), len(done)) == (3, 3, 6)
    assert {len(examples) for examples, _ in seen} == {80}
    assert all(len(set(examples.columns["x"])) == 80 for examples, _ in seen)
    assert len({seed for _, seed in seen}) == 6
    assert len({examples.columns["x"].tobytes() for examples, _ in seen}) == 6
    # Sides in turn, each with its own group only.
    assert [set(examples.groups) for examples, _ in seen[:2]] == [
        set(sides.g0.groups),
        set(sides.g1.groups),
    ]
