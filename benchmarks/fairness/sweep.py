"""The accuracy gap against penalty weight, rehearsal share, and the accuracy that may be lost.

    python benchmarks/fairness/sweep.py [--data ../shared/data] [--seeds 3] [-o sweep]

Writes ``sweep.json`` and, with matplotlib (``pip install 'neuropatch[plots]'``), ``sweep.svg``: one
panel for each option, mean and range over seeds, on test rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
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
            # Every grid has the default among its values, which is run once.
            done: dict[FineTuneConfig, dict[str, float]] = {}
            for option, grid in GRID.items():
                for value in grid:
                    config = replace(FineTuneConfig(seed=seed), **{option: float(value)})
                    if config not in done:
                        done[config] = point(base, parts, config)
                    case[option][str(value)].append(done[config])
            print(f"{name}, direction {direction}: seed {seed}", file=sys.stderr)
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


def plot(found: dict[str, Any], file: Path) -> None:
    """One panel for each option."""
    import matplotlib
    from matplotlib.figure import Figure

    # Text as text and no random ids: a small file, and the same one from the same results.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "neuropatch", "font.size": 9}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(GRID), sharey=True)
    for axes, option in zip(panels, GRID, strict=True):
        # Evenly spaced: in their own distances the small values would lie on each other.
        labels = [f"{value:g}" for value in GRID[option]]
        for number, (name, case) in enumerate(found.items()):
            runs = list(case[option].values())
            means = [mean(points, "gap") for points in runs]
            places = [place + 0.06 * (number - 1) for place in range(len(runs))]
            gaps = [[run["gap"] for run in points] for points in runs]
            reach = [
                [middle - min(one) for middle, one in zip(means, gaps, strict=True)],
                [max(one) - middle for middle, one in zip(means, gaps, strict=True)],
            ]
            axes.errorbar(
                *(places, means, reach),
                **{"marker": "o", "markersize": 4, "linewidth": 1.2, "elinewidth": 0.8},
                capsize=2,
                label=name,
            )
        axes.axhline(0.1, linestyle=":", color="grey")
        axes.set_xticks(range(len(labels)), labels)
        axes.set(xlabel=option.replace("_", " "), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy gap")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    figure.savefig(file, metadata={"Date": None})


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
    plot(found, arguments.output.with_name(f"{arguments.output.name}.svg"))


if __name__ == "__main__":
    main()
