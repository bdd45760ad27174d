"""The training of units' weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuropatch.attribution.run import frozen
from neuropatch.errors import ModelError
from neuropatch.methods._base import Inputs
from neuropatch.methods._distil.config import DistilConfig
from neuropatch.methods._distil.course import Subject, precision
from neuropatch.methods._distil.sparsity import largest_changes
from neuropatch.methods._distil.targets import Lesson, divergences
from neuropatch.methods._streams import Streams, mean_length
from neuropatch.methods._units import UnitSets
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.modules import resolve_parameters
from neuropatch.models.unit_weights import unit_vectors, unit_weight_changes
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.runtime import to_numpy
from neuropatch.storage.dtypes import compute_dtype

_WARM_UP = 5
"""Steps over which the learning rate rises; it then falls linearly to a tenth."""

_CURVE_EVERY = 10


class Student:
    """The vectors of some units, trained to a teacher's predictions.

    Args:
        inputs: Records to forget, and what is kept.
        config: Parameters.
        units: Sorted indices of the units by block.
        course: What is to be forgotten, and then what is kept.

    Raises:
        ModelError: If units' weights lie in no linear layers of their own.
    """

    def __init__(
        self,
        inputs: Inputs,
        config: DistilConfig,
        units: UnitSets,
        course: tuple[Subject, ...],
    ) -> None:
        self._inputs, self._config, self._units = inputs, config, units
        vectors = unit_vectors(inputs.model, inputs.layout, units)
        dtype = next(inputs.model.parameters()).dtype
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.changes = {
            matrix: torch.zeros_like(own, dtype=wide).requires_grad_()
            for matrix, own in vectors.items()
        }
        self._sizes = _sizes(vectors)
        self._names = [subject.name for subject in course]
        self._weights = [subject.weight for subject in course]
        sets = tuple(subject.lessons for subject in course)
        self._streams = Streams(sets, self._counts(sets), inputs.seed)

    def train(self) -> list[dict[str, float]]:
        """Take all steps.

        Returns:
            Mean divergence on each data set, in nats a label, over every ten steps.

        Raises:
            ModelError: If a loss is not finite.
        """
        config, inputs = self._config, self._inputs
        optimizer = torch.optim.Adam(
            [
                {"params": [change], "size": self._sizes[matrix.role]}
                for matrix, change in self.changes.items()
            ],
            lr=1.0,
        )
        inputs.progress.start("distillation", config.steps)
        curve, recent = [], np.zeros((0, len(self._names)))
        chosen_at = config.steps // 2 if config.density < 1 else None
        masks: dict[MatrixId, Tensor] = {}
        with (
            frozen(inputs.model),
            unit_weight_changes(inputs.model, inputs.layout, self._units, self.changes),
        ):
            for step in range(config.steps):
                for group in optimizer.param_groups:
                    group["lr"] = self._rate(step) * group["size"]
                recent = np.vstack([recent, self._backward(step)])
                optimizer.step()
                optimizer.zero_grad()
                if step + 1 == chosen_at:
                    masks = largest_changes(self.changes, self._sizes, config.density)
                for matrix, mask in masks.items():
                    # Adam's momentum still moves what is no longer trained.
                    self.changes[matrix].data.mul_(mask)
                inputs.progress.advance()
                if len(recent) == _CURVE_EVERY or step + 1 == config.steps:
                    means = dict(zip(self._names, recent.mean(0).tolist(), strict=True))
                    curve.append({"step": step + 1, **means})
                    told = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
                    inputs.progress.tell(f"divergence: {told}")
                    recent = recent[:0]
        return curve

    def edits(self) -> tuple[WeightEdit, ...]:
        """What the training changed, as edits of weights."""
        slots = resolve_parameters(self._inputs.model, self._inputs.layout, list(self.changes))
        found = []
        for slot in slots:
            units = self._units[slot.matrix.block]
            delta = self.changes[slot.matrix].detach().cpu().numpy()
            own = np.repeat(units, delta.shape[1])
            others = np.tile(np.arange(delta.shape[1]), len(units))
            rows, columns = (others, own) if slot.matrix.role == "down" else (own, others)
            value = delta.ravel()
            weight = slot.weight()
            before = to_numpy(weight[torch.from_numpy(rows), torch.from_numpy(columns)])
            moved = value != 0
            if moved.any():
                found.append(
                    WeightEdit.build(
                        slot.matrix,
                        "add",
                        rows[moved],
                        columns[moved],
                        before[moved],
                        value[moved].astype(compute_dtype(before.dtype)),
                    )
                )
        return tuple(found)

    def _counts(self, sets: Sequence[Sequence[Lesson]]) -> tuple[int, ...]:
        """Samples of a step: about as many tokens of each data set, and none of them twice."""
        wanted = self._config.batch_size * mean_length(sets[0])
        return tuple(min(len(one), max(1, round(wanted / mean_length(one)))) for one in sets)

    def _rate(self, step: int) -> float:
        rise = min(1.0, (step + 1) / _WARM_UP)
        return self._config.learning_rate * rise * (1 - 0.9 * step / self._config.steps)

    def _backward(self, step: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Gradients of a step; the mean divergence on each data set."""
        counts = self._streams.counts
        sets = np.repeat(np.arange(len(counts)), counts)
        lessons = self._streams.step(step)
        found = np.zeros(len(counts))
        with precision(self._inputs, self._config):
            batches = divergences(
                self._inputs.model, lessons, batch_tokens=self._inputs.limits.batch_tokens
            )
            for numbers, values in batches:
                mine = sets[numbers]
                weights = [self._weights[one] / counts[one] for one in mine]
                loss = values @ torch.tensor(weights, dtype=values.dtype, device=values.device)
                if not torch.isfinite(loss):
                    raise ModelError(
                        f"the loss is not finite in step {step + 1}",
                        hint="lower --set learning_rate, or use --dtype float32",
                    )
                loss.backward()
                np.add.at(found, mine, values.detach().double().cpu().numpy())
        return found / counts


def _sizes(vectors: dict[MatrixId, Tensor]) -> dict[str, float]:
    """Root mean square of the units' weights in all matrices of a role."""
    squares: dict[str, list[float]] = {}
    for matrix, own in vectors.items():
        squares.setdefault(matrix.role, []).append(float(own.double().square().mean()))
    return {role: float(np.sqrt(np.mean(one))) for role, one in squares.items()}
