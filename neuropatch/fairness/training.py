"""Training classifiers from scratch: the base of FFt, and the victims and shadows of an audit.

All is deterministic: equal rows, recipe and seed give equal weights on one machine.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from neuropatch.errors import DataError
from neuropatch.fairness.encoding import fit_features
from neuropatch.fairness.examples import Examples, Integers
from neuropatch.fairness.tabular import TabularClassifier, TabularConfig, TabularMLP, TabularRecipe
from neuropatch.fairness.text import TextClassifier, TextRecipe, new_text_classifier
from neuropatch.progress import Progress, Silent

_LEAST_ROWS = 10


@dataclass(frozen=True)
class TabularTrainer:
    """Trains tabular models by one recipe; a :class:`neuropatch.fairness.classifier.Trainer`."""

    recipe: TabularRecipe = field(default_factory=TabularRecipe)
    device: str = "cpu"
    progress: Progress = field(default_factory=Silent)

    def __call__(self, examples: Examples, seed: int) -> TabularClassifier:
        """Train on rows, of which a share is kept for early stopping on the cross entropy.

        Raises:
            DataError: If the rows are too few, of one label, or texts.
        """
        rng = np.random.default_rng(seed)
        held = held_out(examples, self.recipe.validation, rng)
        training, validation = examples.select(~held), examples.select(held)
        classifier = new_tabular(training, self.recipe, seed, self.device)
        best, best_loss, without = None, np.inf, 0
        model, recipe = classifier.model, self.recipe
        rows = classifier.encode(training)
        labels = _labels(training, rows.device)
        held_rows, held_labels = classifier.encode(validation), _labels(validation, rows.device)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.progress.start("training the base", recipe.epochs)
        for _ in range(recipe.epochs):
            order = torch.from_numpy(rng.permutation(len(training))).to(rows.device)
            for batch in order.split(recipe.batch_size):
                optimizer.zero_grad()
                F.binary_cross_entropy_with_logits(model(rows[batch]), labels[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                loss = float(F.binary_cross_entropy_with_logits(model(held_rows), held_labels))
            self.progress.advance()
            without += 1
            if loss < best_loss:
                best, best_loss, without = copy.deepcopy(model.state_dict()), loss, 0
            elif without == recipe.patience:
                break
        assert best is not None
        model.load_state_dict(best)
        model.eval()
        return classifier


@dataclass(frozen=True)
class TextTrainer:
    """Trains classifiers of texts by one recipe: every weight, and a new head.

    Attributes:
        recipe: The recipe.
        start: Folder of the model that training starts from.
        device: Torch device.
        progress: Told of every batch.
    """

    recipe: TextRecipe
    start: Path
    device: str = "cpu"
    progress: Progress = field(default_factory=Silent)

    def __call__(self, examples: Examples, seed: int) -> TextClassifier:
        """Train on texts.

        Raises:
            DataError: If the rows are of one label, or no texts.
            ModelError: If the start does not load.
        """
        if len(set(examples.labels.tolist())) < 2:
            raise DataError("the training texts have one label only", hint="use more rows")
        recipe = self.recipe
        classifier = new_text_classifier(self.start, recipe, examples, self.device, seed)
        model = classifier.model
        rng = np.random.default_rng(seed)
        encoded = classifier.encode(examples)
        labels = _labels(examples, classifier.device)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        size = recipe.batch_size
        steps = recipe.epochs * -(-len(examples) // size)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / steps, steps)
        self.progress.start("training the base", steps)
        # The seed of dropout, which must not change the caller's random numbers.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.train()
            for _ in range(recipe.epochs):
                order = rng.permutation(len(examples))
                for start in range(0, len(order), size):
                    index = order[start : start + size]
                    optimizer.zero_grad()
                    odds = classifier.log_odds(encoded, index)
                    F.binary_cross_entropy_with_logits(odds, labels[index]).backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    self.progress.advance()
        model.eval()
        return classifier


def new_tabular(
    examples: Examples, recipe: TabularRecipe, seed: int, device: str = "cpu"
) -> TabularClassifier:
    """A tabular model with random weights, whose encoding is made of the rows.

    Raises:
        DataError: If they are texts.
    """
    config = TabularConfig(
        fit_features(examples),
        recipe,
        examples.label,
        examples.sensitive,
        examples.group_names,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TabularMLP(config)
    return TabularClassifier(model.to(device))


def held_out(examples: Examples, share: float, rng: np.random.Generator) -> np.ndarray:
    """A random mask ``[n]`` of ``share`` of the rows of each label, at least one of each.

    Raises:
        DataError: If there are too few rows of a label for both parts.
    """
    held = np.zeros(len(examples), dtype=bool)
    for label in (0, 1):
        rows: Integers = np.flatnonzero(examples.labels == label)
        if len(examples) < _LEAST_ROWS or len(rows) < 2:
            raise DataError(
                f"{len(examples)} training rows, of which {len(rows)} have label {label}, are too "
                "few",
                hint="use more rows",
            )
        held[rng.permutation(rows)[: max(1, round(share * len(rows)))]] = True
    return held


def _labels(examples: Examples, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(examples.labels.astype(np.float32)).to(device)
