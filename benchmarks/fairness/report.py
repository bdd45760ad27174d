"""The results of ``run.py`` as Markdown tables, with the results that were to be reached.

python benchmarks/fairness/report.py results.json [MORE ...]
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Run = dict[str, Any]
"""One model: a seed, direction and method with what was measured."""

BASE, FULL, TENTH = "base", "FFt", "FFt, 10 % of units"
THRESHOLD = 0.1
"""A gap from here on is detectable."""

ACS = "acs-"
LOW_GAP, LOW_COST, SHARE_BELOW, UNITS = 0.04, 0.02, 0.9, 0.1
CHANCE = 0.025
"""Of 95 % intervals as many lie wholly below where the bound holds with equality."""

COLUMNS = (
    *("method", "gap (range)", "below 0.1", "at equal labels", "accuracy G0, G1", "cost"),
    *("Delta_EO", "W", "bound", "Adv", "inequality"),
)


def markdown(document: dict[str, Any]) -> str:
    """All tables: each setting's, what they add up to, and what was to be reached."""
    lines: list[str] = []
    for name, setting in document["settings"].items():
        for direction, runs in directions(setting):
            g0, g1 = setting["groups"] if direction == 0 else setting["groups"][::-1]
            lines += ["", f"**{name}**, G0 is {g0}, G1 is {g1}", ""]
            lines += table(COLUMNS, [row(method, own) for method, own in by_method(runs).items()])
        for method, found in setting["attacks"].items():
            told = ", ".join(f"{attack} {value:+.2f}" for attack, value in found.items())
            lines += ["", f"Attack advantage on {method}: {told}"]
    everywhere = by_method(
        [run for setting in document["settings"].values() for run in setting["runs"]]
    )
    totals = [total(method, own) for method, own in everywhere.items()]
    lines += ["", *table(("", *everywhere), overview(document, list(everywhere)))]
    lines += ["", *table(TOTALS, totals), "", *table(REACHED, reached(document, everywhere))]
    return "\n".join(lines)


def directions(setting: dict[str, Any]) -> Iterator[tuple[int, list[Run]]]:
    """The runs of either direction, where there are any."""
    for direction in (0, 1):
        runs = [run for run in setting["runs"] if run["direction"] == direction]
        if runs:
            yield direction, runs


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by method, in the order of their first."""
    methods = dict.fromkeys(run["method"] for run in runs)
    return {method: [run for run in runs if run["method"] == method] for method in methods}


def row(method: str, runs: Sequence[Run]) -> tuple[str, ...]:
    """One method of a setting, over its seeds."""
    gaps = [run["gap"] for run in runs]
    on0, on1 = (statistics.mean(run["accuracy"][side] for run in runs) for side in (0, 1))
    held = {run["inequality"] for run in runs}
    return (
        method,
        f"{statistics.mean(gaps):.3f} ({min(gaps):.3f} to {max(gaps):.3f})",
        f"{below(runs)} of {len(runs)}",
        f"{mean(runs, 'matched_gap'):.3f}",
        f"{on0:.3f}, {on1:.3f}",
        f"{mean(runs, 'cost'):+.3f}",
        *(f"{mean(runs, name):.3f}" for name in ("delta_eo", "w", "bound", "advantage")),
        next(one for one in ("violated", "within-interval", "holds") if one in held),
    )


def overview(document: dict[str, Any], methods: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """One row a setting and direction: mean gap, accuracy lost and ``Delta_EO``, in points."""
    for name, setting in document["settings"].items():
        for direction, runs in directions(setting):
            found = by_method(runs)
            cells = [
                "; ".join(points(mean(found[method], key)) for key in ("gap", "cost", "delta_eo"))
                if method in found
                else ""
                for method in methods
            ]
            yield (f"{name}, G0 is {setting['groups'][direction]}", *cells)


TOTALS = (
    *("all runs", "runs", "below 0.1", "cost", "Adv within the bound, pure groups"),
    *("mixed: within, within its interval, violated", "kept the base", "reverts exactly"),
)


def total(method: str, runs: Sequence[Run]) -> tuple[str, ...]:
    """One method over all settings, directions and seeds."""
    mixed = Counter(run["mixed"]["inequality"] for run in runs)
    reverts = [run["reverts_exactly"] for run in runs if "reverts_exactly" in run]
    patched = method in (FULL, TENTH)
    return (
        method,
        str(len(runs)),
        f"{below(runs)} ({below(runs) / len(runs):.0%})",
        f"{mean(runs, 'cost'):+.3f}",
        f"{sum(run['inequality'] == 'holds' for run in runs)} of {len(runs)}",
        ", ".join(str(mixed[one]) for one in ("holds", "within-interval", "violated")),
        str(len(runs) - len(reverts)) if patched else "",
        f"{sum(reverts)} of {len(reverts)}" if patched else "",
    )


REACHED = ("result to reach", "target", FULL, "reached", TENTH, "reached")


def reached(
    document: dict[str, Any], everywhere: dict[str, list[Run]]
) -> Iterator[tuple[str, ...]]:
    """The lines of the results to reach: both methods, with what was measured and yes or no."""
    both = (FULL, TENTH)
    costs: dict[str, list[float]] = {method: [] for method in both}
    for name, setting in document["settings"].items():
        for direction, runs in directions(setting):
            methods = by_method(runs)
            for method in both:
                costs[method].append(mean(methods[method], "cost"))
            if not name.startswith(ACS):
                continue
            before = mean(methods[BASE], "gap")
            gaps = [mean(methods[method], "gap") for method in both]
            where = f"{name}, G0 is {setting['groups'][direction]}"
            told = [(f"{points(before)} -> {points(gap)}", gap < LOW_GAP) for gap in gaps]
            yield line(f"mean gap in points, {where}", f"< {points(LOW_GAP)}", told)
            told = [(points(cost[-1]), cost[-1] <= LOW_COST) for cost in costs.values()]
            yield line(f"mean accuracy lost in points, {where}", f"<= {points(LOW_COST)}", told)
    runs_of = [everywhere[method] for method in both]
    shares = [(below(runs), len(runs)) for runs in runs_of]
    told = [(f"{k} of {n} ({k / n:.1%})", k >= SHARE_BELOW * n) for k, n in shares]
    yield line("runs with a gap below 0.1, all sets", f">= {SHARE_BELOW:.0%}", told)
    told = [
        (
            f"{points(max(cost))}; at most that in {within(cost)} of {len(cost)}",
            max(cost) <= LOW_COST,
        )
        for cost in costs.values()
    ]
    what = "mean accuracy lost in points, the worst set and direction"
    yield line(what, f"<= {points(LOW_COST)}", told)
    failed = [sum(run["inequality"] == "violated" for run in runs) for runs in runs_of]
    told = [(f"{bad} of {len(runs)}", not bad) for bad, runs in zip(failed, runs_of, strict=True)]
    yield line("bound violated beyond its interval, pure groups", "0", told)
    failed = [sum(run["mixed"]["inequality"] == "violated" for run in runs) for runs in runs_of]
    told = [(f"{bad} of {len(runs)}", not bad) for bad, runs in zip(failed, runs_of, strict=True)]
    yield line(f"the same, mixed samples (chance: {CHANCE:.1%})", "0", told)
    tenth = everywhere[TENTH]
    largest = max(run["units"] / run["total_units"] for run in tenth)
    told = [("", None), (f"{largest:.1%}", largest <= UNITS)]
    yield line("largest share of the units changed", f"<= {UNITS:.0%}", told)
    reverts = [[run["reverts_exactly"] for run in runs if run["units"]] for runs in runs_of]
    told = [(f"{sum(exact)} of {len(exact)}", all(exact)) for exact in reverts]
    yield line("patches reverted to the base's bytes", "all", told)


def line(what: str, target: str, told: Sequence[tuple[str, bool | None]]) -> tuple[str, ...]:
    """One result: for either method what was measured, and whether that is enough."""
    verdict = {True: "yes", False: "**no**", None: ""}
    return (what, target, *(cell for text, met in told for cell in (text, verdict[met])))


def below(runs: Sequence[Run]) -> int:
    """Runs whose gap is below the detection threshold."""
    return sum(run["gap"] < THRESHOLD for run in runs)


def within(costs: Sequence[float]) -> int:
    """How many costs are low enough."""
    return sum(cost <= LOW_COST for cost in costs)


def mean(runs: Sequence[Run], name: str) -> float:
    """Mean of a number over runs."""
    return statistics.mean(run[name] for run in runs)


def points(share: float) -> str:
    """A share in percentage points."""
    return f"{100 * share:.1f}"


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]] | Iterator[Sequence[str]]
) -> list[str]:
    """A Markdown table."""
    body = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return [body[0], "|---" * len(columns) + "|", *body[1:]]


if __name__ == "__main__":
    merged: dict[str, Any] = {"settings": {}}
    for argument in sys.argv[1:]:
        merged["settings"] |= json.loads(Path(argument).read_text(encoding="utf-8"))["settings"]
    print(markdown(merged))
