"""Fair Fine-tuning (FFt) of a classifier against distribution inference (arXiv 2606.01719).

The classifier was trained on ``G0``. It is trained on with rows of the complementary distribution
``G1``, and a share of rehearsed rows of ``G0``, on

    cross entropy + penalty_weight * EO + gap_weight * gap

where ``EO`` is the Equalized Odds penalty of the paper on soft rates, and ``gap`` the squared soft
accuracy gap. Equalized Odds alone leaves the gap that different label shares make, and training on
``G1`` may even widen it; so the second term, which is ours, acts while the gap on the validation
rows is above ``max_gap`` and the accuracy lost is below ``max_cost``. With ``gap_weight = 0`` it is
the paper's objective.

Only the MLP weights learn, or those of a few units of it: that is what a neuron patch can carry, so
the fine-tuned classifier is its base with a patch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from neuropatch.errors import UsageError
from neuropatch.fairness.distributions import Distributions
from neuropatch.fairness.examples import Integers
from neuropatch.fairness.finetune_units import UnitSelection, choose_units
from neuropatch.fairness.metrics import Floats, accuracies, accuracy_gap, delta_eo, tabulate
from neuropatch.fairness.penalty import accuracy_gap_penalty, equalized_odds_penalty
from neuropatch.fairness.torch_classifier import TorchClassifier, Tuning
from neuropatch.models.modules import model_layout, resolve_parameters
from neuropatch.progress import Progress, Silent

ROLES = ("gate", "up", "down")
"""Roles whose weights learn."""

PATIENCE = 60
"""Training ends after so many looks at the validation rows without a better state."""


@dataclass(frozen=True)
class FineTuneConfig:
    """How a classifier is fine-tuned.

    Attributes:
        penalty_weight: Weight of the Equalized Odds penalty.
        gap_weight: Weight of the squared accuracy gap, while it acts.
        max_gap: Accuracy gap that need not become smaller.
        max_eo: ``Delta_EO`` that need not become smaller.
        max_cost: Accuracy, the mean of both distributions, that may be lost on validation rows.
        rehearsal: Share of each batch that are rows of ``G0``.
        max_neurons: Units that may change: a share below 1 of all, or a number; None for all.
        epochs: Passes over the rows of ``G1``, each of at least ``steps`` batches of
            :class:`neuropatch.fairness.torch_classifier.Tuning`.
        batch_size: Rows of a batch; None for what suits the kind of model.
        learning_rate: Of Adam; None for what suits the kind of model.
        temperature: Of the soft rates, see :mod:`neuropatch.fairness.penalty`.
        seed: Seed of the batches and of dropout.

    Raises:
        UsageError: If a number is out of range.
    """

    penalty_weight: float = 5.0
    gap_weight: float = 50.0
    max_gap: float = 0.03
    max_eo: float = 0.1
    max_cost: float = 0.018
    rehearsal: float = 0.5
    max_neurons: float | None = None
    epochs: int = 10
    batch_size: int | None = None
    learning_rate: float | None = None
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("penalty_weight", "gap_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                _refuse(name, getattr(self, name), "it is a number from 0")
        for name in ("max_gap", "max_eo", "max_cost", "rehearsal"):
            if not 0 <= getattr(self, name) <= 1:
                _refuse(name, getattr(self, name), "it lies between 0 and 1")
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                _refuse(name, value, "it is a number above 0")
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                _refuse(name, value, "it is a number from 1")
        if self.max_neurons is not None and not 0 < self.max_neurons < float("inf"):
            _refuse("max_neurons", self.max_neurons, "give a share such as 0.1, or a number")

    def batch_and_rate(self, tuning: Tuning) -> tuple[int, float]:
        """Batch size and learning rate, of the kind of model where they are None."""
        return self.batch_size or tuning.batch_size, self.learning_rate or tuning.learning_rate

    def to_json(self) -> dict[str, Any]:
        """The settings, for a patch's metadata."""
        return asdict(self)


def _refuse(name: str, value: float, hint: str) -> None:
    raise UsageError(f"--{name.replace('_', '-')} is {value:g}", hint=hint)


@dataclass(frozen=True)
class Signals:
    """What validation rows say of a classifier.

    Attributes:
        step: Batches trained before.
        accuracy: On ``G0`` and on ``G1``.
        gap: Absolute difference of the two.
        delta_eo: Largest difference of two groups' rates given a label.
    """

    step: int
    accuracy: tuple[float, float]
    gap: float
    delta_eo: float

    @property
    def mean(self) -> float:
        """Mean accuracy of both distributions."""
        return sum(self.accuracy) / 2

    def rank(self, config: FineTuneConfig) -> tuple[float, float]:
        """The smaller, the better: what both signals exceed their limits by, then the accuracy."""
        excess = max(self.gap - config.max_gap, 0.0) + max(self.delta_eo - config.max_eo, 0.0)
        return excess, -self.mean


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned classifier.

    Attributes:
        classifier: The classifier; the base is left as it was.
        chosen: Its signals on the validation rows.
        history: All looks at the validation rows, the base's first.
        units: The units that could change; None for all.
    """

    classifier: TorchClassifier
    chosen: Signals
    history: tuple[Signals, ...]
    units: UnitSelection | None


def fair_finetune(
    base: TorchClassifier,
    training: Distributions,
    validation: Distributions,
    config: FineTuneConfig,
    *,
    progress: Progress | None = None,
) -> FineTuned:
    """Fine-tune a classifier, and keep its best state.

    Early stopping looks at the validation rows and keeps the state that loses at most ``max_cost``
    of accuracy and whose accuracy gap and ``Delta_EO`` exceed ``max_gap`` and ``max_eo`` least (the
    sum counts); of equal ones the most accurate. The base is one of the states, so their excess
    does not grow.

    Args:
        base: The classifier, trained on ``G0``; not changed.
        training: Rows to train on.
        validation: Rows for early stopping and for choosing units.
        config: The settings.
        progress: Told of every batch.

    Raises:
        DataError: If the rows are not what the classifier takes.
        UsageError: If more units are asked for than there are.
    """
    tuned = copy.deepcopy(base)
    look = Watch(validation, tuned)
    units = None
    tuned.model.requires_grad_(True)
    if config.max_neurons is not None:
        units = choose_units(tuned, validation, objective_of(validation, config), config)
    slots = resolve_parameters(tuned.model, *_matrices(tuned))
    learning = list({id(slot.parameter): slot.parameter for slot in slots}.values())
    masks = None if units is None else units.masks(slots)
    tuned.model.requires_grad_(False)
    for parameter in learning:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(learning, lr=config.batch_and_rate(base.tuning)[1])
    batches = Batches(training, tuned, config)
    history = [look(0)]
    best, state, without = history[0], _state(learning), 0
    steps = config.epochs * batches.steps
    (progress or Silent()).start("fine-tuning", steps)
    tuned.model.train()
    # The seed of dropout, which must not change the caller's random numbers.
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            batches.loss(act=_acts(history, config)).backward()
            if masks is not None:
                for parameter, mask in masks:
                    assert parameter.grad is not None
                    parameter.grad *= mask
            optimizer.step()
            (progress or Silent()).advance()
            if step % base.tuning.every == 0 or step == steps:
                history.append(look(step))
                if _better(history, best, config):
                    best, state, without = history[-1], _state(learning), 0
                elif without == PATIENCE:
                    break
                without += 1
    for parameter, values in zip(learning, state, strict=True):
        parameter.data.copy_(values)
    tuned.model.eval()
    return FineTuned(tuned, best, tuple(history), units)


def _acts(history: list[Signals], config: FineTuneConfig) -> bool:
    """Whether the gap term acts on the next batch."""
    cost = history[0].mean - history[-1].mean
    return history[-1].gap > config.max_gap and cost < config.max_cost


def _better(history: list[Signals], best: Signals, config: FineTuneConfig) -> bool:
    """Whether the last state is to be kept instead of the best one."""
    cost = history[0].mean - history[-1].mean
    rank = history[-1].rank(config)
    return cost <= config.max_cost and rank < best.rank(config)


def _matrices(classifier: TorchClassifier) -> tuple[Any, Any]:
    layout = model_layout(classifier.model)
    return layout, layout.matrices(ROLES)


def _state(parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


class Watch:
    """Measures a classifier on fixed rows, which are encoded once."""

    def __init__(self, rows: Distributions, classifier: TorchClassifier) -> None:
        self._rows = rows
        self._classifier = classifier
        self._encoded = [classifier.encode(side) for side in rows.sides]

    def __call__(self, step: int) -> Signals:
        """The signals after ``step`` batches."""
        first, second = (
            self._classifier.predict(encoded, len(side))
            for encoded, side in zip(self._encoded, self._rows.sides, strict=True)
        )
        counts: Floats = tabulate(self._rows, (first, second))
        on0, on1 = accuracies(counts)
        return Signals(
            step, (float(on0), float(on1)), float(accuracy_gap(counts)), float(delta_eo(counts))
        )


Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Penalties of log odds, labels, groups and sides, ``[b]`` each: a scalar."""


def objective_of(rows: Distributions, config: FineTuneConfig, *, act: bool = True) -> Objective:
    """The weighted penalties, without the cross entropy.

    Args:
        rows: Tells the number of groups.
        config: The weights.
        act: Whether the gap term acts.
    """
    groups = len(rows.g0.group_names)

    def penalties(
        odds: torch.Tensor, labels: torch.Tensor, group: torch.Tensor, side: torch.Tensor
    ) -> torch.Tensor:
        eo = equalized_odds_penalty(odds, labels, group, groups, config.temperature)
        total = config.penalty_weight * eo
        if act:
            gap = accuracy_gap_penalty(odds, labels, side, config.temperature)
            total = total + config.gap_weight * gap
        return total

    return penalties


class Batches:
    """Random batches with a fixed number of rows of each side."""

    def __init__(
        self, rows: Distributions, classifier: TorchClassifier, config: FineTuneConfig
    ) -> None:
        self._rows = rows
        self._classifier = classifier
        self._config = config
        self._encoded = [classifier.encode(side) for side in rows.sides]
        self._rng = np.random.default_rng(config.seed)
        size, _ = config.batch_and_rate(classifier.tuning)
        rehearsed = round(size * config.rehearsal)
        self._sizes = (rehearsed, size - rehearsed)
        self._objective = {act: objective_of(rows, config, act=act) for act in (False, True)}

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        side = 1 if self._sizes[1] else 0
        return max(
            -(-len(self._rows.sides[side]) // self._sizes[side]), self._classifier.tuning.steps
        )

    def loss(self, *, act: bool) -> torch.Tensor:
        """The objective on the next batch, with a graph."""
        odds, labels, groups, sides = [], [], [], []
        for number, (side, encoded, size) in enumerate(
            zip(self._rows.sides, self._encoded, self._sizes, strict=True)
        ):
            if not size:
                continue
            index: Integers = self._rng.integers(len(side), size=size)
            odds.append(self._classifier.log_odds(encoded, index))
            labels.append(side.labels[index])
            groups.append(side.groups[index])
            sides.append(np.full(size, number))
        device = self._classifier.device
        z = torch.cat(odds)
        y, group, side_of = (
            torch.from_numpy(np.concatenate(one)).to(device) for one in (labels, groups, sides)
        )
        entropy = F.binary_cross_entropy_with_logits(z, y.to(z.dtype))
        return entropy + self._objective[act](z, y, group, side_of)
