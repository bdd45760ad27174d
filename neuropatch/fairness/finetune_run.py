"""From files to a fair classifier and its patch, as ``neuropatch fairtune`` does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from neuropatch.checkpoint.apply import apply_patches
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.staging import staged_folder, writing
from neuropatch.errors import DataError, OutputError, UsageError
from neuropatch.fairness.baselines import run_baselines
from neuropatch.fairness.distributions import Distributions, Side, load_distributions
from neuropatch.fairness.examples import Examples
from neuropatch.fairness.finetune import FineTuneConfig, Signals, fair_finetune
from neuropatch.fairness.finetune_patch import changed_units, delta_patch
from neuropatch.fairness.loading import load_classifier
from neuropatch.fairness.metrics import Inference, measure, tabulate
from neuropatch.fairness.sources import Loaded, Reading
from neuropatch.fairness.text import TextRecipe, start_name
from neuropatch.fairness.torch_classifier import TorchClassifier
from neuropatch.fairness.training import TabularTrainer, TextTrainer
from neuropatch.fairness.victims import cut_rows
from neuropatch.hub.resolve import ResolvedModel, resolve_model
from neuropatch.models.loading import parse_device
from neuropatch.patch.metadata import BaseModel, PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.progress import Progress, Silent
from neuropatch.provenance import library_versions

NEW = "new"
"""Names a tabular model that is trained first."""

PAPER = "arXiv:2606.01719"
SHARES = (0.5, 0.2, 0.3)
"""Shares of the rows for training, validation and test."""

BASE, FAIR, PATCH, RESULTS = "base", "fair", "patch.safetensors", "results.json"


@dataclass(frozen=True)
class Parts:
    """The rows of both distributions, divided; no row is in two parts."""

    training: Distributions
    validation: Distributions
    test: Distributions


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


def fairtune_files(
    model: str,
    data: Sequence[str],
    reading: Reading,
    output: Path,
    *,
    g0: Side | None = None,
    g1: Side | None = None,
    config: FineTuneConfig | None = None,
    train_base: bool = False,
    baselines: bool = False,
    patch: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> FairtuneResult:
    """Fine-tune a classifier on files, and write it and its patch.

    The folder gets ``fair`` (the fine-tuned checkpoint), ``patch.safetensors``, ``results.json``
    and, if it was trained here, ``base``. It appears whole or not at all.

    Args:
        model: A classifier that was trained on ``G0``; a model to train one from, with
            ``train_base``; or :data:`NEW` for a tabular model that is trained first.
        data: Files with the rows.
        reading: How they are read.
        output: Folder to create.
        g0: What ``G0`` is.
        g1: What ``G1`` is; both None for the pure groups of the sensitive attribute.
        config: The settings of FFt.
        train_base: Train the model on ``G0`` first, with a new head.
        baselines: Also train and measure the baselines.
        patch: Where the patch goes instead.
        device: ``auto``, or a torch device.
        progress: Told how far it is.
        note: Told sentences for the user.

    Raises:
        NeuropatchError: If anything about the model, the data, the options or the output is wrong.
    """
    config = config or FineTuneConfig()
    progress = progress or Silent()
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise OutputError(
            f"{output} exists already", hint="name a folder that does not exist, or remove it"
        )
    loaded, distributions = load_distributions(data, reading, g0, g1, seed=config.seed)
    notes = [*loaded.notes, *distributions.notes]
    parts = divide(distributions, config.seed)
    where = str(parse_device(device))
    start = None if model == NEW else resolve_model(model)
    if start is not None and not train_base:
        notes.append("the base was trained elsewhere: test rows may be among its training rows")
    for sentence in notes:
        note(sentence)
    with staged_folder(output) as folder:
        if start is None or train_base:
            _train(start, parts.training.g0, folder / BASE, output, config.seed, where, progress)
            source = ResolvedModel(folder / BASE, BaseModel(BASE))
        else:
            source = start
        base = load_classifier(source.folder, device=where)
        size, rate = config.batch_and_rate(base.tuning)
        config = replace(config, batch_size=size, learning_rate=rate)
        tuned = fair_finetune(base, parts.training, parts.validation, config, progress=progress)
        metadata = _metadata(source, config, loaded, distributions)
        made = delta_patch(Checkpoint.open(source.folder), base, tuned.classifier, metadata)
        apply_patches(source.folder, [made], folder / FAIR)
        if patch is None:
            made.save(folder / PATCH)
        others = {}
        if baselines:
            others = run_baselines(base, parts.training, parts.validation, config, progress)
        result = FairtuneResult(
            base=output / BASE if source.folder == folder / BASE else source.folder,
            fair=output / FAIR,
            patch=patch or output / PATCH,
            distributions=distributions.names,
            rows={name: (len(part.g0), len(part.g1)) for name, part in vars(parts).items()},
            before=infer(base, parts.test, config.seed),
            after=infer(load_classifier(folder / FAIR, device=where), parts.test, config.seed),
            units=changed_units(made),
            total_units=_units(made),
            weights=len(made),
            chosen=tuned.chosen,
            baselines={name: infer(one, parts.test, config.seed) for name, one in others.items()},
            config=config,
            notes=tuple(notes),
        )
        text = json.dumps(result.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / RESULTS).write_text(f"{text}\n", encoding="utf-8")
    if patch is not None:
        with writing(patch):
            made.save(patch)
    return result


def divide(
    distributions: Distributions, seed: int, shares: tuple[float, float, float] = SHARES
) -> Parts:
    """Divide the rows at random, alike in label and group.

    Args:
        distributions: The rows.
        seed: Seed of the division.
        shares: Shares for training, validation and test, 1 together.

    Raises:
        DataError: If a part of a distribution has not both labels.
    """
    rng = np.random.default_rng(seed)
    sides = [
        [side.select(index) for index in cut_rows(side, shares[:2], rng)]
        for side in distributions.sides
    ]
    made = []
    for part, first, second in zip(fields(Parts), *sides, strict=True):
        for flag, side in (("G0", first), ("G1", second)):
            if len(set(side.labels.tolist())) < 2:
                raise DataError(
                    f"of {flag}, {len(side)} rows are left for {part.name}, and they have one "
                    "label",
                    hint="use more rows",
                )
        made.append(Distributions(first, second, distributions.names))
    return Parts(*made)


def infer(classifier: TorchClassifier, rows: Distributions, seed: int) -> Inference:
    """What a classifier gives away on rows."""
    first, second = (classifier.probabilities(side) for side in rows.sides)
    return measure(tabulate(rows, (first, second)), seed=seed)


def mean_accuracy(found: Inference) -> float:
    """Mean accuracy of both distributions."""
    return (found.accuracy[0].value + found.accuracy[1].value) / 2


def _train(
    start: ResolvedModel | None,
    examples: Examples,
    folder: Path,
    output: Path,
    seed: int,
    device: str,
    progress: Progress,
) -> None:
    """Train the base and write it."""
    if examples.is_text and start is None:
        raise UsageError(
            f"the model '{NEW}' takes rows of a table, and the data are texts",
            hint="name an encoder or a causal model, with --train-base",
        )
    trained: TorchClassifier
    if start is None:
        trained = TabularTrainer(device=device, progress=progress)(examples, seed)
    else:
        recipe = TextRecipe(start_name(start, output / BASE))
        trained = TextTrainer(recipe, start.folder, device, progress)(examples, seed)
    folder.mkdir()
    trained.save(folder)


def _metadata(
    base: ResolvedModel,
    config: FineTuneConfig,
    loaded: Loaded,
    distributions: Distributions,
) -> PatchMetadata:
    parameters = {**config.to_json(), "g0": distributions.names[0], "g1": distributions.names[1]}
    checkpoint = Checkpoint.open(base.folder)
    declared = checkpoint.config.get("license")
    return PatchMetadata(
        architecture=checkpoint.layout.signature,
        base_model=base.base,
        method={"name": "fft", "paper": PAPER, "parameters": parameters},
        datasets=tuple(_records(loaded)),
        versions=library_versions(),
        license=declared if isinstance(declared, str) else None,
    )


def _records(loaded: Loaded) -> list[dict[str, Any]]:
    files: Any = loaded.record["files"]
    return [{"name": "labelled", **file, "rows": loaded.rows, "used": "all"} for file in files]


def _units(patch: NeuronPatch) -> int:
    size = patch.metadata.architecture.dimensions
    return size["layers"] * size["intermediate"]
