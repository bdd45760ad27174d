"""``neuropatch demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .output import Output, print_lines, print_table

if TYPE_CHECKING:
    from neuropatch.demo.run import DemoResult, DemoRow

EPILOG = options.examples("neuropatch demo", "neuropatch demo -o /tmp/demo --json")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("demo", epilog=EPILOG)(demo)


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to create.", metavar="DIR")
    ] = Path("neuropatch-demo"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run the whole job on a small bundled model.

    The model has memorised invented people. The demo finds the weights that recite private
    records, writes the patch, and shows what is recited
    before and after, beside random patches of the same size.
    """
    out = Output(json, quiet)
    from neuropatch.demo.run import run_demo

    with out.progress() as progress:
        result = run_demo(output, progress)
    out.result(result.to_json(), lambda: _print(result), essence=str(result.folder))


def _print(result: DemoResult) -> None:
    folder = result.folder
    share = len(result.patch) / result.weights
    print_lines(
        [
            "A small language model has memorised the phone numbers and e-mail addresses of 64",
            "invented people. SPIN looked at the records of 32 of them, and set "
            f"{len(result.patch):,} of {result.weights:,}",
            f"weights ({share:.2%}) to zero.",
        ]
    )
    print_table(
        ("records recited word for word", "before", "patched", "random patches"),
        [
            (
                row.name,
                _number(row, row.before),
                _number(row, row.after),
                f"{_number(row, min(row.controls))} to {_number(row, max(row.controls))}",
            )
            for row in result.rows
        ],
    )
    print_lines(
        [
            f"{result.prompt} ...",
            f"  before   {result.answers[0]}",
            f"  patched  {result.answers[1]}",
            "",
            "Taking the patch back gave the model's own bytes. Next:",
            f"  neuropatch inspect {folder}/patch.safetensors",
            f"  neuropatch evaluate {folder}/model --patch {folder}/patch.safetensors "
            f"--text {folder}/held_out.jsonl",
            f"  neuropatch revert {folder}/model-patched {folder}/patch.safetensors -o again",
        ]
    )


def _number(row: DemoRow, value: float) -> str:
    return f"{value:.0%}" if row.is_share else f"{value:.2f}"
