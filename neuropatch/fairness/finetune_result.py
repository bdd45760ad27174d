"""The result of Fair Fine-tuning: files, numbers before and after, and a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from neuropatch.fairness.finetune import FineTuneConfig, Signals
from neuropatch.fairness.metrics import Inference
from neuropatch.provenance import library_versions


@dataclass(frozen=True)
class FairtuneResult:
    """What a run made and measured; measurements are of the test rows.

    Attributes:
        base: Folder of the base.
        fair: Folder of the fine-tuned classifier.
        patch: The patch file.
        distributions: What ``G0`` and ``G1`` are.
        rows: Rows of ``G0`` and ``G1`` for training, validation and test.
        before: The base.
        after: The fine-tuned classifier, as read back from its files.
        units: Units that changed.
        total_units: Units of the model.
        weights: Weights that changed.
        chosen: The validation rows at the state that was kept.
        baselines: Other ways, by name.
        config: The settings.
        notes: Sentences about rows and choices.
    """

    base: Path
    fair: Path
    patch: Path
    distributions: tuple[str, str]
    rows: Mapping[str, tuple[int, int]]
    before: Inference
    after: Inference
    units: int
    total_units: int
    weights: int
    chosen: Signals
    baselines: Mapping[str, Inference]
    config: FineTuneConfig
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=library_versions)

    @property
    def cost(self) -> float:
        """Mean accuracy of both distributions that was lost."""
        return mean_accuracy(self.before) - mean_accuracy(self.after)

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON document."""
        return {
            "base": str(self.base),
            "fair": str(self.fair),
            "patch": str(self.patch),
            "distributions": list(self.distributions),
            "rows": {name: list(counts) for name, counts in self.rows.items()},
            "before": asdict(self.before),
            "after": asdict(self.after),
            "accuracy_cost": self.cost,
            "units": self.units,
            "total_units": self.total_units,
            "weights": self.weights,
            "validation": asdict(self.chosen),
            "baselines": {name: asdict(found) for name, found in self.baselines.items()},
            "config": self.config.to_json(),
            "notes": list(self.notes),
            "versions": dict(self.versions),
        }


def mean_accuracy(found: Inference) -> float:
    """Mean accuracy of both distributions."""
    return (found.accuracy[0].value + found.accuracy[1].value) / 2
