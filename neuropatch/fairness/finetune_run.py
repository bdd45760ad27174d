"""From files to a fair classifier and its patch, as ``neuropatch fairtune`` does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
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
from neuropatch.fairness.finetune_result import FairtuneResult
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
    rows = _read(data, reading, g0, g1, config.seed)
    where = str(parse_device(device))
    start = None if model == NEW else resolve_model(model)
    if start is not None and not train_base:
        sentence = "the base was trained elsewhere: test rows may be among its training rows"
        rows = replace(rows, notes=(*rows.notes, sentence))
    for sentence in rows.notes:
        note(sentence)
    with staged_folder(output) as folder:
        if start is None or train_base:
            training = rows.parts.training.g0
            _train(start, training, folder / BASE, output, config.seed, where, progress)
            source, base_folder = ResolvedModel(folder / BASE, BaseModel(BASE)), output / BASE
        else:
            source, base_folder = start, start.folder
        made = _make(source, rows, folder / FAIR, config, where, baselines, progress)
        if patch is None:
            made.patch.save(folder / PATCH)
        result = _result(made, rows, (base_folder, output / FAIR, patch or output / PATCH))
        text = json.dumps(result.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / RESULTS).write_text(f"{text}\n", encoding="utf-8")
    if patch is not None:
        with writing(patch):
            made.patch.save(patch)
    return result


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a run.

    Attributes:
        loaded: As they were read.
        distributions: ``G0`` and ``G1``.
        parts: The two, divided.
        notes: Sentences for the user.
    """

    loaded: Loaded
    distributions: Distributions
    parts: Parts
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Made:
    """What fine-tuning made.

    Attributes:
        base: The classifier before.
        fair: The one after, as read back from its files.
        others: The baselines, by name.
        patch: The difference.
        chosen: The validation rows at the state that was kept.
        config: The settings, with the numbers that suit the kind of model.
    """

    base: TorchClassifier
    fair: TorchClassifier
    others: Mapping[str, TorchClassifier]
    patch: NeuronPatch
    chosen: Signals
    config: FineTuneConfig


def _read(
    data: Sequence[str], reading: Reading, g0: Side | None, g1: Side | None, seed: int
) -> _Rows:
    loaded, distributions = load_distributions(data, reading, g0, g1, seed=seed)
    notes = (*loaded.notes, *distributions.notes)
    return _Rows(loaded, distributions, divide(distributions, seed), notes)


def _make(
    source: ResolvedModel,
    rows: _Rows,
    fair: Path,
    config: FineTuneConfig,
    device: str,
    baselines: bool,
    progress: Progress,
) -> _Made:
    """Fine-tune, make the patch, and write the base with the patch applied to ``fair``."""
    base = load_classifier(source.folder, device=device)
    size, rate = config.batch_and_rate(base.tuning)
    config = replace(config, batch_size=size, learning_rate=rate)
    training, validation = rows.parts.training, rows.parts.validation
    tuned = fair_finetune(base, training, validation, config, progress=progress)
    metadata = _metadata(source, config, rows)
    patch = delta_patch(Checkpoint.open(source.folder), base, tuned.classifier, metadata)
    apply_patches(source.folder, [patch], fair)
    others: Mapping[str, TorchClassifier] = {}
    if baselines:
        others = run_baselines(base, training, validation, config, progress)
    after = load_classifier(fair, device=device)
    return _Made(base, after, others, patch, tuned.chosen, config)


def _result(made: _Made, rows: _Rows, paths: tuple[Path, Path, Path]) -> FairtuneResult:
    """Measure the models on the test rows; ``paths`` are those of base, fair model and patch."""
    test, seed = rows.parts.test, made.config.seed
    return FairtuneResult(
        *paths,
        distributions=rows.distributions.names,
        rows={name: (len(part.g0), len(part.g1)) for name, part in vars(rows.parts).items()},
        before=infer(made.base, test, seed),
        after=infer(made.fair, test, seed),
        units=changed_units(made.patch),
        total_units=_units(made.patch),
        weights=len(made.patch),
        chosen=made.chosen,
        baselines={name: infer(one, test, seed) for name, one in made.others.items()},
        config=made.config,
        notes=rows.notes,
    )


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


def _metadata(base: ResolvedModel, config: FineTuneConfig, rows: _Rows) -> PatchMetadata:
    first, second = rows.distributions.names
    parameters = {**config.to_json(), "g0": first, "g1": second}
    checkpoint = Checkpoint.open(base.folder)
    declared = checkpoint.config.get("license")
    return PatchMetadata(
        architecture=checkpoint.layout.signature,
        base_model=base.base,
        method={"name": "fft", "paper": PAPER, "parameters": parameters},
        datasets=tuple(_records(rows.loaded)),
        versions=library_versions(),
        license=declared if isinstance(declared, str) else None,
    )


def _records(loaded: Loaded) -> list[dict[str, Any]]:
    files: Any = loaded.record["files"]
    return [{"name": "labelled", **file, "rows": loaded.rows, "used": "all"} for file in files]


def _units(patch: NeuronPatch) -> int:
    size = patch.metadata.architecture.dimensions
    return size["layers"] * size["intermediate"]
