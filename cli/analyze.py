"""``neuropatch analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .output import Output, print_lines, print_table

if TYPE_CHECKING:
    from neuropatch.analysis.analysis import Analysis
    from neuropatch.analysis.distribution import Distribution, Series
    from neuropatch.analysis.leakage import Leakage
    from neuropatch.analysis.similarity import Similarity

EPILOG = options.examples(
    "neuropatch analyze email.safetensors phone.safetensors -o figures",
    "neuropatch analyze lpnl.safetensors --results results.json --results points.csv -o figures",
    "neuropatch analyze user/patch user/other-patch --by method --json",
)

MOST_COLUMNS = 8
MOST_PAIRS = 20


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("analyze", epilog=EPILOG)(analyze)


def analyze(
    patches: options.PatchesArgument,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            help="Leakage to draw against the number of neurons: a file that evaluate -o wrote, or "
            "points as JSON or CSV; repeat.",
            metavar="FILE",
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="What patches are grouped by; auto: by category or data set where all record it.",
            metavar="auto|category|dataset|method|patch",
        ),
    ] = "auto",
    metric: Annotated[
        str | None,
        typer.Option(
            help="Metric to take of evaluations; the first one of leakage if not given.",
            metavar="NAME",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for figures (SVG, PNG) and numbers (JSON, CSV)."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of an earlier analysis.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show where patches have their neurons, and which they share.

    Distribution over layers and over components, similarity of the sets of neurons, and leakage
    against the number of neurons, as tables, figures and numbers.
    """
    out = Output(json, quiet)
    from neuropatch.analysis.analysis import analyze_files
    from neuropatch.analysis.output import can_draw, check_folder, files_of, write_folder

    if output is not None:
        check_folder(output, overwrite=overwrite)
    found = analyze_files(patches, by=by, results=results or (), metric=metric)
    for sentence in found.notes:
        out.note(sentence)
    document = found.to_json()
    if output is None:
        out.result(document, lambda: _print(found))
        return
    if not can_draw():
        out.warn("no figures without matplotlib: pip install 'neuropatch[plots]'")
    files = files_of(found)
    write_folder(output, files, overwrite=overwrite)
    document |= {"output": str(output), "files": list(files)}

    def show() -> None:
        _print(found)
        print_lines([f"wrote {len(files)} files to {output}"])

    out.result(document, show, essence=str(output))


def _print(found: Analysis) -> None:
    print_table(
        ("patch", "group", "MLP units", "output neurons", "weights"),
        [
            (one.name, one.group, *(f"{count:,}" for count in one.counts.values()))
            for one in found.patches
        ],
    )
    _print_distribution(found.layers, "layer", found.counted)
    _print_distribution(found.components, "component", found.counted)
    if found.similarity is not None:
        _print_similarity(found.similarity)
    if found.leakage is not None:
        _print_leakage(found.leakage)


def _print_distribution(distribution: Distribution, place: str, counted: str) -> None:
    groups, every = distribution.of("group"), distribution.of("all")
    shown = [*(groups if len(groups) <= MOST_COLUMNS else ()), *every]
    rows = [
        (name, *(_share(series, number) for series in shown))
        for number, name in enumerate(distribution.places)
        if place == "layer" or any(series.count[number] for series in groups)
    ]
    rows.append((f"all {counted}", *(f"{series.count.sum():,.6g}" for series in shown)))
    print_table((place, *(_heading(series) for series in shown)), rows)


def _heading(series: Series) -> str:
    if series.level == "all":
        return f"mean of {series.members} groups"
    return series.name if series.members == 1 else f"{series.name} ({series.members} patches)"


def _share(series: Series, place: int) -> str:
    spread = "" if series.share_std is None else f" ± {100 * series.share_std[place]:.1f}"
    return f"{100 * series.share[place]:.1f}{spread} %" if series.count[place] else "-"


def _print_similarity(similarity: Similarity) -> None:
    names = similarity.patches.names
    pairs = sorted(similarity.pairs, key=lambda pair: (pair.jaccard is None, -(pair.jaccard or 0)))
    print_table(
        ("pair", "shared", "by chance", "Jaccard", "overlap"),
        [
            (
                f"{names[pair.first]}, {names[pair.second]}",
                f"{pair.shared:,}",
                "-" if pair.jaccard is None else f"{pair.by_chance:,.3g}",
                "-" if pair.jaccard is None else f"{pair.jaccard:.3f}",
                "-" if pair.overlap is None else f"{pair.overlap:.3f}",
            )
            for pair in pairs[:MOST_PAIRS]
        ],
    )
    if len(pairs) > MOST_PAIRS:
        print_lines([f"the {MOST_PAIRS} most similar of {len(pairs)} pairs"])


def _print_leakage(leakage: Leakage) -> None:
    counted = "neurons" if leakage.of_neurons else "edits"
    unit = f" ({leakage.metric.unit})" if leakage.metric.unit else ""
    print_table(
        ("series", counted, leakage.metric.name + unit, "from", "to", "repeats"),
        [
            (
                name,
                f"{point.neurons:,}",
                f"{point.leakage:.4g}",
                "" if point.low is None else f"{point.low:.4g}",
                "" if point.high is None else f"{point.high:.4g}",
                f"{point.repeats}",
            )
            for name, curve in leakage.curves.items()
            for point in curve
        ],
    )
