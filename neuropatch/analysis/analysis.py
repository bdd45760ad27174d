"""Everything that is found about some patches, as one document and as tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuropatch._version import __version__
from neuropatch.analysis.distribution import Distribution, over_components, over_layers
from neuropatch.analysis.leakage import Leakage, Measurements, curves
from neuropatch.analysis.names import Grouping, check_grouping, group_names, patch_names, shown
from neuropatch.analysis.neurons import Neurons, check_comparable, counted, neurons_of
from neuropatch.analysis.results import read_points, recorded_points
from neuropatch.analysis.similarity import Similarity, similarity
from neuropatch.patch.patch import NeuronPatch

FORMAT = "neuropatch-analysis"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Analysis:
    """What was found.

    Attributes:
        by: What the patches are grouped by.
        patches: The patches, as sets of neurons.
        layers: Distribution over layers.
        components: Distribution over components.
        similarity: What patches have in common; None for one patch.
        leakage: Leakage against the number of neurons; None without points.
        notes: Sentences for the user.
    """

    by: Grouping
    patches: tuple[Neurons, ...]
    layers: Distribution
    components: Distribution
    similarity: Similarity | None
    leakage: Leakage | None
    notes: tuple[str, ...] = ()

    @property
    def counted(self) -> str:
        """What the numbers are numbers of, such as ``MLP units``."""
        return counted(self.patches)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The plotted numbers as records, by the name of their figure."""
        tables = {
            "layers": self.layers.rows("layer"),
            "components": self.components.rows("component"),
        }
        if self.similarity is not None:
            tables["similarity"] = self.similarity.rows()
        if self.leakage is not None:
            tables["leakage"] = self.leakage.rows()
        return tables

    def to_json(self) -> dict[str, Any]:
        """The analysis as a JSON document."""
        signature = self.patches[0].signature
        leakage = self.leakage
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "neuropatch": __version__,
            "architecture": {
                "model_type": signature.model_type,
                "dimensions": dict(signature.dimensions),
            },
            "by": self.by,
            "counted": self.counted,
            "patches": [
                {"name": one.name, "group": one.group, "total": one.total, **one.counts}
                for one in self.patches
            ],
            "metric": None
            if leakage is None
            else {"name": leakage.metric.name, "unit": leakage.metric.unit},
            **{name: self.tables().get(name) for name in TABLES},
            "notes": list(self.notes),
        }

    def data_files(self) -> dict[str, bytes]:
        """The document and one CSV file for each figure, by file name."""
        document = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        files = {"analysis.json": f"{document}\n".encode()}
        for name, rows in self.tables().items():
            files[f"{name}.csv"] = _csv(rows)
        return files


TABLES: tuple[str, ...] = ("layers", "components", "similarity", "leakage")
"""The figures, and what their tables are called."""


def analyze(
    patches: Mapping[str, NeuronPatch],
    *,
    by: Grouping = "auto",
    measurements: Sequence[Measurements] = (),
    metric: str | None = None,
) -> Analysis:
    """Analyze patches of one architecture.

    Args:
        patches: At least one patch, by a name that is fit to be shown.
        by: What to group them by.
        measurements: Points of leakage, beside those that the patches record.
        metric: The metric to take of a patch's recorded evaluation.

    Raises:
        PatchMismatchError: If they are of different architectures.
        SelectionError: If a patch edits nothing.
        DataError: If points are of different metrics, or those of a patch are damaged.
    """
    metadata = [patch.metadata for patch in patches.values()]
    groups = group_names(metadata, list(patches), by)
    found = tuple(
        neurons_of(patch, name=name, group=group)
        for (name, patch), group in zip(patches.items(), groups, strict=True)
    )
    check_comparable(found)
    recorded = [
        points
        for name, patch in patches.items()
        for points in recorded_points(patch.metadata, name, metric)
    ]
    return Analysis(
        by=by,
        patches=found,
        layers=over_layers(found),
        components=over_components(found),
        similarity=similarity(found) if len(found) > 1 else None,
        leakage=curves([*measurements, *recorded]),
        notes=_notes(found, list(patches.values())),
    )


def analyze_files(
    names: Sequence[str],
    *,
    by: str = "auto",
    results: Sequence[Path] = (),
    metric: str | None = None,
) -> Analysis:
    """Read patches and results, and analyze them; see :func:`analyze`.

    Args:
        names: Patches: files, folders or Hub names.
        by: What to group them by, one of :data:`~neuropatch.analysis.names.Grouping`.
        results: Files of results or points.
        metric: The metric to take of evaluations.

    Raises:
        PatchFormatError: If a patch cannot be read.
        HubError: If it cannot be had from the Hub.
        UsageError: If the grouping is unknown, or a patch is given twice.
        DataError: If results cannot be read.
    """
    grouping = check_grouping(by)
    shown_names = patch_names(names)
    measurements = [read_points(path, metric) for path in results]
    patches = [NeuronPatch.from_pretrained(name) for name in names]
    return analyze(
        dict(zip(shown_names, patches, strict=True)),
        by=grouping,
        measurements=measurements,
        metric=metric,
    )


def _notes(found: Sequence[Neurons], patches: Sequence[NeuronPatch]) -> tuple[str, ...]:
    notes = []
    bases = {shown(patch.metadata.base_model.name or "unknown") for patch in patches}
    if len(bases) > 1:
        notes.append(
            f"the patches were made from different models ({', '.join(sorted(bases))}): neurons of "
            "one number need not do the same in each"
        )
    kinds = {frozenset(kind for kind, count in one.counts.items() if count) for one in found}
    if len(kinds) > 1:
        notes.append(
            "the patches edit different kinds of neurons: compare their shares, not their numbers; "
            "patches without a common kind have no similarity"
        )
    if len(found) == 1:
        notes.append("one patch has nothing to be similar to: give several for the heat map")
    return tuple(notes)


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    # A spreadsheet runs a text that begins like a formula; with an apostrophe it shows it.
    starts = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
    return f"'{value}" if starts else value
