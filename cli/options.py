"""Options, each declared once; commands use these types in their signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print the result only, no notes and no progress.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")]
InPlace = Annotated[
    bool,
    typer.Option("--in-place", help="Edit the model's own files; an undo patch is written first."),
]
Device = Annotated[
    str, typer.Option(help="Where to run: auto, cpu, cuda, cuda:1, ...", metavar="DEVICE")
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Number format of the model: auto (as stored), float32, bfloat16 or float16.",
        metavar="DTYPE",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.", min=0)]
Samples = Annotated[
    int, typer.Option(help="Rows taken of each data set; all rows if there are fewer.", min=1)
]
MaxLength = Annotated[
    int | None, typer.Option(help="Tokens kept of each sample (default: all).", min=2)
]
BatchTokens = Annotated[int, typer.Option(help="Most tokens of a batch, padding included.", min=1)]
PromptColumn = Annotated[str | None, typer.Option(help="Column of the prompts.", metavar="NAME")]
ResponseColumn = Annotated[
    str | None, typer.Option(help="Column of the responses.", metavar="NAME")
]
TextColumn = Annotated[str | None, typer.Option(help="Column of plain texts.", metavar="NAME")]
ChatTemplate = Annotated[
    bool, typer.Option("--chat-template", help="Put prompts into the model's chat template.")
]
PatchOutput = Annotated[
    Path, typer.Option("--output", "-o", help="Patch file to write (*.safetensors).")
]
ModelArgument = Annotated[
    str, typer.Argument(help="Model: a local folder, or user/name[@revision] on the Hub.")
]
PatchArgument = Annotated[
    str, typer.Argument(help="Patch: a file, a folder, or user/name[@revision] on the Hub.")
]
PatchesArgument = Annotated[
    list[str], typer.Argument(help="Patches: files, folders, or user/name[@revision] on the Hub.")
]


def examples(*commands: str) -> str:
    """The example section of a command's help."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"$ {command}" for command in commands)])
