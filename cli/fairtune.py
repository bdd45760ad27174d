"""``neuropatch fairtune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .output import Output, print_lines, print_table
from .patch_output import check_patch_output

if TYPE_CHECKING:
    from neuropatch.fairness.finetune_result import FairtuneResult
    from neuropatch.fairness.metrics import Inference

EPILOG = options.examples(
    "neuropatch fairtune new --data adult.csv --schema adult --sensitive sex --g0 sex=Male "
    "--g1 sex=Female -o fair-adult",
    "neuropatch fairtune my-model --data rows.csv --label hired=yes --sensitive 'age>40' "
    "--max-neurons 0.1 -o fair-model",
    "neuropatch fairtune user/encoder --train-base --data bios.csv --schema bias_in_bios "
    "--label profession=nurse -o fair-bios",
)


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("fairtune", epilog=EPILOG)(fairtune)


def fairtune(
    model: Annotated[
        str,
        typer.Argument(
            help="Classifier that was trained on G0: a local folder, or user/name[@revision] on "
            "the Hub; or new, for a tabular MLP that is trained first.",
            metavar="MODEL|new",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to create.", metavar="DIR")
    ],
    data: options.LabelledData = None,
    schema: options.SchemaName = None,
    label: options.Label = None,
    sensitive: options.Sensitive = None,
    text_column: options.TextColumn = None,
    exclude: options.Exclude = None,
    keep_sensitive: options.KeepSensitive = False,
    g0: options.FirstDistribution = None,
    g1: options.SecondDistribution = None,
    train_base: Annotated[
        bool,
        typer.Option(
            "--train-base", help="Train MODEL on G0 first, with a new classification head."
        ),
    ] = False,
    penalty_weight: Annotated[
        float, typer.Option(help="Weight of the Equalized Odds penalty.", metavar="X")
    ] = 5.0,
    gap_weight: Annotated[
        float,
        typer.Option(help="Weight of the squared accuracy gap; 0 as in the paper.", metavar="X"),
    ] = 50.0,
    rehearsal: Annotated[
        float, typer.Option(help="Share of each batch that are rows of G0.", metavar="SHARE")
    ] = 0.5,
    max_gap: Annotated[
        float,
        typer.Option(help="Accuracy gap that need not get smaller.", metavar="X"),
    ] = 0.03,
    max_eo: Annotated[
        float, typer.Option(help="Delta_EO that need not get smaller.", metavar="X")
    ] = 0.1,
    max_cost: Annotated[
        float, typer.Option(help="Accuracy that may be lost on validation rows.", metavar="X")
    ] = 0.018,
    max_neurons: Annotated[
        float | None,
        typer.Option(
            help="Units that may change: a share below 1, or a number; all if not given.",
            metavar="AMOUNT",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the rows of G1.", min=1)] = 10,
    patch: Annotated[
        Path | None,
        typer.Option(
            help="Where the patch goes (*.safetensors); into the folder if not given.",
            metavar="PATCH",
        ),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also train and measure the baselines.")
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fine-tune a classifier so that it no longer tells G0 from G1.

    Fair Fine-tuning: rows of G1, rehearsed rows of G0, and an Equalized Odds penalty. Of the rows,
    half are trained on, a fifth stops the training, and the rest are what is measured. Writes the
    fine-tuned model and a patch that makes it of its base.
    """
    from neuropatch.fairness.distributions import parse_side
    from neuropatch.fairness.sources import Reading

    out = Output(json, quiet)
    first, second = parse_side(g0 or (), "--g0"), parse_side(g1 or (), "--g1")
    reading = Reading(
        schema=schema,
        label=label,
        sensitive=sensitive,
        text_column=text_column,
        exclude=tuple(exclude or ()),
        keep_sensitive=keep_sensitive,
    )
    if patch is not None:
        check_patch_output(patch)
    # Imported late: what is above refuses bad options without loading torch.
    from neuropatch.fairness.finetune import FineTuneConfig
    from neuropatch.fairness.finetune_run import fairtune_files

    config = FineTuneConfig(
        penalty_weight=penalty_weight,
        gap_weight=gap_weight,
        max_gap=max_gap,
        max_eo=max_eo,
        max_cost=max_cost,
        rehearsal=rehearsal,
        max_neurons=max_neurons,
        epochs=epochs,
        seed=seed,
    )
    with out.progress() as progress:
        result = fairtune_files(
            model,
            data or (),
            reading,
            output,
            g0=first,
            g1=second,
            config=config,
            train_base=train_base,
            baselines=baselines,
            patch=patch,
            device=device,
            progress=progress,
            note=out.note,
        )
    out.result(result.to_json(), lambda: _print(result), essence=str(result.patch))


def _print(result: FairtuneResult) -> None:
    print_lines([f"G0: {result.distributions[0]}", f"G1: {result.distributions[1]}"])
    measured = {"before": result.before, "after": result.after, **result.baselines}
    rows = [
        ("accuracy on G0", [one.accuracy[0].value for one in measured.values()]),
        ("accuracy on G1", [one.accuracy[1].value for one in measured.values()]),
        ("accuracy gap", [one.accuracy_gap.value for one in measured.values()]),
        ("  at equal label shares", [one.matched_accuracy_gap.value for one in measured.values()]),
        ("Delta_EO", [one.delta_eo.value for one in measured.values()]),
        ("W", [one.composition_distance.value for one in measured.values()]),
        ("bound Delta_EO * W", [one.bound.value for one in measured.values()]),
        ("measured advantage", [one.advantage.value for one in measured.values()]),
    ]
    print_table(
        (f"{sum(result.rows['test']):,} test rows", *measured),
        [(name, *(f"{value:.3f}" for value in values)) for name, values in rows],
    )
    print_lines(
        [
            f"accuracy gap: {_change(result.before, result.after)}",
            f"accuracy lost: {100 * result.cost:.1f} points, the mean of both",
            f"units changed: {result.units:,} of {result.total_units:,} ({result.weights:,} "
            "weights)",
            f"wrote {result.fair} and {result.patch}",
            f"  neuropatch apply {result.base} {result.patch} -o again gives the same model",
        ]
    )


def _change(before: Inference, after: Inference) -> str:
    was, now = before.accuracy_gap, after.accuracy_gap
    return (
        f"{100 * was.value:.1f} points before, {100 * now.value:.1f} after (95 % interval "
        f"{100 * (now.low or 0):.1f} to {100 * (now.high or 0):.1f})"
    )
