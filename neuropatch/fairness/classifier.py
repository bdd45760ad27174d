"""What the audit needs of a classifier: predictions, and a way to train more of its kind."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from neuropatch.fairness.examples import Examples


class Classifier(Protocol):
    """A trained binary classifier, seen as a black box."""

    def probabilities(self, examples: Examples) -> NDArray[np.float64]:
        """``P(yhat = 1)`` of every example, ``[n]``.

        Raises:
            DataError: If the examples lack a feature that the classifier was trained on, or are
                texts where it takes a table, or the other way round.
        """


class Trainer(Protocol):
    """The recipe of a classifier: architecture and hyperparameters, without its weights."""

    def __call__(self, examples: Examples, seed: int) -> Classifier:
        """Train a new classifier from scratch; equal arguments give equal classifiers.

        Args:
            examples: All that it may see. What encodes the features (categories, mean and
                deviation) is made of these too.
            seed: Seed of the initial weights, the batches and whatever else is drawn.
        """
