"""The figures of an analysis, as SVG and PNG files in memory; equal analyses give equal bytes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from neuropatch.analysis.analysis import Analysis
from neuropatch.analysis.distribution import Distribution, Series
from neuropatch.analysis.drawing import (
    GREY,
    HATCHES,
    STYLE,
    Drawing,
    add_legend,
    colour,
    line_style,
    new_axes,
    png,
    svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from neuropatch.analysis.similarity import Matrix

MOST_SERIES = 10
"""More groups than this cannot be told apart: their mean is drawn, and they faintly behind it."""

MOST_NUMBERS = 12
"""Larger heat maps have no room for numbers."""


def render(analysis: Analysis) -> dict[str, bytes]:
    """Draw every figure that there are numbers for.

    Returns:
        SVG and PNG files by file name.
    """
    files = {}
    # The user's own settings of matplotlib must not change the bytes.
    with rc_context(), warnings.catch_warnings():
        rcdefaults()
        rcParams.update(STYLE)
        # A name in a script that the font lacks is drawn as boxes; the tables have it.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        for name in analysis.tables():
            drawing = _FIGURES[name](analysis)
            # Laid out once: what follows draws it in two formats.
            drawing.figure.draw_without_rendering()
            drawing.figure.set_layout_engine("none")
            files[f"{name}.svg"] = svg(drawing)
            files[f"{name}.png"] = png(drawing)
    return files


def _groups(distribution: Distribution) -> tuple[tuple[Series, ...], Series | None]:
    """The groups that are drawn by name, and the mean over all groups."""
    groups, every = distribution.of("group"), distribution.of("all")
    mean = every[0] if every else None
    return (groups if len(groups) <= MOST_SERIES else ()), mean


def _label(series: Series) -> str:
    if series.level == "all":
        return f"mean of {series.members} groups ± std"
    return series.name + (f" (mean of {series.members} ± std)" if series.members > 1 else "")


def _peaks(series: Sequence[Series], places: Sequence[str]) -> str:
    found = []
    for one in series:
        top = int(np.argmax(one.share))
        found.append(f"{one.name}: {places[top]} ({one.share[top]:.1%})")
    return "Largest share of each: " + "; ".join(found) + "."


def _layers(analysis: Analysis) -> Drawing:
    distribution = analysis.layers
    groups, mean = _groups(distribution)
    figure, axes = new_axes()
    x = np.arange(len(distribution.places))
    handles: list[Any] = []
    if mean is not None and mean.share_std is not None:
        axes.fill_between(
            x,
            100 * np.maximum(mean.share - mean.share_std, 0),
            100 * (mean.share + mean.share_std),
            color="#bdbdbd",
            alpha=0.5,
            linewidth=0,
        )
        for series in () if groups else distribution.of("group"):
            axes.plot(x, 100 * series.share, color="#9e9e9e", linewidth=0.6)
        handles += axes.plot(x, 100 * mean.share, color=GREY, linewidth=3, alpha=0.8)
    for number, series in enumerate(groups):
        # Beside each other, so that their bars can be told apart.
        aside = 0.08 * (number - (len(groups) - 1) / 2)
        bars = axes.errorbar(
            x + aside,
            100 * series.share,
            None if series.share_std is None else _downwards(series.share, series.share_std),
            **line_style(number),
        )
        handles.append(bars)
    _layer_ticks(axes, distribution.places)
    axes.set_ylabel(f"share of a patch's {analysis.counted} (%)")
    axes.set_ylim(bottom=0)
    axes.set_title("Distribution over layers")
    drawn = [*([] if mean is None else [mean]), *groups]
    add_legend(figure, handles, [_label(series) for series in drawn])
    description = (
        f"Line chart: share of a patch's {analysis.counted} in each of {len(x)} layers. "
        + _peaks(drawn, distribution.places)
    )
    return Drawing(figure, "Distribution over layers", description)


def _downwards(share: Any, std: Any) -> Any:
    """Error bars in per cent that end at 0, since no share lies below it."""
    return 100 * np.stack([np.minimum(std, share), std])


def _layer_ticks(axes: Axes, places: Sequence[str]) -> None:
    stacks = {place.partition(".")[0] for place in places}
    axes.set_xlim(-0.6, len(places) - 0.4)
    if len(stacks) == 1:
        axes.set_xlabel("layer (number, from the input)")
        axes.xaxis.set_major_locator(MaxNLocator(16, integer=True, steps=[1, 2, 5, 10]))
        return
    axes.set_xlabel("layer (stack and number, from the input)")
    step = math.ceil(len(places) / 16)
    axes.set_xticks(
        range(0, len(places), step), [place.replace(".", " ") for place in places[::step]]
    )
    axes.tick_params(axis="x", rotation=60)


def _components(analysis: Analysis) -> Drawing:
    distribution = analysis.components
    groups, mean = _groups(distribution)
    drawn = [*groups, *([] if mean is None else [mean])]
    figure, axes = new_axes()
    x = np.arange(len(distribution.places))
    width = 0.84 / len(drawn)
    handles: list[Any] = []
    for number, series in enumerate(drawn):
        is_mean = series.level == "all"
        handles.append(
            axes.bar(
                x + (number - (len(drawn) - 1) / 2) * width,
                100 * series.share,
                width,
                yerr=None
                if series.share_std is None
                else _downwards(series.share, series.share_std),
                color="#bdbdbd" if is_mean else colour(number),
                hatch="" if is_mean else HATCHES[number % len(HATCHES)],
                edgecolor="white" if series.level == "group" else GREY,
                linewidth=0.5,
                error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": "#262626"},
            )
        )
    axes.set_xticks(x, distribution.places)
    axes.set_xlabel("component")
    axes.set_ylabel(f"share of a patch's {analysis.counted} (%)")
    axes.set_ylim(bottom=0)
    axes.set_title("Distribution over components")
    add_legend(figure, handles, [_label(series) for series in drawn])
    description = (
        f"Bar chart: share of a patch's {analysis.counted} in each component of the blocks. "
        + _peaks(drawn, distribution.places)
    )
    return Drawing(figure, "Distribution over components", description)


def _similarity(analysis: Analysis) -> Drawing:
    assert analysis.similarity is not None  # what the caller knows from the tables
    matrix = analysis.similarity.patches
    groups = [patch.group for patch in analysis.patches]
    order = np.argsort([groups.index(group) for group in groups], kind="stable")
    one_each = len(set(groups)) == len(groups)
    labels = [groups[i] if one_each else matrix.names[i] for i in order]
    labels = [label if len(label) <= 28 else f"{label[:27]}…" for label in labels]
    side = min(max(0.42 * len(order), 1.8), 14)
    room = 0.09 * max(map(len, labels))
    figure = Figure(figsize=(2 * side + room + 1.6, side + 0.7 * room + 0.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    parts = (("Jaccard index", matrix.jaccard), ("overlap coefficient", matrix.overlap))
    ends = [i for i in range(1, len(order)) if groups[order[i]] != groups[order[i - 1]]]
    for axes, (name, values) in zip(panels, parts, strict=True):
        # Light where there is nothing, which spares ink.
        image = axes.imshow(values[np.ix_(order, order)], cmap="Blues", vmin=0, vmax=1)
        _cells(axes, values[np.ix_(order, order)], labels)
        for end in () if one_each else ends:
            axes.axhline(end - 0.5, color=GREY, linewidth=0.8)
            axes.axvline(end - 0.5, color=GREY, linewidth=0.8)
        axes.set_title(name)
    bar = figure.colorbar(image, ax=list(panels), fraction=0.04, pad=0.02)
    bar.set_label("similarity")
    figure.suptitle(f"Similarity of the sets of {analysis.counted}")
    return Drawing(
        figure,
        f"Similarity of the sets of {analysis.counted}",
        "Two heat maps, Jaccard index and overlap coefficient, of every pair of "
        f"{', '.join(labels)}. {_most_similar(matrix)}",
    )


def _cells(axes: Axes, values: Any, labels: Sequence[str]) -> None:
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.set_facecolor("#e0e0e0")
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, labels)
    axes.tick_params(length=0)
    if len(labels) > MOST_NUMBERS:
        return
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        ink = "white" if value > 0.55 else "black"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8.5)


def _most_similar(matrix: Matrix) -> str:
    values = np.where(np.eye(len(matrix.names), dtype=bool), np.nan, matrix.jaccard)
    if np.isnan(values).all():
        return "No two of them can be compared."
    first, second = np.unravel_index(np.nanargmax(values), values.shape)
    return (
        f"Most similar: {matrix.names[first]} and {matrix.names[second]}, with a Jaccard index of "
        f"{values[first, second]:.2f}."
    )


def _leakage(analysis: Analysis) -> Drawing:
    leakage = analysis.leakage
    assert leakage is not None  # what the caller knows from the tables
    figure, axes = new_axes()
    handles: list[Any] = []
    for number, curve in enumerate(leakage.curves.values()):
        values = np.array([point.leakage for point in curve])
        # A percentile interval need not hold its value; no bar can have a negative length.
        ends = [
            [max(point.leakage - point.low, 0) if point.low is not None else 0 for point in curve],
            [
                max(point.high - point.leakage, 0) if point.high is not None else 0
                for point in curve
            ],
        ]
        handles.append(
            axes.errorbar(
                [point.neurons for point in curve],
                values,
                ends if np.any(ends) else None,
                **line_style(number),
            )
        )
    counts = {point.neurons for curve in leakage.curves.values() for point in curve}
    _neuron_axis(axes, counts)
    what = "neurons" if leakage.of_neurons else "neurons or weights"
    axes.set_xlabel(f"edited {what} (number)")
    unit = f" ({leakage.metric.unit})" if leakage.metric.unit else ""
    axes.set_ylabel(leakage.metric.name + unit)
    lowest = min(point.leakage for curve in leakage.curves.values() for point in curve)
    if lowest >= 0:
        axes.set_ylim(bottom=0)
    title = f"{leakage.metric.name} against the number of edited {what}"
    title = title[0].upper() + title[1:]
    axes.set_title(title)
    add_legend(figure, handles, list(leakage.curves))
    ends_of = "; ".join(
        f"{name}: {curve[0].leakage:.3g} at {curve[0].neurons:,}, {curve[-1].leakage:.3g} at "
        f"{curve[-1].neurons:,}"
        for name, curve in leakage.curves.items()
    )
    return Drawing(figure, title, f"Line chart. First and last point of each curve: {ends_of}.")


def _neuron_axis(axes: Axes, counts: set[int]) -> None:
    """Numbers of neurons, on a logarithmic axis with a 0 where they span a factor over 20."""
    positive = [count for count in counts if count > 0]
    if not positive or max(positive) <= 20 * min(positive):
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    else:
        # symlog is linear from 0 to its threshold, and so has a place for 0.
        axes.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
        least, most = min(positive), max(positive)
        steps = (1, 2, 5) if most < 1000 * least else (1,)
        ticks = [step * 10**decade for decade in range(16) for step in steps]
        axes.set_xticks([*([0] if 0 in counts else []), *(n for n in ticks if least <= n <= most)])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(-0.15 * least if 0 in counts else least / 1.3, most * 1.3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


_FIGURES: Mapping[str, Callable[[Analysis], Drawing]] = {
    "layers": _layers,
    "components": _components,
    "similarity": _similarity,
    "leakage": _leakage,
}
