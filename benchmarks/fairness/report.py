"""The results of ``run.py`` as Markdown tables.

python benchmarks/fairness/report.py results.json [MORE ...]
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

THRESHOLD = 0.1
COLUMNS = (
    *("method", "gap (range)", "below 0.1", "at equal labels", "accuracy G0, G1", "cost"),
    *("Delta_EO", "W", "bound", "Adv", "inequality"),
)
HEADER = f"| {' | '.join(COLUMNS)} |"
RULE = "|---" * len(COLUMNS) + "|"


def markdown(document: dict[str, Any]) -> str:
    """Tables: the direction with its methods, one block a setting, and what they add up to."""
    lines: list[str] = []
    everywhere: dict[str, list[dict[str, Any]]] = {}
    for name, setting in document["settings"].items():
        for direction in (0, 1):
            runs = [run for run in setting["runs"] if run["direction"] == direction]
            if not runs:
                continue
            g0, g1 = setting["groups"] if direction == 0 else setting["groups"][::-1]
            lines += [
                "",
                f"**{name}**, G0 is {g0}, G1 is {g1}",
                "",
                HEADER,
                RULE,
            ]
            for method in dict.fromkeys(run["method"] for run in runs):
                own = [run for run in runs if run["method"] == method]
                lines.append(row(method, own))
                everywhere.setdefault(method, []).extend(own)
        for method, found in setting["attacks"].items():
            told = ", ".join(f"{attack} {value:+.2f}" for attack, value in found.items())
            lines.append(f"\nAttack advantage on {method}: {told}")
    lines += [
        "",
        "| all runs | runs | below 0.1 | cost | violated | reverts exactly |",
        "|---|" * 1,
    ]
    lines[-1] = "|---|---|---|---|---|---|"
    for method, own in everywhere.items():
        below = sum(run["gap"] < THRESHOLD for run in own)
        violated = sum(run["inequality"] == "violated" for run in own)
        reverts = [run["reverts_exactly"] for run in own if "reverts_exactly" in run]
        lines.append(
            f"| {method} | {len(own)} | {below} ({below / len(own):.0%}) | "
            f"{mean(own, 'cost'):+.3f} | {violated} | {sum(reverts)} of {len(reverts)} |"
        )
    return "\n".join(lines)


def row(method: str, runs: list[dict[str, Any]]) -> str:
    """One method of a setting, over its seeds."""
    gaps = [run["gap"] for run in runs]
    below = sum(gap < THRESHOLD for gap in gaps)
    on0, on1 = (statistics.mean(run["accuracy"][side] for run in runs) for side in (0, 1))
    held = {run["inequality"] for run in runs}
    worst = next(one for one in ("violated", "within-interval", "holds") if one in held)
    return (
        f"| {method} | {statistics.mean(gaps):.3f} ({min(gaps):.3f} to {max(gaps):.3f}) | "
        f"{below} of {len(runs)} | {mean(runs, 'matched_gap'):.3f} | "
        f"{on0:.3f}, {on1:.3f} | {mean(runs, 'cost'):+.3f} | "
        f"{mean(runs, 'delta_eo'):.3f} | {mean(runs, 'w'):.2f} | {mean(runs, 'bound'):.3f} | "
        f"{mean(runs, 'advantage'):.3f} | {worst} |"
    )


def mean(runs: list[dict[str, Any]], name: str) -> float:
    """Mean of a number over runs."""
    return statistics.mean(run[name] for run in runs)


if __name__ == "__main__":
    merged: dict[str, Any] = {"settings": {}}
    for argument in sys.argv[1:]:
        merged["settings"] |= json.loads(Path(argument).read_text(encoding="utf-8"))["settings"]
    print(markdown(merged))
