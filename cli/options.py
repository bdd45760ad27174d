"""Options, each declared once; commands use these types in their signatures."""

from __future__ import annotations

import re
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
DeviceMap = Annotated[
    str | None,
    typer.Option(
        help="Spread a model that one GPU cannot hold over all of them, layer by layer.",
        metavar="auto|balanced|sequential",
    ),
]
TensorParallel = Annotated[
    bool,
    typer.Option(
        "--tp",
        help="Split the weights, not the samples, among the processes of torchrun (tensor "
        "parallelism).",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Number format of the model: auto (as stored), float32, bfloat16 or float16.",
        metavar="DTYPE",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.", min=0, metavar="N")]
Samples = Annotated[
    int,
    typer.Option(
        help="Rows taken of each data set; all rows if there are fewer.", min=1, metavar="N"
    ),
]
TrainingSamples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        help="Rows taken of each data set, chosen by the seed; 128 if not given, and all records "
        "with personal data.",
        min=1,
        metavar="N",
    ),
]
Datasets = Annotated[
    list[str] | None,
    typer.Option(
        help="Data set that conflicts with the others: a CSV, JSONL, JSON, Parquet or text "
        "file, or user/name[@revision][:split] on the Hub. Repeat it for each.",
        metavar="NAME=FILE",
    ),
]
General = Annotated[
    str | None, typer.Option(help="Data set whose abilities are kept.", metavar="FILE")
]
Retain = Annotated[
    list[str] | None,
    typer.Option(
        help="Data set whose behaviour is kept: records with personal data, or prompts and "
        "responses. Repeat it for each.",
        metavar="NAME=FILE",
    ),
]
Pii = Annotated[
    str | None,
    typer.Option(
        help="Records with personal data: rows of text and spans, or of prompt and target; or "
        "auto, which finds it in the texts of --text.",
        metavar="FILE|auto",
    ),
]
PiiText = Annotated[
    str | None,
    typer.Option("--text", help="Texts that --pii auto looks through.", metavar="FILE"),
]
Category = Annotated[
    str | None,
    typer.Option(
        help="The only category of personal data to forget, such as phone; all if not given.",
        metavar="NAME",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        help="Method that finds the weights or units; see neuropatch methods.",
        metavar="METHOD",
    ),
]
Protected = Annotated[
    float | None,
    typer.Option(
        help="Weights that the general set protects: a fraction, or a count from 1 up.",
        metavar="AMOUNT",
    ),
]
Taken = Annotated[
    float | None,
    typer.Option(
        help="Top weights taken of each data set: a fraction, or a count from 1 up.",
        metavar="AMOUNT",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="Weights to look at: mlp, attn, all, or roles such as up,down.", metavar="TARGET"
    ),
]
Scope = Annotated[
    str | None,
    typer.Option(
        help="Count amounts within each matrix, each layer, or the whole model.",
        metavar="matrix|layer|model",
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Tokens kept of each sample; all if not given.", min=2, metavar="N"),
]
BatchTokens = Annotated[
    int, typer.Option(help="Most tokens of a batch, padding included.", min=1, metavar="N")
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        help="Memory the run may take, such as 8GB; what is free if not given.", metavar="SIZE"
    ),
]
MemoryMode = Annotated[
    str,
    typer.Option(
        "--memory",
        help="How scores are kept: all at once (full), a few layers at a time (windows), or bounds "
        "and a few exact scores that prove the same result (certified).",
        metavar="auto|full|windows|certified",
    ),
]
PromptColumn = Annotated[
    str | None, typer.Option(help="Column of the prompts; guessed if not given.", metavar="NAME")
]
ResponseColumn = Annotated[
    str | None, typer.Option(help="Column of the responses; guessed if not given.", metavar="NAME")
]
TextColumn = Annotated[
    str | None,
    typer.Option(help="Column of plain texts, which have no prompts.", metavar="NAME"),
]
ChatTemplate = Annotated[
    bool, typer.Option("--chat-template", help="Put prompts into the model's chat template.")
]
LabelledData = Annotated[
    list[str] | None,
    typer.Option(
        "--data", help="Labelled rows; repeat for several files of one kind.", metavar="FILE"
    ),
]
SchemaName = Annotated[
    str | None,
    typer.Option(
        help="What the rows are: acs, adult, bias_in_bios, compas, german_credit or lsac; any "
        "other file is read by --label and --sensitive.",
        metavar="NAME",
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        help="Where the label is 1, such as income=high; the schema's if not given.",
        metavar="COLUMN=VALUE",
    ),
]
Sensitive = Annotated[
    str | None,
    typer.Option(
        help="Sensitive attribute: a column, or a condition such as 'age>25'; the schema's first "
        "if not given.",
        metavar="COLUMN",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Column that is no feature; repeat.", metavar="COLUMN"),
]
KeepSensitive = Annotated[
    bool, typer.Option("--keep-sensitive", help="The sensitive attribute is a feature as well.")
]
FirstDistribution = Annotated[
    list[str] | None,
    typer.Option(
        "--g0",
        help="Distribution G0: conditions such as sex=Male (repeat: all must hold), a share such "
        "as sex=Male:80%, or a file. Without --g0 and --g1: the two largest groups.",
        metavar="WHAT",
    ),
]
SecondDistribution = Annotated[
    list[str] | None,
    typer.Option(
        "--g1",
        help="Distribution G1, written like G0.",
        metavar="WHAT",
    ),
]
MatchLabels = Annotated[
    bool,
    typer.Option("--match-labels", help="Draw rows so that G0 and G1 have equal label shares."),
]
PatchOutput = Annotated[
    Path,
    typer.Option("--output", "-o", help="Patch file to write (*.safetensors).", metavar="PATCH"),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="Model: a local folder, or user/name[@revision] or hf://user/name on the Hub.",
        metavar="MODEL",
    ),
]
PatchArgument = Annotated[
    str,
    typer.Argument(
        help="Patch: a file, a folder, or user/name[@revision] or hf://user/name on the Hub.",
        metavar="PATCH",
    ),
]
PatchesArgument = Annotated[
    list[str],
    typer.Argument(
        help="Patches: files, folders, or user/name[@revision] or hf://user/name on the Hub.",
        metavar="PATCH",
    ),
]
ResultsOutput = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Also write the results to a file (*.json).", metavar="FILE"
    ),
]
Results = Annotated[
    Path | None,
    typer.Option(
        help="Results for the card, a file that evaluate -o wrote; those of the patch if not "
        "given.",
        metavar="FILE",
    ),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        help="For a local model: the Hub model it was made from, if not that of its patch.",
        metavar="MODEL",
    ),
]
License = Annotated[
    str | None,
    typer.Option(
        "--license",
        help="License of the base model, where the Hub does not tell it, such as apache-2.0.",
        metavar="ID",
    ),
]
AcceptLicense = Annotated[
    bool,
    typer.Option(
        "--accept-license",
        help="Publish though the base model is gated, or its license is unknown, its own or "
        "against changed versions: you have checked that it is allowed.",
    ),
]
Private = Annotated[
    bool, typer.Option("--private", help="Make a new repo private; refuse one that is public.")
]
PushRevision = Annotated[
    str | None,
    typer.Option("--revision", help="Branch to commit to; main if not given.", metavar="BRANCH"),
]
CreatePr = Annotated[
    bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")
]
CommitMessage = Annotated[
    str | None, typer.Option("--commit-message", help="Title of the commit.", metavar="TEXT")
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask on the terminal before sending.")
]

METHOD_PARAMETERS = ("p", "q", "target", "scope", "max_neurons", "budget", "edit", "strength")
"""Parameters of methods that have an option of localize; all others are given by --set."""

_EXAMPLE_WIDTH = 76


def examples(*commands: str) -> str:
    """The example section of a command's help, its lines broken as a shell can read them."""
    lines = [line for command in commands for line in _lines(f"$ {command}")]
    # \b keeps the lines as they are, so that an example can be copied.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def _lines(command: str) -> list[str]:
    # An option stays beside its value.
    first, *parts = re.split(r" (?=--?[a-z])", command)
    lines = [first]
    for part in parts:
        if len(lines[-1]) + len(part) + len("  \\") <= _EXAMPLE_WIDTH:
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(f"      {part}")
    return lines
