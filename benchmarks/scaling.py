"""Time and memory of a SPIN localisation against layers, width, samples and tokens.

    python benchmarks/scaling.py [--figure FILE.svg] [--json FILE]

Models of Llama's architecture with random weights, made from configs. One thing grows at a time:
the layers, the hidden size (with the MLP's, so that parameters grow with its square: the fit is
against parameters), the samples of a data set, or the tokens of each. All models are timed in turns
in one process; the peak of each comes from a process of its own, and is what it holds beyond Python
and its libraries: weights, scores and a batch. A straight line is fitted by least squares.

Memory does not grow with samples, nor with their tokens once they fill a batch: there the line is
flat, and its growth from the first point to the last is what counts.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _harness import (
    Report,
    environment,
    finish,
    in_child,
    memory_growth,
    parse,
    parser_of,
    take_turns,
)

VOCABULARY = 1024
HEAD = 64


@dataclass(frozen=True)
class Point:
    """A model and its data."""

    layers: int = 4
    hidden: int = 256
    samples: int = 32
    tokens: int = 129


AXES: dict[str, tuple[int, ...]] = {
    "layers": (2, 4, 6, 8),
    "hidden": (128, 192, 256, 320),
    "samples": (16, 32, 48, 64),
    "tokens": (65, 129, 193, 257),
}
QUICK: dict[str, tuple[int, ...]] = {
    "layers": (1, 2, 3, 4),
    "hidden": (64, 128, 192, 256),
    "samples": (2, 4, 6, 8),
    "tokens": (9, 17, 25, 33),
}
LABELS = {
    "layers": "layers",
    "hidden": "million parameters",
    "samples": "samples",
    "tokens": "tokens of a sample",
}


def make_run(point: Point) -> Any:
    """A scoring run over one data set of random tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from neuropatch.attribution.plan import plan_scores
    from neuropatch.attribution.run import TopWeightsRun, Wanted
    from neuropatch.data.tokenize import Sample
    from neuropatch.models.coordinates import parse_target
    from neuropatch.models.modules import model_layout

    config = LlamaConfig(
        num_hidden_layers=point.layers,
        hidden_size=point.hidden,
        intermediate_size=3 * point.hidden,
        num_attention_heads=point.hidden // HEAD,
        num_key_value_heads=point.hidden // HEAD,
        vocab_size=VOCABULARY,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    layout = model_layout(model)
    ids = torch.randint(VOCABULARY, (point.samples, point.tokens)).tolist()
    samples = [Sample(row, row_ids, 1) for row, row_ids in enumerate(ids)]
    plan = plan_scores(
        layout,
        layout.matrices(parse_target("mlp")),
        weights=0,
        batch_tokens=1024,
        item_size=4,
        budget=1 << 50,
    )
    wanted = {"data": Wanted(samples, 1e-3)}
    return TopWeightsRun(model, layout, wanted, scope="matrix", plan=plan, batch_tokens=1024)


def peak(**point: int) -> int:
    """Bytes that a model and a run take; called in a child."""
    # What the libraries load when they are first used does not belong to the model.
    make_run(Point(1, HEAD, 1, 8)).run()
    with memory_growth() as found:
        make_run(Point(**point)).run()
    return found.growth


def parameters(point: Point) -> int:
    """Parameters of a model: tables, attention, MLP, norms."""
    block = 4 * point.hidden**2 + 3 * 3 * point.hidden**2 + 2 * point.hidden
    return 2 * VOCABULARY * point.hidden + point.layers * block + point.hidden


def position(axis: str, point: Point) -> float:
    """Where a point lies on an axis."""
    return parameters(point) / 1e6 if axis == "hidden" else float(getattr(point, axis))


def fit(x: list[float], y: list[float]) -> dict[str, float]:
    """The line of least squares: slope, intercept, R^2, and growth from the first x to the last."""
    slope, intercept = np.polyfit(x, y, 1)
    values = np.array(y)
    rest = values - (slope * np.array(x) + intercept)
    spread = ((values - values.mean()) ** 2).sum()
    first = slope * x[0] + intercept
    return {
        "slope": float(slope),
        "intercept": float(intercept),
        "r2": float(1 - (rest**2).sum() / spread) if spread else 1.0,
        "growth": float(slope * (x[-1] - x[0]) / first),
    }


def draw(lines: dict[str, dict[str, Any]], path: Path) -> None:
    """Measured points and fitted lines, a panel for each axis and measure."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from neuropatch.analysis.drawing import COLOURS, GREY, STYLE, Drawing, png, svg

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 5), layout="constrained")
        panels = figure.subplots(2, len(lines))
        for column, (axis, found) in enumerate(lines.items()):
            for row, (measure, unit) in enumerate((("seconds", "seconds"), ("memory", "MB"))):
                panel = panels[row][column]
                x, line = np.array(found["x"]), found["fits"][measure]
                panel.plot(x, line["slope"] * x + line["intercept"], color=GREY, linewidth=1)
                panel.plot(x, found[measure], "o", color=COLOURS[row])
                flat = abs(line["growth"]) < 0.1
                title = f"{line['growth']:+.1%}" if flat else f"R² = {line['r2']:.4f}"
                panel.set_title(title, fontsize=9)
                panel.set_ylim(0, 1.1 * max(found[measure]))
                if row:
                    panel.set_xlabel(LABELS[axis])
                if not column:
                    panel.set_ylabel(unit)
        words = [
            f"{LABELS[axis]}: R² {found['fits']['seconds']['r2']:.4f} of time, "
            f"{found['fits']['memory']['growth']:+.0%} memory"
            for axis, found in lines.items()
        ]
        title = "Time and memory of a localisation"
        drawing = Drawing(figure, title, "; ".join(words))
        path.write_bytes((png if path.suffix == ".png" else svg)(drawing))


def measure(options: argparse.Namespace, report: Report) -> None:
    """Time and memory of all points, and the lines through those of each axis."""
    axes = QUICK if options.quick else AXES
    base = Point(**{axis: values[1] for axis, values in axes.items()})
    points = {
        (axis, value): replace(base, **{axis: value})
        for axis, values in axes.items()
        for value in values
    }
    unique = dict.fromkeys(points.values())
    peaks = {point: in_child(__file__, "peak", **asdict(point)) for point in unique}
    runs = {str(point): make_run(point).run for point in unique}
    timings = take_turns({name: partial(run) for name, run in runs.items()}, options.rounds)
    lines: dict[str, dict[str, Any]] = {}
    rows = []
    for axis, values in axes.items():
        own = [points[axis, value] for value in values]
        x = [position(axis, point) for point in own]
        seconds = [timings[str(point)].median for point in own]
        memory = [peaks[point] / 1e6 for point in own]
        fits = {"seconds": fit(x, seconds), "memory": fit(x, memory)}
        lines[axis] = {"x": x, "seconds": seconds, "memory": memory, "fits": fits}
        rows += [
            (LABELS[axis], name, f"{one['slope']:.3g}", f"{one['r2']:.4f}", f"{one['growth']:+.1%}")
            for name, one in fits.items()
        ]
    columns = ("axis", "measure", "slope", "R²", "growth over the axis")
    report.tables.append(("Straight lines", columns, rows))
    report.settings["base"] = str(base)
    report.results = {
        "lines": lines,
        "points": [
            {**asdict(point), "peak_bytes": peaks[point], **timings[str(point)].to_json()}
            for point in unique
        ],
    }
    if options.figure is not None:
        draw(lines, options.figure)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="*.svg or *.png to draw")
    options = parse(parser)
    machine = environment()
    report = Report("A SPIN localisation against layers, width, samples and tokens")
    measure(options, report)
    finish(report, options, machine)


if __name__ == "__main__":
    main()
