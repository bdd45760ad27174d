"""The distribution inference audit of a classifier.

Measured on the rows of ``G0`` and ``G1``: group fairness, ``Delta_EO``, ``W``, the bound and the
advantage (:mod:`neuropatch.fairness.metrics`). Attacked, where victims are asked for: models that
the same recipe makes of samples of either side (:mod:`neuropatch.fairness.victims`), by an
adversary who trains shadows and sees predictions only (:mod:`neuropatch.fairness.attacks`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from neuropatch.errors import UsageError
from neuropatch.fairness.attacks import Attack, LossTest, MetaClassifier, ThresholdTest, attack
from neuropatch.fairness.attacks import query as ask
from neuropatch.fairness.audit_result import Attacks, AuditResult, TrainedVictim
from neuropatch.fairness.classifier import Classifier, Trainer
from neuropatch.fairness.distributions import Distributions, Side, load_distributions
from neuropatch.fairness.group_metrics import group_metrics, require_fairlearn
from neuropatch.fairness.metrics import accuracy_gap, advantage, delta_eo, measure, predict
from neuropatch.fairness.sources import Reading
from neuropatch.fairness.victims import SAMPLE, Population, divide, train_population
from neuropatch.progress import Progress, Silent
from neuropatch.provenance import library_versions


@dataclass(frozen=True)
class AuditSettings:
    """Sizes, seeds and the threshold of an audit.

    Attributes:
        threshold: An accuracy gap or advantage from here on is detectable; 0.1 in the FFt paper.
        victims: Victims trained on each side; 0 makes no attack.
        shadows: Shadows trained on each side; 0 leaves the loss test only.
        queries: Most query rows of each side.
        match_labels: Draw rows so that both sides have equal label shares.
        resamples: Draws of the bootstrap.
        seed: Seed of every random choice.

    Raises:
        UsageError: If a number is out of range.
    """

    threshold: float = 0.1
    victims: int = 0
    shadows: int = 8
    queries: int = 500
    match_labels: bool = False
    resamples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise UsageError(
                f"--threshold is {self.threshold:g}", hint="it lies between 0 and 1, such as 0.1"
            )
        for name, least in (("victims", 0), ("shadows", 0), ("queries", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"--{name} is {getattr(self, name)}", hint=f"it is a number from {least}"
                )


def audit(
    model: Classifier,
    distributions: Distributions,
    settings: AuditSettings | None = None,
    *,
    train: Trainer | None = None,
    name: str = "model",
    data: dict[str, object] | None = None,
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> AuditResult:
    """Audit a classifier in memory.

    Args:
        model: The classifier. The rows should be new to it.
        distributions: The rows of ``G0`` and ``G1``.
        settings: Sizes, seeds and the threshold.
        train: The recipe of the model, with which victims and shadows are made.
        name: Name of the model in the result.
        data: Where the rows come from, for the result.
        progress: Told of every model that is trained.
        notes: Sentences to keep in the result.

    Raises:
        DataError: If there are too few rows, or the model cannot take them.
        ResourceError: If fairlearn is not installed.
        UsageError: If victims are asked for without a recipe.
    """
    settings = settings or AuditSettings()
    require_fairlearn()
    if settings.victims and train is None:
        raise UsageError(
            "victims are trained by the model's recipe, and none is given",
            hint="give one, or ask for no victims",
        )
    seen = ask(model, distributions)
    groups = group_metrics(
        np.concatenate([side.labels for side in distributions.sides]),
        predict(np.concatenate(seen.probabilities)),
        np.concatenate([side.groups for side in distributions.sides]),
        distributions.g0.group_names,
    )
    attacks = None
    if settings.victims and train is not None:
        attacks = _attacks(model, distributions, settings, train, progress or Silent())
    return AuditResult(
        model=name,
        data=data or {},
        distributions=distributions.names,
        rows=(len(distributions.g0), len(distributions.g1)),
        groups=groups,
        inference=measure(seen.counts, resamples=settings.resamples, seed=settings.seed),
        threshold=settings.threshold,
        attacks=attacks,
        settings=asdict(settings),
        notes=(*notes, *groups.notes()),
        versions=library_versions("fairlearn", "scikit-learn"),
    )


def audit_files(
    model: str,
    data: Sequence[str],
    reading: Reading,
    *,
    g0: Side | None = None,
    g1: Side | None = None,
    settings: AuditSettings | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> AuditResult:
    """Audit a model on files.

    Args:
        model: A folder or a Hub model: a transformers sequence classifier, or a tabular classifier
            that neuropatch saved.
        data: Files with the rows; none where ``g0`` and ``g1`` are files.
        reading: How they are read.
        g0: What ``G0`` is.
        g1: What ``G1`` is; both None for the pure groups of the sensitive attribute.
        settings: Sizes, seeds and the threshold.
        device: ``auto``, or a torch device.
        progress: Told how far it is.
        note: Told sentences for the user.

    Raises:
        NeuropatchError: If anything about the model, the data or the options is wrong.
    """
    from neuropatch.hub.resolve import resolve_model

    settings = settings or AuditSettings()
    require_fairlearn()
    loaded, distributions = load_distributions(
        data, reading, g0, g1, match_labels=settings.match_labels, seed=settings.seed
    )
    notes = [*loaded.notes, *distributions.notes]
    for sentence in notes:
        note(sentence)
    resolved = resolve_model(model)
    # Imported late: everything above refuses bad input without loading torch.
    from neuropatch.fairness.loading import load_classifier, load_recipe

    classifier = load_classifier(resolved.folder, device=device)
    train = load_recipe(resolved.folder, device=device) if settings.victims else None
    result = audit(
        classifier,
        distributions,
        settings,
        train=train,
        name=resolved.base.name or model,
        data=loaded.record,
        progress=progress,
        notes=notes,
    )
    for sentence in result.groups.notes():
        note(sentence)
    return result


def _attacks(
    model: Classifier,
    distributions: Distributions,
    settings: AuditSettings,
    train: Trainer,
    progress: Progress,
) -> Attacks:
    parts = divide(
        distributions,
        settings.seed,
        shadows=settings.shadows > 0,
        most_queries=settings.queries,
    )
    progress.start("training victims and shadows", 2 * (settings.victims + settings.shadows))
    victims = train_population(
        train,
        parts.victims,
        parts.queries,
        count=settings.victims,
        seed=settings.seed,
        advance=progress.advance,
    )
    methods: list[Attack] = [LossTest()]
    if parts.shadows is not None:
        shadows = train_population(
            train,
            parts.shadows,
            parts.queries,
            count=settings.shadows,
            # Other samples and weights than those of the victims.
            seed=settings.seed + 1,
            advance=progress.advance,
        )
        methods.append(ThresholdTest(shadows.g0, shadows.g1))
        methods.append(MetaClassifier(shadows.g0, shadows.g1))
    own = ask(model, parts.queries)
    return Attacks(
        shadows=settings.shadows,
        rows=int(SAMPLE * min(len(parts.victims.g0), len(parts.victims.g1))),
        queries=(len(parts.queries.g0), len(parts.queries.g1)),
        results=tuple(attack(method, victims.g0, victims.g1) for method in methods),
        on_model={method.name: method.guess(own) for method in methods},
        victims=_victims(victims),
    )


def _victims(population: Population) -> tuple[TrainedVictim, ...]:
    return tuple(
        TrainedVictim(
            side=side,
            accuracy=(float(seen.accuracy[0]), float(seen.accuracy[1])),
            accuracy_gap=float(accuracy_gap(seen.counts)),
            delta_eo=float(delta_eo(seen.counts)),
            advantage=float(advantage(seen.counts)),
        )
        for side, models in enumerate((population.g0, population.g1))
        for seen in models
    )
