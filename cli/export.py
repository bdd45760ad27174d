"""``neuropatch export``: a patch as a file of another program."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .output import Output, print_lines

if TYPE_CHECKING:
    from neuropatch.patch.patch import NeuronPatch

EPILOG = options.examples(
    "neuropatch export units.safetensors --format peft --model my-model -o adapter",
    "neuropatch export user/patch --format peft --model user/model -o adapter --json",
)


class ExportFormat(str, Enum):
    """What a patch can be written as."""

    peft = "peft"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("export", epilog=EPILOG)(export)


def export(
    patch: options.PatchArgument,
    format: Annotated[
        ExportFormat,
        typer.Option(help="What to write: a LoRA adapter (peft).", metavar="peft"),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="Model that the patch is for: a local folder, or user/name[@revision] or "
            "hf://user/name on the Hub.",
            metavar="MODEL",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder to create for the result.", metavar="DIR"),
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a patch in a format that other programs read.

    peft: a LoRA adapter that adds to the model what the patch changes, exactly. It suits patches
    of few units, rows or columns; others are refused, since their adapter would be larger than the
    model's own matrices.
    """
    out = Output(json, quiet)
    from neuropatch.patch.patch import NeuronPatch

    _WRITERS[format](out, NeuronPatch.from_pretrained(patch), model, output)


def _peft(out: Output, patch: NeuronPatch, model: str, output: Path) -> None:
    from neuropatch.export.peft import export_peft
    from neuropatch.hub.resolve import resolve_model

    adapter = export_peft(patch, resolve_model(model).folder, output)
    if adapter.drift.unequal:
        out.warn("the model is not the patch's base:")
        for sentence in adapter.drift.sentences():
            out.warn(f"  {sentence}")
    ranks = sorted(adapter.ranks.values())
    span = f"{ranks[0]}" if ranks[0] == ranks[-1] else f"{ranks[0]} to {ranks[-1]}"
    lines = [
        f"adapter of rank {span} for {len(ranks)} modules of {adapter.base_model}: "
        f"{adapter.parameters:,} values for {adapter.weights:,} changed weights",
        f"wrote {output}",
    ]
    out.result(adapter.to_json(), lambda: print_lines(lines), essence=str(output))


_WRITERS: dict[ExportFormat, Callable[[Output, NeuronPatch, str, Path], None]] = {
    ExportFormat.peft: _peft,
}
