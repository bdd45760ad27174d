"""``neuropatch localize``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuropatch.errors import ProcessError, UsageError
from neuropatch.world import ALONE, is_first, launched

from . import options
from .arguments import named
from .output import Output, print_lines
from .patch_output import check_patch_output, save_patch

if TYPE_CHECKING:
    from neuropatch.methods._base import Localization
    from neuropatch.pipeline import DataFiles, RunOptions

EPILOG = options.examples(
    "neuropatch localize my-model --dataset privacy=privacy.csv --dataset fairness=fairness.csv "
    "--general alpaca.csv --p 1e-4 --q 1e-4 -o spin.safetensors",
    "neuropatch localize user/model@main --dataset a=a.jsonl --dataset b=b.jsonl --general g.jsonl "
    "--scope model --p 2000 --q 2000 -o spin.safetensors",
    "neuropatch localize my-model --method contrast --pii people.jsonl --general g.csv "
    "--max-neurons 20 -o contrast.safetensors",
    "neuropatch localize my-model --dataset a=user/data:train --dataset b=b.parquet "
    "--general g.csv --q 100 --max-memory 8GB --resume -o spin.safetensors",
)

_PROCESSES = {
    "samples": "each takes its share of every data set",
    "weights": "each holds its part of the weights, and all run every data set",
    "first": "the first one does it, as there is nothing to share",
}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("localize", epilog=EPILOG)(localize)


def localize(
    model: options.ModelArgument,
    output: options.PatchOutput,
    dataset: options.Datasets = None,
    general: options.General = None,
    pii: options.Pii = None,
    text: options.PiiText = None,
    category: options.Category = None,
    per_category: Annotated[
        bool,
        typer.Option(
            "--per-category", help="A patch for each category, PATCH-CATEGORY.safetensors."
        ),
    ] = False,
    retain: options.Retain = None,
    method: options.Method = "spin",
    samples: options.TrainingSamples = None,
    seed: options.Seed = 0,
    p: options.Protected = None,
    q: options.Taken = None,
    target: options.Target = None,
    scope: options.Scope = None,
    max_neurons: Annotated[
        int | None, typer.Option(help="Most units that are edited.", metavar="N")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="The same as a share of the units; 0.0005 if neither is given.", metavar="SHARE"
        ),
    ] = None,
    edit: Annotated[
        str | None,
        typer.Option(help="What is done to what was found.", metavar="zero|scale|steer|noise"),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="How strongly: the factor of scale, or of a steering.", metavar="X"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any parameter of the method. Repeat it for each.", metavar="NAME=VALUE"
        ),
    ] = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    tp: options.TensorParallel = False,
    max_length: options.MaxLength = None,
    batch_tokens: options.BatchTokens = 1024,
    memory: options.MemoryMode = "auto",
    max_memory: options.MaxMemory = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Save progress beside the output, and go on from it if it is there (spin, snip of "
            "weights, lpnl).",
        ),
    ] = False,
    prompt_column: options.PromptColumn = None,
    response_column: options.ResponseColumn = None,
    text_column: options.TextColumn = None,
    chat_template: options.ChatTemplate = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the weights or units behind a behaviour; write a patch.

    SPIN, the default method, finds the weights that two or more conflicting data sets share and
    that the general data set does not need; the patch sets them to zero. Other methods find the
    units that carry personal data (--pii); neuropatch methods lists them.
    """
    out = Output(json, quiet or not is_first())
    state = output.with_suffix(".resume") if resume else None
    try:
        with launched(device, split=tp) as world:
            from neuropatch.attribution.memory import parse_size
            from neuropatch.data.columns import ColumnOptions
            from neuropatch.methods._base import Limits
            from neuropatch.pipeline import DataFiles, DataOptions, RunOptions

            check_patch_output(output)
            records, mode = _records(pii, text)
            files = DataFiles(
                datasets=named("--dataset", dataset),
                general=general,
                pii=records,
                retain=named("--retain", retain),
            )
            data = DataOptions(
                samples=samples,
                seed=seed,
                columns=ColumnOptions(
                    prompt=prompt_column, response=response_column, text=text_column
                ),
                max_length=max_length,
                chat_template=chat_template,
                pii_mode=mode,
                category=category,
            )
            limits = Limits(
                batch_tokens=batch_tokens,
                memory=None if max_memory is None else parse_size(max_memory),
                mode=memory,
                resume=state,
            )
            config: dict[str, Any] = {
                "p": p,
                "q": q,
                "target": target,
                "scope": scope,
                "max_neurons": max_neurons,
                "budget": budget,
                "edit": edit,
                "strength": strength,
                **named("--set", set_),
            }
            with out.progress() as progress:
                run = RunOptions(
                    method=method,
                    config=config,
                    data=data,
                    dtype=dtype,
                    device=device,
                    limits=limits,
                    progress=progress,
                    note=out.note,
                    world=world,
                    device_map=device_map,
                )
                found = _find(model, files, run, output, per_category=per_category)
            if world.rank == 0:
                _save(found, state, out, per_category=per_category)
    except (KeyboardInterrupt, ProcessError):
        if state is not None and state.exists():
            out.note(f"progress is kept in {state}: the same command goes on from there")
        raise


def _save(
    found: dict[Path, Localization], state: Path | None, out: Output, *, per_category: bool
) -> None:
    """Write the patches, and say what they are."""
    from .views import patch_lines

    for path, one in found.items():
        save_patch(one.patch, path)
        for sentence in one.notes:
            out.warn(sentence)
    if state is not None:
        _forget(state)
    documents = [_document(path, one) for path, one in found.items()]
    out.result(
        {"patches": documents} if per_category else documents[0],
        lambda: print_lines(
            [
                line
                for path, one in found.items()
                for line in (*patch_lines(one.patch), f"wrote {path}")
            ]
        ),
        essence=[str(path) for path in found],
    )


def _find(
    model: str, files: DataFiles, options: RunOptions, output: Path, *, per_category: bool
) -> dict[Path, Localization]:
    """What is found, by the file that it goes to."""
    from neuropatch import pipeline
    from neuropatch.methods._base import find_method

    if options.world.size > 1:
        how = "weights" if options.world.splits else find_method(options.method).processes
        if how in _PROCESSES:
            options.note(f"{options.world.size} processes: {_PROCESSES[how]}")
        if how == "first" and options.world.rank > 0:
            return {}
        if how == "first":
            options = replace(options, world=ALONE)
    if not per_category:
        return {output: pipeline.localize(model, files, options)}
    found = pipeline.localize_categories(model, files, options)
    paths: dict[Path, Localization] = {}
    for category, one in found.items():
        name = "".join(letter if letter.isalnum() else "_" for letter in category)
        path = output.with_stem(f"{output.stem}-{name}")
        # "date of birth" and "date_of_birth" are one name of a file.
        if path in paths:
            path = path.with_stem(f"{path.stem}-{len(paths) + 1}")
        paths[path] = one
    return paths


def _document(path: Path, found: Localization) -> dict[str, Any]:
    from .views import patch_summary

    return {
        "patch": str(path),
        **patch_summary(found.patch),
        "statistics": dict(found.statistics),
        "warnings": list(found.notes),
    }


def _forget(state: Path) -> None:
    """Remove the state of a run that is done, and nothing else that may lie in its folder."""
    for file in state.rglob("state.safetensors"):
        file.unlink()
    folders = [folder for folder in state.rglob("*") if folder.is_dir()]
    for folder in (*sorted(folders, reverse=True), state):
        with suppress(OSError):
            folder.rmdir()


def _records(pii: str | None, text: str | None) -> tuple[str | None, str]:
    """The file with personal data, and how it is told there.

    Raises:
        UsageError: If one of the two options lacks the other.
    """
    if pii != "auto":
        if text is not None:
            raise UsageError(
                "--text holds the texts in which --pii auto finds personal data",
                hint="add --pii auto, or leave out --text",
            )
        return pii, "marked"
    if text is None:
        raise UsageError("--pii auto needs texts to look through", hint="add --text FILE")
    return text, "auto"
