"""Exact top weights without score buffers: the certified mode against the full one.

    python benchmarks/certified_topk.py [--model FOLDER] [--data FOLDER] [--samples N]

Both modes find the top weights of the whole model's MLP matrices on one data set; the sets must be
the same. Score memory is what a mode holds beside weights and activations: a float32 for every
weight in the full mode, bounds and candidates in the certified one. The peaks of whole processes,
which hold the weights and a batch's activations too, are measured in processes of their own.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from _harness import (
    Ratio,
    Report,
    environment,
    finish,
    in_child,
    memory_growth,
    parse,
    parser_of,
    take_turns,
)
from _model import DATA, add_options, load_model, read_samples, token_count

from neuropatch.attribution.certified_run import CertifiedRun
from neuropatch.attribution.plan import plan_scores
from neuropatch.attribution.run import TopWeightsRun, Wanted
from neuropatch.attribution.selection import IndexSets
from neuropatch.models.coordinates import parse_target
from neuropatch.models.modules import model_layout

AMOUNTS = (5e-7, 1e-6)
BATCH_TOKENS = 1024
MEMORY, TIME = 0.02, 1.5
"""Bounds: of the certified mode's score memory and time over those of the full mode."""


def make_run(model: Any, samples: Any, mode: str, amount: float) -> TopWeightsRun:
    """A run over one data set, the top weights of the whole model."""
    layout = model_layout(model)
    plan = plan_scores(
        layout,
        layout.matrices(parse_target("mlp")),
        weights=0,
        batch_tokens=BATCH_TOKENS,
        item_size=next(model.parameters()).element_size(),
        budget=1 << 50,
        mode=mode,
        share=amount,
    )
    kind = CertifiedRun if mode == "certified" else TopWeightsRun
    wanted = {"data": Wanted(samples, amount)}
    return kind(model, layout, wanted, scope="model", plan=plan, batch_tokens=BATCH_TOKENS)


def peak(mode: str, amount: float, **given: Any) -> int:
    """Bytes that a run adds to a process that holds the model; called in a child."""
    model_path = given.pop("model")
    options = argparse.Namespace(
        model=model_path and Path(model_path), data=Path(given.pop("data")), **given
    )
    run = make_run(load_model(options), read_samples(options, "privacy")[1], mode, amount)
    with memory_growth() as found:
        run.run()
    return found.growth


class Modes:
    """Both modes on the same samples; keeps what the last run of each found."""

    def __init__(self, model: Any, samples: Any, amount: float) -> None:
        self.model = model
        self.samples = samples
        self.amount = amount
        self.found: dict[str, IndexSets] = {}
        self.bytes: dict[str, int] = {}

    def run(self, mode: str) -> None:
        """Run one mode."""
        run = make_run(self.model, self.samples, mode, self.amount)
        self.found[mode] = run.run()["data"]
        if isinstance(run, CertifiedRun):
            self.bytes[mode] = run.costs["data"].bytes
        else:
            layout = model_layout(self.model)
            shapes = [layout.shape(m) for m in layout.matrices(parse_target("mlp"))]
            self.bytes[mode] = sum(4 * rows * columns for rows, columns in shapes)

    def check(self) -> int:
        """The number of selected weights; ends the script if the sets differ."""
        sets = [
            {matrix: index.tolist() for matrix, index in self.found[mode].items()}
            for mode in ("full", "certified")
        ]
        if sets[0] != sets[1]:
            sys.exit(f"the modes select different weights at q = {self.amount:g}")
        return sum(map(len, sets[0].values()))


def measure(options: argparse.Namespace, report: Report) -> None:
    source, samples = read_samples(options, "privacy")
    report.settings["data"] = f"{source}, {len(samples)} samples, {token_count(samples)} tokens"
    model = load_model(options)
    given = {"model": options.model and str(options.model), "data": str(options.data or DATA)}
    for amount in AMOUNTS:
        modes = Modes(model, samples, amount)
        timings = take_turns(
            {mode: partial(modes.run, mode) for mode in ("full", "certified")}, options.rounds
        )
        selected = modes.check()
        peaks = {
            mode: in_child(
                __file__, "peak", mode=mode, amount=amount, samples=options.samples, **given
            )
            for mode in timings
        }
        memory = modes.bytes["certified"] / modes.bytes["full"]
        slower = timings["certified"].over(timings["full"])
        rows = [
            (mode, timing.cell(1, 2), modes.bytes[mode] / 1e6, peaks[mode] / 1e6)
            for mode, timing in timings.items()
        ]
        columns = ("mode", "seconds (range)", "score MB", "run's peak above the model, MB")
        headline = f"q = {amount:g} of the model, {selected} weights, the same in both modes"
        report.tables.append((headline, columns, rows))
        report.results[f"{amount:g}"] = {
            "selected": selected,
            "seconds": {mode: timing.to_json() for mode, timing in timings.items()},
            "score_bytes": modes.bytes,
            "peak_bytes": peaks,
        }
        report.ratios += [
            Ratio(4, f"score memory over full, q = {amount:g}", MEMORY, memory, True),
            Ratio(4, f"time over full, q = {amount:g}", TIME, slower, True),
        ]


def main() -> None:
    parser = parser_of(__doc__)
    add_options(parser, samples=64)
    options = parse(parser)
    if options.quick:
        options.samples = min(options.samples, 12)
    machine = environment()
    report = Report("Certified top weights of all MLP matrices")
    measure(options, report)
    finish(report, options, machine)


if __name__ == "__main__":
    main()
