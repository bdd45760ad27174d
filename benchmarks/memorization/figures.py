"""The four figures of the LPNL paper (arXiv 2405.10989), of what a run has found.

Two folders: ``methods``, the patches of category erasure by method, with the leakage of all numbers
of units that were measured; and ``categories``, one method's patches for each category of personal
data, over all seeds. Both hold SVG and PNG files, and the plotted numbers as JSON and CSV.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corpus import write_records
from people import CATEGORIES
from tasks import CATEGORY, Task
from variants import Variant, find_patch

from neuropatch.analysis.analysis import Analysis, analyze_files
from neuropatch.analysis.output import files_of, write_folder

LEAKS = ("shown", "unshown")
"""Groups of category erasure whose secrets are to be gone; the worse one is drawn."""


def write_analysis(analysis: Analysis, folder: Path) -> None:
    """Write figures and numbers, over those of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder, files_of(analysis), overwrite=True)


def draw_methods(documents: Sequence[Mapping[str, Any]], paths: Sequence[Path], to: Path) -> bool:
    """Draw category erasure by method; return whether there was anything to draw.

    Args:
        documents: Results, one of each seed.
        paths: The files that they were read from.
        to: The folder of the figures.
    """
    points = to.with_suffix(".csv")
    patches: dict[int, list[str]] = {}
    with points.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("series", "neurons", "leakage"), lineterminator="\n")
        writer.writeheader()
        for document, path in zip(documents, paths, strict=True):
            rows = [row for row in document["rows"] if row["task"] == CATEGORY]
            base = [_leakage(row) for row in rows if row["variant"] == "memorised"]
            localized = [row for row in rows if "localization" in row]
            for name in dict.fromkeys(row["variant"] for row in localized):
                writer.writerows({"series": name, "neurons": 0, "leakage": one} for one in base)
            for row in localized:
                leakage = _leakage(row)
                writer.writerow(
                    {"series": row["variant"], "neurons": row["asked"], "leakage": leakage}
                )
                # Of what trains weights, the neurons are not counted but the weights.
                if row["localization"]["units"]:
                    name = row["variant"].replace("/", "_")
                    patch = path.with_suffix("") / f"{CATEGORY}.{name}.{row['asked']}.safetensors"
                    patches.setdefault(row["asked"], []).append(str(patch))
    if not patches:
        return False
    most = max(patches.values(), key=len)
    write_analysis(analyze_files(most, by="method", results=[points]), to)
    return True


def _leakage(row: Mapping[str, Any]) -> float:
    groups = row["measured"]["groups"]
    return max(float(groups[name]["exact"]) for name in LEAKS if name in groups)


def find_categories(
    folder: Path,
    task: Task,
    files: Mapping[str, str],
    variant: Variant,
    units: int,
    scratch: Path,
    *,
    seed: int,
) -> list[str]:
    """Find a patch for each category of personal data; what is there already is kept.

    The records of all other categories, and the public facts, are what is to stay.

    Args:
        folder: The memorised model.
        task: Category erasure; all records that it shows or keeps of people are used.
        files: The task's files of data.
        variant: What finds the patches.
        units: How many units each patch edits.
        scratch: Folder for them.
        seed: Seed of the localisation.
    """
    records = (*task.forget, *task.retain)
    found = []
    for category in dict.fromkeys(one.category for one in records if one.category in CATEGORIES):
        path = scratch / f"{category}.{variant.name.replace('/', '_')}.{units}.safetensors"
        if not path.is_file():
            own = {kind: scratch / f"{category}.{kind}.jsonl" for kind in ("pii", "retain")}
            write_records(own["pii"], [one for one in records if one.category == category])
            write_records(own["retain"], [one for one in records if one.category != category])
            outcome = find_patch(
                folder,
                variant,
                {"max_neurons": units},
                {**files, **{kind: str(file) for kind, file in own.items()}},
                path,
                seed=seed,
            )
            if "error" in outcome:
                print(f"{variant.name} on {category}: {outcome['error']}", file=sys.stderr)
                continue
        found.append(str(path))
    return found


def draw_categories(patches: Sequence[str], to: Path) -> None:
    """Draw the patches of categories."""
    write_analysis(analyze_files(patches, by="category"), to)
