"""The result of an audit: numbers with intervals, verdicts in words, and a JSON document."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from neuropatch.evaluation.results import Estimate, check_results_path
from neuropatch.fairness.attacks import AttackResult
from neuropatch.fairness.group_metrics import GroupMetrics
from neuropatch.fairness.metrics import Inference
from neuropatch.storage.files import atomic_write

FORMAT = "neuropatch-audit"
FORMAT_VERSION = 1

Verdict = Literal["detectable", "not-detectable", "undecided"]


@dataclass(frozen=True)
class TrainedVictim:
    """One victim: the side it was trained on, and what it gives away on the query rows."""

    side: int
    accuracy: tuple[float, float]
    accuracy_gap: float
    delta_eo: float
    advantage: float


@dataclass(frozen=True)
class Attacks:
    """The attacks on victims trained for the audit.

    Attributes:
        shadows: Number of shadow models on each side.
        rows: Rows on each side that one victim is trained on.
        queries: Query rows of ``G0`` and of ``G1``.
        results: How often each attack is right.
        on_model: What each attack says of the audited model itself: 0, 1 or 0.5.
        victims: The victims, those of ``G0`` first.
    """

    shadows: int
    rows: int
    queries: tuple[int, int]
    results: tuple[AttackResult, ...]
    on_model: Mapping[str, float]
    victims: tuple[TrainedVictim, ...]


@dataclass(frozen=True)
class AuditResult:
    """All that an audit found, and what it was run with.

    Attributes:
        model: Name of the model.
        data: Where the rows come from.
        distributions: What ``G0`` and ``G1`` are.
        rows: Rows of ``G0`` and of ``G1``.
        groups: Group fairness over the rows of both.
        inference: What the model gives away about ``G0`` and ``G1``.
        threshold: An accuracy gap or advantage from here on is detectable.
        attacks: The attacks, None where no victims were asked for.
        settings: The settings.
        notes: Sentences about rows and choices.
        versions: Versions of the libraries.
    """

    model: str
    data: Mapping[str, Any]
    distributions: tuple[str, str]
    rows: tuple[int, int]
    groups: GroupMetrics
    inference: Inference
    threshold: float
    attacks: Attacks | None
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def signals(self) -> dict[str, Verdict]:
        """Each signal beside the threshold: both accuracy gaps, the advantage, every attack's."""
        found = {
            "accuracy gap": self.inference.accuracy_gap,
            "matched accuracy gap": self.inference.matched_accuracy_gap,
            "advantage": self.inference.advantage,
        }
        if self.attacks is not None:
            found |= {one.name: one.advantage for one in self.attacks.results}
        return {name: judge(signal, self.threshold) for name, signal in found.items()}

    @property
    def verdict(self) -> Verdict:
        """``detectable`` by the matched accuracy gap, the advantage or an attack.

        The accuracy gap itself decides nothing, because label shares alone can make one. Nor does
        an attack that fails: a few victims cannot show that none would succeed.
        """
        signals = self.signals
        if self._detectable_by():
            return "detectable"
        measured = (signals["matched accuracy gap"], signals["advantage"])
        return "undecided" if "undecided" in measured else "not-detectable"

    def sentences(self) -> list[str]:
        """What the numbers mean, in plain words."""
        found = self.inference
        told = [
            self._inequality(),
            f"accuracy gap: {_against(found.accuracy_gap, self.threshold)}",
            f"at equal label shares: {_against(found.matched_accuracy_gap, self.threshold)}",
            f"advantage: {_against(found.advantage, self.threshold)}",
        ]
        signals = self.signals
        if (
            signals["accuracy gap"] == "detectable"
            and signals["matched accuracy gap"] == "not-detectable"
        ):
            told.append(
                "so the accuracy gap comes from G0 and G1 having other shares of label 1, not from "
                "what the model knows"
            )
        if self.attacks is not None:
            told.extend(_attack_sentence(one) for one in self.attacks.results)
            said = ", ".join(f"{_SIDE[on]} ({name})" for name, on in self.attacks.on_model.items())
            told.append(f"the model itself looks to the attacks as if trained on {said}")
        detectable = self._detectable_by()
        by = ", the ".join(detectable)
        # Victims are trained anew, so an attack on them tells of the recipe, not of this model.
        who = (
            "predictions give away which distribution the model was made for"
            if {"matched accuracy gap", "advantage"} & set(detectable)
            else "models of this recipe give away which distribution they were made for"
        )
        told.append(
            {
                "detectable": f"verdict: DETECTABLE, by the {by}: {who}",
                "not-detectable": "verdict: not detectable; matched accuracy gap and advantage are "
                f"below {self.threshold:g}",
                "undecided": f"verdict: undecided; {self.threshold:g} lies within an interval, so "
                "audit on more rows",
            }[self.verdict]
        )
        return told

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON document: finite numbers, texts, null, lists and maps."""
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "data": dict(self.data),
            "distributions": {
                name: {"what": what, "rows": rows}
                for name, what, rows in zip(
                    ("g0", "g1"), self.distributions, self.rows, strict=True
                )
            },
            "groups": asdict(self.groups),
            "inference": {**asdict(self.inference), "inequality": self.inference.inequality},
            "threshold": self.threshold,
            "attacks": None if self.attacks is None else asdict(self.attacks),
            "signals": self.signals,
            "verdict": self.verdict,
            "sentences": self.sentences(),
            "settings": dict(self.settings),
            "notes": list(self.notes),
            "versions": dict(self.versions),
        }
        finite: dict[str, Any] = _finite(document)
        return finite

    def save(self, path: Path) -> None:
        """Write the JSON document to a file, atomically.

        Raises:
            OutputError: If ``path`` is no name of a JSON file.
            OSError: If it cannot be written.
        """
        check_results_path(path)
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        atomic_write(path, [f"{text}\n".encode()])

    def _detectable_by(self) -> list[str]:
        return [
            name
            for name, verdict in self.signals.items()
            if verdict == "detectable" and name != "accuracy gap"
        ]

    def _inequality(self) -> str:
        found = self.inference
        numbers = f"advantage {found.advantage.value:.3f}, bound {found.bound.value:.3f}"
        slack = f"{found.slack.low:.3f} to {found.slack.high:.3f}"
        return {
            "holds": f"Adv <= Delta_EO * W holds: {numbers}",
            "within-interval": f"Adv <= Delta_EO * W holds within the interval: {numbers}, bound "
            f"minus advantage {slack}",
            "violated": f"Adv <= Delta_EO * W does NOT hold: {numbers}, bound minus advantage "
            f"{slack}; a group's rates differ between G0 and G1, so they differ in more than the "
            "sensitive attribute",
        }[found.inequality]


_SIDE = {0.0: "G0", 1.0: "G1", 0.5: "neither"}


def judge(signal: Estimate, threshold: float) -> Verdict:
    """Whether a signal, with its interval, lies above or below the detection threshold."""
    assert signal.low is not None
    assert signal.high is not None
    if signal.low >= threshold:
        return "detectable"
    return "not-detectable" if signal.high < threshold else "undecided"


def _against(signal: Estimate, threshold: float) -> str:
    place = {
        "detectable": f"above the detection threshold of {threshold:g}",
        "not-detectable": f"below the detection threshold of {threshold:g}",
        "undecided": f"cannot be told from the detection threshold of {threshold:g}",
    }[judge(signal, threshold)]
    return f"{signal.value:.3f} (95 % interval {signal.low:.3f} to {signal.high:.3f}), {place}"


def _attack_sentence(result: AttackResult) -> str:
    accuracy = result.accuracy
    size = f"{accuracy.value:.0%} of {2 * result.victims} victims"
    assert accuracy.low is not None
    words = "better than guessing" if accuracy.low > 0.5 else "no better than guessing may be"
    return f"{result.name}: right for {size}, {words}"


def _finite(value: Any) -> Any:
    """The value with null for what is no number: the rate of a group without rows."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value
