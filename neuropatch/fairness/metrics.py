"""Group fairness and distribution inference, from counts of predictions.

Everything here is a function of the counts ``C[side, group, label, prediction]`` of two samples
``G0`` and ``G1``, so that a bootstrap resamples counts rather than rows. Definitions are those of
the FFt paper (arXiv 2606.01719); ``A`` is the sensitive attribute, ``Y`` the label, ``yhat`` the
prediction:

- ``Delta_EO = max_y max_{a,a'} |P(yhat=1|A=a,Y=y) - P(yhat=1|A=a',Y=y)|``, over both samples
  together; the Equalized Odds difference.
- ``W = max_y TV(P_G0(A|Y=y), P_G1(A|Y=y))``, in which ``TV`` is half the sum of the absolute
  differences.
- ``Adv = max_y |P_G0(yhat=1|Y=y) - P_G1(yhat=1|Y=y)|``, the advantage of an adversary who sees one
  prediction and the label of its row.

The bound is ``Adv <= Delta_EO * W``: where a group's rates are the same in ``G0`` and ``G1``, the
rate of ``G_b`` given ``y`` is the mean of the group rates with weights ``P_Gb(a|y)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuropatch.evaluation.bootstrap import interval
from neuropatch.evaluation.results import Estimate
from neuropatch.fairness.distributions import Distributions
from neuropatch.fairness.examples import Integers

Floats = NDArray[np.float64]

CUT = 0.5
"""``yhat = 1`` where ``P(yhat = 1)`` is at least this."""

_ROUNDING = 1e-12


def predict(probabilities: Floats) -> Integers:
    """``yhat`` of probabilities, ``[n]``."""
    return (probabilities >= CUT).astype(np.int64)


def tabulate(distributions: Distributions, probabilities: tuple[Floats, Floats]) -> Floats:
    """Counts ``[2 sides, groups, 2 labels, 2 predictions]``.

    Args:
        distributions: The two samples.
        probabilities: ``P(yhat = 1)`` of the rows of ``G0`` and of ``G1``.
    """
    groups = len(distributions.g0.group_names)
    counts = []
    for examples, side in zip(distributions.sides, probabilities, strict=True):
        cell = (examples.groups * 2 + examples.labels) * 2 + predict(side)
        counts.append(np.bincount(cell, minlength=groups * 4).reshape(groups, 2, 2))
    return np.stack(counts).astype(np.float64)


def group_rates(counts: Floats) -> Floats:
    """``P(yhat=1|A=a,Y=y)`` over both samples, ``[..., groups, 2]``; NaN for a cell without rows.

    Args:
        counts: ``[..., 2, groups, 2, 2]``.
    """
    return _share(counts.sum(axis=-4))


def label_rates(counts: Floats) -> Floats:
    """``P_Gb(yhat=1|Y=y)``, ``[..., 2 sides, 2 labels]``; NaN for a label without rows."""
    return _share(counts.sum(axis=-3))


def compositions(counts: Floats) -> Floats:
    """``P_Gb(A=a|Y=y)``, ``[..., 2 sides, groups, 2 labels]``; NaN for a label without rows."""
    cells = counts.sum(axis=-1)
    return _divide(cells, cells.sum(axis=-2, keepdims=True))


def delta_eo(counts: Floats) -> Floats:
    """``Delta_EO``, ``[...]``; a group without rows of a label has no rate and does not count."""
    rates = group_rates(counts)
    empty = np.isnan(rates)
    highest = np.where(empty, -np.inf, rates).max(axis=-2)
    lowest = np.where(empty, np.inf, rates).min(axis=-2)
    largest: Floats = np.maximum(highest - lowest, 0).max(axis=-1)
    return largest


def composition_distance(counts: Floats) -> Floats:
    """``W``, ``[...]``; over the labels that both samples have."""
    share = compositions(counts)
    distance = 0.5 * np.abs(share[..., 0, :, :] - share[..., 1, :, :]).sum(axis=-2)
    return _max_of_labels(distance)


def advantage(counts: Floats) -> Floats:
    """``Adv``, ``[...]``; over the labels that both samples have."""
    rates = label_rates(counts)
    return _max_of_labels(np.abs(rates[..., 0, :] - rates[..., 1, :]))


def bound(counts: Floats) -> Floats:
    """``Delta_EO * W``, ``[...]``."""
    return delta_eo(counts) * composition_distance(counts)


def accuracies(counts: Floats) -> Floats:
    """Share of right predictions in each sample, ``[..., 2]``."""
    right = counts[..., 0, 0].sum(axis=-1) + counts[..., 1, 1].sum(axis=-1)
    share: Floats = right / counts.sum(axis=(-3, -2, -1))
    return share


def accuracy_gap(counts: Floats) -> Floats:
    """Absolute difference of the accuracies on ``G0`` and ``G1``, ``[...]``."""
    both = accuracies(counts)
    return np.abs(both[..., 0] - both[..., 1])


def matched_accuracy_gap(counts: Floats) -> Floats:
    """Accuracy gap if both samples had the label shares of the two together, ``[...]``.

    A model that predicts the same for every row has an accuracy gap wherever the labels are more
    frequent in one sample, and none of it comes from the model. This gap is at most ``Adv``.
    """
    rates = label_rates(counts)
    # Of right predictions: the share of 1 given label 1, of 0 given label 0.
    apart = (rates[..., 0, :] - rates[..., 1, :]) * np.array([-1.0, 1.0])
    shares = counts.sum(axis=(-4, -3, -1))
    shares = shares / shares.sum(axis=-1, keepdims=True)
    gap: Floats = np.abs((np.where(np.isnan(apart), 0.0, apart) * shares).sum(axis=-1))
    return gap


def resample(counts: Floats, resamples: int, seed: int) -> Floats:
    """Bootstrap: counts of samples drawn anew, ``[resamples, 2, groups, 2, 2]``.

    Drawing the rows of a sample with replacement draws its counts from a multinomial distribution;
    the two samples are drawn independently, each in its size.
    """
    rng = np.random.default_rng(seed)
    sides = []
    for side in counts:
        cells = side.ravel()
        size = int(cells.sum())
        sides.append(rng.multinomial(size, cells / size, resamples).reshape(-1, *side.shape))
    return np.stack(sides, axis=1).astype(np.float64)


@dataclass(frozen=True)
class Inference:
    """What one model gives away about ``G0`` and ``G1``, with 95 % bootstrap intervals.

    Attributes:
        accuracy: On ``G0`` and on ``G1``.
        accuracy_gap: Absolute difference of the two.
        matched_accuracy_gap: The same at equal label shares.
        delta_eo: ``Delta_EO``.
        composition_distance: ``W``.
        bound: ``Delta_EO * W``.
        advantage: ``Adv``.
        slack: ``bound - advantage``, of the same draws.
    """

    accuracy: tuple[Estimate, Estimate]
    accuracy_gap: Estimate
    matched_accuracy_gap: Estimate
    delta_eo: Estimate
    composition_distance: Estimate
    bound: Estimate
    advantage: Estimate
    slack: Estimate

    @property
    def inequality(self) -> str:
        """Whether ``Adv <= Delta_EO * W``: ``holds``, ``within-interval`` or ``violated``.

        ``within-interval`` says that it does not hold for the sample, and that the interval of the
        difference reaches to where it would.
        """
        if self.slack.value >= -_ROUNDING:
            return "holds"
        return "within-interval" if (self.slack.high or 0) >= -_ROUNDING else "violated"


def measure(counts: Floats, *, resamples: int = 10_000, seed: int = 0) -> Inference:
    """All quantities of one model.

    Args:
        counts: ``[2, groups, 2, 2]``, both samples with both labels.
        resamples: Draws of the bootstrap.
        seed: Seed of the draws.
    """
    draws = resample(counts, resamples, seed)

    def estimate(statistic: Callable[[Floats], Floats]) -> Estimate:
        value = float(statistic(counts))
        low, high = interval(statistic(draws))
        # Draws of a maximum of absolute differences lie higher than its value where that is near 0.
        return Estimate(value, min(low, value), max(high, value))

    return Inference(
        accuracy=(
            estimate(lambda given: accuracies(given)[..., 0]),
            estimate(lambda given: accuracies(given)[..., 1]),
        ),
        accuracy_gap=estimate(accuracy_gap),
        matched_accuracy_gap=estimate(matched_accuracy_gap),
        delta_eo=estimate(delta_eo),
        composition_distance=estimate(composition_distance),
        bound=estimate(bound),
        advantage=estimate(advantage),
        slack=estimate(lambda given: bound(given) - advantage(given)),
    )


def _share(counts: Floats) -> Floats:
    """Share of predictions that are 1, over the last axis."""
    return _divide(counts[..., 1], counts.sum(axis=-1))


def _divide(part: Floats, whole: Floats) -> Floats:
    whole = np.broadcast_to(whole, part.shape)
    quotient: Floats = np.full(part.shape, np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


def _max_of_labels(values: Floats) -> Floats:
    # A draw of few rows may lack a label on one side: nothing can be said of that label.
    largest: Floats = np.where(np.isnan(values), 0.0, values).max(axis=-1)
    return largest
