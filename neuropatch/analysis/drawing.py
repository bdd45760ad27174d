"""How figures look, and how they become files.

Colours are those of Okabe and Ito, which people of every colour vision tell apart; markers, lines
and hatches differ as well, for prints without colour.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
LINES = ("-", "--", "-.", ":")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++", "ooo", "|||", "OO")

GREY = "#595959"

STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "legend.frameon": False,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    # Names are texts: a dollar sign in one begins no formula.
    "text.parse_math": False,
    # Text stays text, so that it can be searched and read aloud.
    "svg.fonttype": "none",
    "svg.hashsalt": "neuropatch",
}


@dataclass(frozen=True)
class Drawing:
    """A figure and what it shows, in words.

    Attributes:
        figure: The figure.
        title: Its title.
        description: What can be seen in it, for those who cannot see it.
    """

    figure: Figure
    title: str
    description: str


def svg(drawing: Drawing) -> bytes:
    """A drawing as an SVG file, with its title and description."""
    buffer = io.BytesIO()
    metadata = {"Title": drawing.title, "Date": None, "Creator": None}
    drawing.figure.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue().decode()
    # matplotlib writes a title, and no description; screen readers look for both.
    text = text.replace("</title>", f"</title>\n <desc>{escape(drawing.description)}</desc>", 1)
    return text.replace("<svg ", '<svg role="img" ', 1).encode()


def png(drawing: Drawing) -> bytes:
    """A drawing as a PNG file, with its title and description among the metadata."""
    buffer = io.BytesIO()
    metadata = {"Title": drawing.title, "Description": drawing.description, "Software": None}
    drawing.figure.savefig(buffer, format="png", metadata=metadata)
    return buffer.getvalue()


def colour(number: int) -> str:
    """The colour of a series by its number."""
    return COLOURS[number % len(COLOURS)]


def line_style(number: int) -> dict[str, Any]:
    """How the curve of a number is drawn, its error bars included."""
    return {
        "color": colour(number),
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
        "linewidth": 1.3,
        "elinewidth": 0.8,
        "capsize": 1.5,
    }


def add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend below the axes; matplotlib leaves out labels that begin with an underscore."""
    longest = max(map(len, labels))
    legend = figure.legend(
        handles,
        [f"series {number}" for number in range(len(labels))],
        loc="outside lower center",
        ncols=1 if longest > 40 else 2 if longest > 18 else 4,
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def new_axes() -> tuple[Figure, Axes]:
    """A figure of the usual size, and its only axes."""
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    return figure, figure.add_subplot()
