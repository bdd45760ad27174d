"""``neuropatch localize``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from neuropatch.errors import UsageError

from . import options
from .output import Output, print_lines
from .patch_output import check_patch_output, save_patch

EPILOG = options.examples(
    "neuropatch localize my-model --dataset privacy=privacy.csv --dataset fairness=fairness.csv "
    "--general alpaca.csv --p 1e-4 --q 1e-4 -o spin.safetensors",
    "neuropatch localize user/model@main --dataset a=a.jsonl --dataset b=b.jsonl --general g.jsonl "
    "--scope model --p 2000 --q 2000 -o spin.safetensors",
    "neuropatch localize my-model --dataset a=user/data:train --dataset b=b.parquet "
    "--general g.csv --q 100 --max-memory 8GB --resume -o spin.safetensors",
)


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("localize", epilog=EPILOG)(localize)


def localize(
    model: options.ModelArgument,
    dataset: Annotated[
        list[str],
        typer.Option(
            help="Data set that conflicts with the others: a CSV, JSONL, JSON, Parquet or text "
            "file, or user/name[@revision][:split] on the Hub. Repeat it for each.",
            metavar="NAME=FILE",
        ),
    ],
    output: options.PatchOutput,
    general: Annotated[
        str | None,
        typer.Option(help="Data set whose abilities are kept.", metavar="FILE"),
    ] = None,
    method: Annotated[
        str, typer.Option(help="Method that finds the weights.", metavar="METHOD")
    ] = "spin",
    samples: options.Samples = 128,
    seed: options.Seed = 0,
    p: Annotated[
        float,
        typer.Option(
            help="Weights that the general set protects: a fraction, or a count from 1 up.",
            metavar="AMOUNT",
        ),
    ] = 5e-7,
    q: Annotated[
        float,
        typer.Option(
            help="Top weights taken of each data set: a fraction, or a count from 1 up.",
            metavar="AMOUNT",
        ),
    ] = 5e-7,
    target: Annotated[
        str,
        typer.Option(
            help="Weights to look at: mlp, attn, all, or roles such as up,down.", metavar="TARGET"
        ),
    ] = "mlp",
    scope: Annotated[
        str,
        typer.Option(
            help="Count amounts within each matrix, each layer, or the whole model.",
            metavar="matrix|layer|model",
        ),
    ] = "matrix",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    max_length: options.MaxLength = None,
    batch_tokens: options.BatchTokens = 1024,
    memory: options.MemoryMode = "auto",
    max_memory: options.MaxMemory = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Save progress beside the output, and go on from it if it is there."
        ),
    ] = False,
    prompt_column: options.PromptColumn = None,
    response_column: options.ResponseColumn = None,
    text_column: options.TextColumn = None,
    chat_template: options.ChatTemplate = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the weights behind a behaviour, and write them as a patch.

    SPIN, the default method, finds the weights that two or more conflicting data sets share and
    that the general data set does not need; the patch sets them to zero.
    """
    out = Output(json, quiet)
    from neuropatch.attribution.memory import parse_size
    from neuropatch.data.columns import ColumnOptions
    from neuropatch.methods._base import Limits
    from neuropatch.pipeline import DataOptions
    from neuropatch.pipeline import localize as run

    from .views import patch_lines, patch_summary

    check_patch_output(output)
    state = output.with_suffix(".resume") if resume else None
    data = DataOptions(
        samples=samples,
        seed=seed,
        columns=ColumnOptions(prompt=prompt_column, response=response_column, text=text_column),
        max_length=max_length,
        chat_template=chat_template,
    )
    limits = Limits(
        batch_tokens=batch_tokens,
        memory=None if max_memory is None else parse_size(max_memory),
        mode=memory,
        resume=state,
    )
    try:
        with out.progress() as progress:
            found = run(
                model,
                method=method,
                config={"p": p, "q": q, "target": target, "scope": scope},
                datasets=named_files(dataset),
                general=general,
                data=data,
                dtype=dtype,
                device=device,
                limits=limits,
                progress=progress,
                note=out.note,
            )
    except KeyboardInterrupt:
        if state is not None and state.exists():
            out.note(f"progress is kept in {state}: the same command goes on from there")
        raise
    save_patch(found.patch, output)
    if state is not None:
        _forget(state)
    for sentence in found.notes:
        out.warn(sentence)
    document: dict[str, Any] = {
        "patch": str(output),
        **patch_summary(found.patch),
        "statistics": dict(found.statistics),
        "warnings": list(found.notes),
    }
    out.result(
        document,
        lambda: print_lines([*patch_lines(found.patch), f"wrote {output}"]),
        essence=str(output),
    )


def _forget(state: Path) -> None:
    """Remove the state of a run that is done, and nothing else that may lie in its folder."""
    (state / "state.safetensors").unlink(missing_ok=True)
    with suppress(OSError):
        state.rmdir()


def named_files(arguments: list[str]) -> dict[str, str]:
    """``NAME=FILE`` arguments as a map.

    Raises:
        UsageError: If one is malformed, or a name occurs twice.
    """
    named: dict[str, str] = {}
    for argument in arguments:
        name, equals, file = argument.partition("=")
        if not (name and equals and file):
            raise UsageError(
                f"--dataset {argument} is not NAME=FILE", hint="write privacy=privacy.csv"
            )
        if name in named:
            raise UsageError(f"two data sets are called '{name}'", hint="give each its own NAME")
        named[name] = file
    return named
