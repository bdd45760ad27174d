"""Leakage against the number of edited neurons: points, and the curves that they make.

Figure 5 of LPNL (arXiv 2405.10989). Where points are read from is in
:mod:`neuropatch.analysis.results`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from neuropatch.analysis.names import shown
from neuropatch.errors import DataError


@dataclass(frozen=True)
class Metric:
    """What the points measure.

    Attributes:
        name: Its name, such as ``extraction``.
        unit: Its unit; empty for a share or a plain number.
    """

    name: str = "leakage"
    unit: str = ""


@dataclass(frozen=True)
class Point:
    """What was measured with some neurons edited.

    Attributes:
        series: The curve that it belongs to, such as a method or a category.
        neurons: Number of edited neurons (or weights); 0 is the base model.
        leakage: The value.
        low: Lower end of its interval, or None.
        high: Upper end, or None.
    """

    series: str
    neurons: int
    leakage: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Measurements:
    """Points of one metric from one place.

    Attributes:
        source: The file or patch, for messages.
        metric: What was measured.
        points: The points.
        of_neurons: Whether neurons were counted for certain; an evaluation counts edits, which
            may be weights.
    """

    source: str
    metric: Metric
    points: tuple[Point, ...]
    of_neurons: bool = True


@dataclass(frozen=True)
class CurvePoint:
    """All points of one curve at one number of neurons.

    Attributes:
        neurons: The number.
        leakage: Mean of the values.
        low: Smallest value, or for one point the lower end of its interval; None without one.
        high: Largest value, likewise.
        repeats: Number of points.
    """

    neurons: int
    leakage: float
    low: float | None
    high: float | None
    repeats: int


@dataclass(frozen=True)
class Leakage:
    """Curves of one metric.

    Attributes:
        metric: What was measured.
        curves: Points by rising number of neurons, by the curve's name, in order of appearance.
        of_neurons: See :class:`Measurements`.
    """

    metric: Metric
    curves: dict[str, tuple[CurvePoint, ...]]
    of_neurons: bool

    def rows(self) -> list[dict[str, Any]]:
        """The points as records."""
        return [
            {
                "series": name,
                "neurons": point.neurons,
                "leakage": point.leakage,
                "low": point.low,
                "high": point.high,
                "repeats": point.repeats,
            }
            for name, curve in self.curves.items()
            for point in curve
        ]


def curves(measurements: Sequence[Measurements]) -> Leakage | None:
    """Join measurements into curves; None if there are none.

    Raises:
        DataError: If they are of different metrics.
    """
    if not measurements:
        return None
    first = measurements[0]
    for other in measurements[1:]:
        if other.metric != first.metric:
            raise DataError(
                f"{first.source} measures {_words(first.metric)} and {other.source} "
                f"{_words(other.metric)}",
                hint="draw one metric at a time, with --metric NAME for results of evaluate",
            )
    points = [point for one in measurements for point in one.points]
    names = dict.fromkeys(shown(point.series) for point in points)
    return Leakage(
        first.metric,
        {name: _curve([p for p in points if shown(p.series) == name]) for name in names},
        all(one.of_neurons for one in measurements),
    )


def _words(metric: Metric) -> str:
    return shown(f"{metric.name} in {metric.unit}" if metric.unit else metric.name)


def _curve(points: Sequence[Point]) -> tuple[CurvePoint, ...]:
    found = []
    # Several files measure the same base model: an equal point is the same point, not a repeat.
    different = sorted(dict.fromkeys(points), key=lambda point: point.neurons)
    for neurons, group in groupby(different, key=lambda point: point.neurons):
        same = list(group)
        values = [point.leakage for point in same]
        low, high = same[0].low, same[0].high
        if len(same) > 1:
            low, high = min(values), max(values)
        found.append(CurvePoint(neurons, sum(values) / len(values), low, high, len(same)))
    return tuple(found)
