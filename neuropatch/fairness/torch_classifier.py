"""What training and fine-tuning need of a classifier: its module, and batches of its log odds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuropatch.fairness.examples import Examples, Integers


@dataclass(frozen=True)
class Tuning:
    """What suits a kind of model when it is fine-tuned.

    Attributes:
        batch_size: Rows of a batch.
        learning_rate: Of Adam.
        steps: Batches of an epoch where the rows fill fewer.
        every: Batches between two looks at the validation rows.
    """

    batch_size: int
    learning_rate: float
    steps: int
    every: int


class TorchClassifier(ABC):
    """A binary classifier that is a torch module with a ``config``.

    Attributes:
        tuning: What suits its fine-tuning.
        model: The module; :func:`neuropatch.models.modules.model_layout` knows its architecture.
        batch_rows: Rows predicted at once.
    """

    tuning: ClassVar[Tuning]
    model: nn.Module
    batch_rows: int

    @abstractmethod
    def encode(self, examples: Examples) -> Any:
        """The rows as the model takes them, which :meth:`log_odds` picks batches from.

        Raises:
            DataError: If they are not what the model was trained on.
        """

    @abstractmethod
    def log_odds(self, encoded: Any, index: Integers) -> torch.Tensor:
        """``log P(yhat=1) - log P(yhat=0)`` of the rows at ``index``, ``[b]``, with a graph."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the checkpoint into an empty folder: config and weights, no pickle."""

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.model.parameters()).device

    def probabilities(self, examples: Examples) -> NDArray[np.float64]:
        """``P(yhat = 1)`` of every example, ``[n]``."""
        return self.predict(self.encode(examples), len(examples))

    def predict(self, encoded: Any, rows: int) -> NDArray[np.float64]:
        """``P(yhat = 1)`` of all ``rows`` encoded rows, ``[rows]``, in evaluation mode."""
        found = np.empty(rows, dtype=np.float64)
        with self._evaluating(), torch.no_grad():
            for start in range(0, rows, self.batch_rows):
                index = np.arange(start, min(start + self.batch_rows, rows))
                odds = self.log_odds(encoded, index)
                found[index] = torch.sigmoid(odds.double()).cpu().numpy()
        return found

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        before = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(before)
