"""``neuropatch plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .output import Output, print_lines, print_table

if TYPE_CHECKING:
    from neuropatch.planning.ways import RunPlan, Way

EPILOG = options.examples(
    "neuropatch plan my-model",
    "neuropatch plan user/model --max-memory 24GB --dtype bfloat16 --p 1e-6 --q 1e-6",
    "neuropatch plan config.json --processes 8 --samples 1000 --tokens 512 --flops 2e13",
)


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("plan", epilog=EPILOG)(plan)


def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="Model: a local folder, a config.json, or user/name[@revision] on the Hub.",
            metavar="MODEL",
        ),
    ],
    method: options.Method = "spin",
    datasets: Annotated[
        int | None,
        typer.Option(
            help="Number of data sets, the general one included; the fewest that the method "
            "works on if not given.",
            min=1,
            metavar="N",
        ),
    ] = None,
    samples: options.Samples = 128,
    tokens: Annotated[int, typer.Option(help="Tokens of each sample.", min=2, metavar="N")] = 128,
    p: options.Protected = None,
    q: options.Taken = None,
    target: options.Target = None,
    scope: options.Scope = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    batch_tokens: options.BatchTokens = 1024,
    memory: options.MemoryMode = "auto",
    max_memory: options.MaxMemory = None,
    processes: Annotated[
        int,
        typer.Option(
            help="Processes that share the work; --max-memory is that of each.",
            min=1,
            metavar="N",
        ),
    ] = 1,
    flops: Annotated[
        float | None,
        typer.Option(
            help="Floating-point operations in a second, for the times; measured here if not "
            "given.",
            min=1,
            metavar="RATE",
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what memory and time a localisation will need.

    For every way to keep the scores, from the model's config and the headers of its files: no
    weights are read or downloaded. Tells which way localize would take, and why.
    """
    out = Output(json, quiet)
    from neuropatch.attribution.memory import parse_size
    from neuropatch.methods._base import Limits
    from neuropatch.planning.ways import PlanOptions, plan_run

    found = plan_run(
        model,
        PlanOptions(
            method=method,
            config={"p": p, "q": q, "target": target, "scope": scope},
            datasets=datasets,
            samples=samples,
            tokens=tokens,
            dtype=dtype,
            device=device,
            limits=Limits(
                batch_tokens=batch_tokens,
                memory=None if max_memory is None else parse_size(max_memory),
                mode=memory,
            ),
            processes=processes,
            flops=flops,
        ),
    )
    out.result(found.to_json(), lambda: _print(found), essence=found.chosen or "none")


def _print(plan: RunPlan) -> None:
    from neuropatch.attribution.memory import format_size

    signature = plan.outline.layout.signature
    print_lines(
        [
            f"model    {plan.outline.name} ({signature.model_type}), {plan.outline.numel:,} "
            f"parameters in {plan.dtype}",
            f"scores   {plan.matrices:,} matrices, {plan.scored:,} weights",
            f"data     {plan.work.tokens:,} tokens in samples of {plan.work.length + 1}, all "
            "predicted",
        ]
    )
    columns = (
        "way",
        "weights",
        "scores",
        "activations",
        "program",
        "peak",
        "passes",
        "time",
        "fits",
    )
    print_table(columns, [_row(way, plan) for way in plan.ways])
    limit = format_size(plan.budget)
    share = "each process" if plan.ways[0].processes > 1 else "the run"
    lines = [f"memory   {limit} for {share}"]
    if plan.chosen is None:
        lines.append(f"chosen   none: {plan.reason}")
    else:
        lines.append(f"chosen   {plan.chosen}, {plan.reason}")
    print_lines([*lines, f"time     {_rate(plan)}", *_notes(plan)])


def _row(way: Way, plan: RunPlan) -> tuple[str, ...]:
    from neuropatch.attribution.memory import format_size
    from neuropatch.attribution.plan import PROCESS_BYTES

    one = way.plan
    most = "<= " if one.candidates else ""
    fits = "yes" if one.fits else "no"
    if way.obstacle is not None:
        fits += " *"
    elif way.split:
        fits += ", with --tp"
    elif one.mode == plan.chosen:
        fits += ", chosen"
    sizes = (one.weights, one.scores, one.activations, PROCESS_BYTES, one.total)
    time = f"{most}{_duration(way.seconds)}"
    if way.read:
        time += f", {format_size(way.read)} read"
    return (way.name, *map(format_size, sizes), f"{most}{way.passes}", time, fits)


def _rate(plan: RunPlan) -> str:
    products = f"an estimate: products at {_per_second(plan.rates.flops, 'FLOP')}"
    if plan.rates.bytes is None:
        return f"{products}, as given, and no time for anything else"
    return (
        f"{products}, everything else at {_per_second(plan.rates.bytes, 'B')}, as measured here "
        "just now"
    )


def _per_second(rate: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G", "T"):
        if rate < 999.5:
            return f"{rate:.3g} {prefix}{unit}/s"
        rate /= 1000
    return f"{rate:.3g} P{unit}/s"


def _notes(plan: RunPlan) -> list[str]:
    ways = [way for way in plan.ways if way.obstacle is not None]
    return [f"*        {way.name}: not by localize, because {way.obstacle}" for way in ways]


def _duration(seconds: float) -> str:
    """A time for people: ``45 s``, ``12 min``, ``3.4 h``, ``12 days``."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86400:.3g} days"
