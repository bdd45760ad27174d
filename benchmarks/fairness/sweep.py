"""The accuracy gap against penalty weight, rehearsal share, and the accuracy that may be lost.

    python benchmarks/fairness/sweep.py [--data ../shared/data] [--seeds 3] [-o sweep]

Writes ``sweep.json`` and, where matplotlib is installed (``pip install 'neuropatch[plots]'``), one
plot for each option: mean and range over seeds, on test rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from run import turned
from settings import TABULAR

from neuropatch.fairness.attacks import query
from neuropatch.fairness.finetune import FineTuneConfig, fair_finetune
from neuropatch.fairness.finetune_run import Parts, divide
from neuropatch.fairness.metrics import accuracies, accuracy_gap, delta_eo
from neuropatch.fairness.torch_classifier import TorchClassifier
from neuropatch.fairness.training import TabularTrainer

GRID: dict[str, tuple[float, ...]] = {
    "penalty_weight": (0, 1, 5, 20, 50),
    "rehearsal": (0, 0.25, 0.5, 0.75, 1),
    "max_cost": (0.01, 0.018, 0.03, 0.045),
}
CASES = (("acs-20states", 0), ("acs-20states", 1), ("adult", 0))


def point(base: TorchClassifier, parts: Parts, config: FineTuneConfig) -> dict[str, float]:
    """One fine-tuning: its signals on the test rows."""
    tuned = fair_finetune(base, parts.training, parts.validation, config).classifier
    counts, before = query(tuned, parts.test).counts, query(base, parts.test).counts
    return {
        "gap": float(accuracy_gap(counts)),
        "delta_eo": float(delta_eo(counts)),
        "cost": float(accuracies(before).mean() - accuracies(counts).mean()),
    }


def sweep(data: Path, seeds: int) -> dict[str, Any]:
    """All points: by case, option and value, one a seed."""
    found: dict[str, Any] = {}
    for name, direction in CASES:
        rows = TABULAR[name].load(data)
        case: dict[str, Any] = {option: {str(v): [] for v in grid} for option, grid in GRID.items()}
        for seed in range(seeds):
            parts = divide(rows, seed)
            parts = turned(parts) if direction else parts
            base = TabularTrainer()(parts.training.g0, seed)
            for option, grid in GRID.items():
                for value in grid:
                    config = replace(FineTuneConfig(seed=seed), **{option: value})
                    case[option][str(value)].append(point(base, parts, config))
        found[f"{name}, G0 is {TABULAR[name].groups[direction]}"] = case
    return found


def table(found: dict[str, Any]) -> str:
    """Means over seeds, as Markdown."""
    lines = []
    for name, case in found.items():
        for option, values in case.items():
            lines += ["", f"**{name}**", "", f"| {option} | gap | Delta_EO | cost |"]
            lines.append("|---|---|---|---|")
            for value, points in values.items():
                gap, eo, cost = (mean(points, key) for key in ("gap", "delta_eo", "cost"))
                lines.append(f"| {value} | {gap:.3f} | {eo:.3f} | {cost:+.3f} |")
    return "\n".join(lines)


def mean(points: Sequence[dict[str, float]], key: str) -> float:
    """Mean over seeds."""
    return statistics.mean(one[key] for one in points)


def plot(found: dict[str, Any], output: Path) -> list[Path]:
    """One plot for each option; returns the files."""
    from matplotlib.figure import Figure

    files = []
    for option in GRID:
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, case in found.items():
            values = [float(value) for value in case[option]]
            runs = list(case[option].values())
            means = [mean(points, "gap") for points in runs]
            lows = [min(one["gap"] for one in points) for points in runs]
            highs = [max(one["gap"] for one in points) for points in runs]
            (line,) = axes.plot(values, means, marker="o", label=name)
            axes.fill_between(values, lows, highs, alpha=0.15, color=line.get_color())
        axes.axhline(0.1, linestyle=":", color="grey")
        axes.set(xlabel=option.replace("_", " "), ylabel="accuracy gap", ylim=(0, None))
        axes.legend(fontsize=7)
        file = output.with_name(f"{output.name}-{option.replace('_', '-')}.svg")
        figure.savefig(file)
        files.append(file)
    return files


def main() -> None:
    """Run the sweep, print the tables, and write the results and the plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=Path("sweep"))
    parser.add_argument("--from-json", type=Path, help="plot results that are there already")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.from_json:
        found = json.loads(arguments.from_json.read_text(encoding="utf-8"))
    else:
        found = sweep(arguments.data, arguments.seeds)
        text = json.dumps(found, indent=1) + "\n"
        arguments.output.with_name(f"{arguments.output.name}.json").write_text(text)
    print(table(found))
    for file in plot(found, arguments.output):
        print(file)


if __name__ == "__main__":
    main()
