"""The results of ``run.py`` as Markdown tables: mean, deviation over the seeds, and the worst seed.

python benchmarks/memorization/report.py RESULTS/seed0.json [RESULTS/seed1.json ...]
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], float | None], bool, str]
"""Headline, value of a row, whether less is better, and format."""


def _group(name: str, key: str, sub: str | None = None) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        group = row["measured"]["groups"].get(name)
        if group is None:
            return None
        found: float = group[key] if sub is None else group[key][sub]
        return found

    return value


def _exposure(name: str, key: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        # Not measured where greedy decoding alone extracts too much.
        found: float | None = row["measured"].get("exposure", {}).get(name, {}).get(key)
        return found

    return value


def _deep(name: str) -> list[Column]:
    """The columns of a group that is to be erased."""
    return [
        (f"{name}: greedy", _group(name, "exact"), True, ".2f"),
        ("5 given", _group(name, "given", "5"), True, ".2f"),
        ("best of 100", _group(name, "best_of", "100"), True, ".2f"),
        ("5 given, 100", _group(name, "given_best_of", "5"), True, ".2f"),
        ("exposure", _exposure(name, "bits"), True, ".1f"),
        ("extrapolated", _exposure(name, "extrapolated"), True, ".1f"),
        ("MRR", _exposure(name, "reciprocal_rank"), True, ".2f"),
        ("AUC", _group(name, "membership_auc"), True, ".2f"),
    ]


def _measured(key: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        found: float | None = row["measured"][key]
        return found

    return value


def _localization(key: str, scale: float = 1.0) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        return row["localization"][key] * scale if "localization" in row else None

    return value


def _control(*keys: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        found: Any = row.get("control")
        for key in keys:
            found = None if found is None else found[key]
        return found if found is None else float(found)

    return value


def _kept(names: Sequence[str]) -> list[Column]:
    return [(name, _group(name, "exact"), False, ".2f") for name in names]


_WHOLE: list[Column] = [
    ("perplexity", _measured("perplexity"), True, ".2f"),
    ("KL", _measured("kl"), True, ".4f"),
]
_COST: list[Column] = [
    ("edited units", _localization("units"), True, ".0f"),
    ("edited weights", _localization("weights"), True, ".0f"),
    ("CPU seconds", _localization("cpu_seconds"), True, ".1f"),
    ("MiB", _localization("memory", 2**-20), True, ".0f"),
]
_COPIES = ("copy, strangers", "copy, members")


def tables(task: str) -> dict[str, list[Column]]:
    """The tables of a task: headline and columns."""
    prompts = [
        (f"{name}, {what}", _group(name, key, sub), True, ".2f")
        for name in ("paraphrase", "low-cue")
        for what, key, sub in (("greedy", "exact", None), ("best of 100", "best_of", "100"))
    ]
    if task == "category":
        target, kept = ("shown", "unshown"), ("others", "facts", "office phones", *_COPIES)
    else:
        target = ("forget",)
        kept = ("retain, seen", "retain, unseen", "facts", "office phones", *_COPIES)
    control: list[Column] = [
        (f"control: {name}", _control("groups", name, "exact"), True, ".2f") for name in target
    ]
    prompts.append(("exposure of strangers", _exposure("strangers", "bits"), True, ".1f"))
    control.append(("control: perplexity", _control("perplexity"), True, ".2f"))
    found = {f"erased: {name}": _deep(name) for name in target}
    found["other prompts, and the random control"] = prompts + control
    return found | {"kept": _kept(kept) + _WHOLE, "cost": _COST}


def markdown(documents: Sequence[dict[str, Any]]) -> str:
    """All tables of all tasks."""
    rows = [row for document in documents for row in document["rows"]]
    lines: list[str] = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        for headline, columns in tables(task).items():
            lines += ["", f"**{task}, {headline}** ({len(documents)} seeds)", ""]
            lines.append(f"| method | units | {' | '.join(column[0] for column in columns)} |")
            lines.append("|---" * (len(columns) + 2) + "|")
            for key in dict.fromkeys((row["variant"], row["asked"]) for row in own):
                same = [row for row in own if (row["variant"], row["asked"]) == key]
                done = [row for row in same if "measured" in row]
                cells = [_cell(done, column) for column in columns]
                failed = (
                    f" ({len(same) - len(done)} found nothing)" if len(done) < len(same) else ""
                )
                lines.append(f"| {key[0]}{failed} | {key[1]} | {' | '.join(cells)} |")
        lines += _relearning(own)
        lines += [
            f"\n{row['variant']}, {row['asked']} units, found nothing: {row['failed']}"
            for row in own
            if "failed" in row
        ]
    return "\n".join(lines)


def _cell(rows: Sequence[Row], column: Column) -> str:
    """``mean ± deviation [worst]``; only the value for one seed."""
    _, value, less_is_better, form = column
    values = [found for row in rows if (found := value(row)) is not None]
    if not values:
        return "-"
    if len(values) == 1:
        return format(values[0], form)
    worst = max(values) if less_is_better else min(values)
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{mean:{form}} ± {deviation:{form}} [{worst:{form}}]"


def _relearning(rows: Sequence[Row]) -> list[str]:
    """Curves of relearning, a line each."""
    lines = []
    for row in rows:
        if "relearning" in row:
            curve = ", ".join(
                f"{point['step']}: {point['exact']:.2f} ({point['given']:.2f})"
                for point in row["relearning"]
            )
            lines.append(f"\nRelearning, {row['variant']}, {row['asked']} units, greedy (5 given) ")
            lines[-1] += f"after so many steps on other people: {curve}"
    return lines


if __name__ == "__main__":
    documents = [json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]
    print(markdown(documents))
