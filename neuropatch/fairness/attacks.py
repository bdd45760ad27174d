"""Attacks of distribution inference on black-box predictions.

The adversary queries a victim on rows of both distributions and says on which of the two it was
trained. The two tests are those of Suri and Evans, "Formalizing and Estimating Distribution
Inference Risks" (PETS 2022); the meta-classifier on predictions is that of Zhang, Tople and
Ohrimenko, "Leakage of Dataset Properties in Multi-Party Machine Learning" (USENIX Security 2021):

- the *loss test* says the distribution on whose rows the victim is more accurate;
- the *threshold test* puts a threshold on the gap of both accuracies, or on one of them, whichever
  best tells apart the shadow models that the adversary trains;
- the *meta-classifier* is a logistic regression from the shadows' predictions on the fixed query
  rows to the distribution that they were trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from neuropatch.evaluation.bootstrap import LEVEL
from neuropatch.evaluation.results import Estimate
from neuropatch.fairness.classifier import Classifier
from neuropatch.fairness.distributions import Distributions
from neuropatch.fairness.metrics import Floats, accuracies, tabulate

# Probabilities of 0 and 1 have no logit; beyond this they say nothing more.
_CLIP = 1e-6


@dataclass(frozen=True, eq=False)
class Responses:
    """What the adversary sees of one model.

    Attributes:
        probabilities: ``P(yhat = 1)`` of the query rows of ``G0`` and of ``G1``.
        counts: The counts of its predictions, ``[2, groups, 2, 2]``.
    """

    probabilities: tuple[Floats, Floats]
    counts: Floats

    @property
    def accuracy(self) -> Floats:
        """Accuracy on the query rows of ``G0`` and of ``G1``, ``[2]``."""
        return accuracies(self.counts)


def query(model: Classifier, queries: Distributions) -> Responses:
    """Ask a model for the query rows of both distributions."""
    seen = model.probabilities(queries.g0), model.probabilities(queries.g1)
    return Responses(seen, tabulate(queries, seen))


@dataclass(frozen=True)
class AttackResult:
    """How well an attack tells victims trained on ``G0`` from those trained on ``G1``.

    Attributes:
        name: ``loss test``, ``threshold test`` or ``meta-classifier``.
        guesses: For every victim of ``G0``, then of ``G1``: 0, 1, or 0.5 for no answer.
        victims: Number of victims on each side.
        accuracy: Share of right answers, with a 95 % Wilson interval; no answer is half right.
        advantage: ``2 * accuracy - 1``, with its interval.
        calibration: What the attack chose on the shadows, in words.
    """

    name: str
    guesses: tuple[float, ...]
    victims: int
    accuracy: Estimate
    advantage: Estimate
    calibration: str = ""


class LossTest:
    """Says the distribution on whose rows a model is more accurate."""

    name = "loss test"
    calibration = ""

    def guess(self, seen: Responses) -> float:
        """0 for ``G0``, 1 for ``G1``, 0.5 where the accuracies are equal."""
        on0, on1 = seen.accuracy
        return 0.5 if on0 == on1 else float(on1 > on0)


class ThresholdTest:
    """A threshold on an accuracy or the gap, chosen on shadow models.

    Args:
        shadows0: Responses of shadows trained on ``G0``, at least one.
        shadows1: Responses of shadows trained on ``G1``, at least one.
    """

    name = "threshold test"

    _STATISTICS = ("the accuracy gap", "the accuracy on G0", "the accuracy on G1")

    def __init__(self, shadows0: Sequence[Responses], shadows1: Sequence[Responses]) -> None:
        truth = np.repeat([0, 1], [len(shadows0), len(shadows1)])
        values = np.array([self._statistics(seen) for seen in (*shadows0, *shadows1)])
        cuts = [_best_cut(column, truth) for column in values.T]
        # Of equally good ones the widest margin, in units of the statistic's spread, is the safest.
        self._chosen = max(range(len(cuts)), key=lambda one: (cuts[one].right, cuts[one].margin))
        self._cut = cuts[self._chosen]
        self.calibration = (
            f"{self._STATISTICS[self._chosen]} {'above' if self._cut.above else 'below'} "
            f"{self._cut.threshold:.3f} says G1; right for {self._cut.right:.0%} of the shadows"
        )

    def guess(self, seen: Responses) -> float:
        """0 for ``G0``, 1 for ``G1``."""
        value = self._statistics(seen)[self._chosen]
        return float((value > self._cut.threshold) == self._cut.above)

    @staticmethod
    def _statistics(seen: Responses) -> tuple[float, float, float]:
        on0, on1 = seen.accuracy
        return float(on0 - on1), float(on0), float(on1)


class MetaClassifier:
    """A logistic regression on the logits of a model's predictions.

    Args:
        shadows0: Responses of shadows trained on ``G0``, at least one.
        shadows1: Responses of shadows trained on ``G1``, at least one.
    """

    name = "meta-classifier"
    calibration = ""

    def __init__(self, shadows0: Sequence[Responses], shadows1: Sequence[Responses]) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        logits = np.stack([_logits(seen) for seen in (*shadows0, *shadows1)])
        truth = np.repeat([0, 1], [len(shadows0), len(shadows1)])
        # There are more queries than shadows: the penalty keeps the fit near the difference of the
        # means, divided by the number of queries so that their number does not change its weight.
        self._model = make_pipeline(
            StandardScaler(), LogisticRegression(C=1 / logits.shape[1], max_iter=1_000)
        )
        self._model.fit(logits, truth)

    def guess(self, seen: Responses) -> float:
        """0 for ``G0``, 1 for ``G1``."""
        return float(self._model.predict(_logits(seen)[None])[0])


Attack = LossTest | ThresholdTest | MetaClassifier


def attack(
    method: Attack, victims0: Sequence[Responses], victims1: Sequence[Responses]
) -> AttackResult:
    """Let an attack guess on all victims.

    Args:
        method: The attack.
        victims0: Responses of victims trained on ``G0``.
        victims1: Responses of as many victims trained on ``G1``.
    """
    guesses = [method.guess(seen) for seen in (*victims0, *victims1)]
    truth = np.repeat([0.0, 1.0], [len(victims0), len(victims1)])
    accuracy = proportion(float(np.sum(1 - np.abs(truth - guesses))), len(guesses))
    return AttackResult(
        name=method.name,
        guesses=tuple(guesses),
        victims=len(victims0),
        accuracy=accuracy,
        advantage=Estimate(*(2 * value - 1 for value in _ends(accuracy))),
        calibration=method.calibration,
    )


def proportion(right: float, trials: int) -> Estimate:
    """A share with its Wilson score interval (Wilson 1927).

    A bootstrap of a few victims that are all guessed right would say that nothing else is possible.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share = right / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = (
        z
        / (1 + z * z / trials)
        * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    )
    # Rounding must not push the ends beyond what the shares 0 and 1 give.
    return Estimate(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.value, estimate.low, estimate.high


@dataclass(frozen=True)
class _Cut:
    """A threshold on a statistic, how often it is right, and how wide the space around it is."""

    threshold: float
    above: bool
    right: float
    margin: float


def _best_cut(values: Floats, truth: NDArray[np.int64]) -> _Cut:
    ordered = np.unique(values)
    spread = float(ordered[-1] - ordered[0]) or 1.0
    if len(ordered) == 1:
        return _Cut(float(ordered[0]), True, float(np.mean(truth == 0)), 0.0)
    cuts = []
    for low, high in pairwise(ordered):
        threshold = float((low + high) / 2)
        right = float(np.mean((values > threshold) == (truth == 1)))
        margin = float(high - low) / spread
        cuts.append(_Cut(threshold, right >= 0.5, max(right, 1 - right), margin))
    return max(cuts, key=lambda cut: (cut.right, cut.margin))


def _logits(seen: Responses) -> Floats:
    p = np.clip(np.concatenate(seen.probabilities), _CLIP, 1 - _CLIP)
    logits: Floats = np.log(p) - np.log1p(-p)
    return logits
