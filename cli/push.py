"""``neuropatch push`` and ``neuropatch list``: patches and patched models on the Hub."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuropatch.errors import UsageError

from . import options
from .output import Output, print_lines, print_table

if TYPE_CHECKING:
    from neuropatch.hub.push import Push, PushResult

PUSH_EPILOG = options.examples(
    "neuropatch push spin.safetensors user/patch --results results.json",
    "neuropatch push my-model-patched user/variant --patch user/patch --private",
    "neuropatch push spin.safetensors user/patch --dry-run",
)
LIST_EPILOG = options.examples("neuropatch list user", "neuropatch list user --models --json")

_UNITS = ("bytes", "KB", "MB", "GB", "TB")
_WAYS = {
    "upload": "uploaded",
    "copy": "copied by the Hub",
    "keep": "there already",
    "delete": "deleted",
}


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("push", epilog=PUSH_EPILOG)(push)
    app.command("list", epilog=LIST_EPILOG)(list_repos)


def push(
    source: Annotated[
        str,
        typer.Argument(help="What to push: a patch, or the folder of a model.", metavar="SOURCE"),
    ],
    repo: Annotated[
        str, typer.Argument(help="Where to: user/name on the Hub.", metavar="USER/NAME")
    ],
    patch: Annotated[
        list[str] | None,
        typer.Option(
            help="For a model: a patch that it holds, for its card; repeat.", metavar="PATCH"
        ),
    ] = None,
    base_model: options.BaseModel = None,
    results: options.Results = None,
    license: options.License = None,
    accept_license: options.AcceptLicense = False,
    private: options.Private = False,
    revision: options.PushRevision = None,
    create_pr: options.CreatePr = False,
    commit_message: options.CommitMessage = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Publish a patch, or a patched model, on the Hugging Face Hub.

    It becomes one commit, with a card that says what it is made from. A model's files that are
    those of its base are copied by the Hub itself. Pushing again what is there changes nothing.
    """
    out = Output(json, quiet)
    from neuropatch.hub.branch import Destination
    from neuropatch.hub.licence import Terms
    from neuropatch.hub.push import prepare_patch
    from neuropatch.hub.push_model import prepare_model
    from neuropatch.hub.resolve import is_model_folder

    to = Destination(repo, revision, create_pr, private or None, commit_message)
    terms = Terms(license, accept_license)
    document = read_results(results)
    with ExitStack() as stack:
        if is_model_folder(source):
            prepared = stack.enter_context(
                prepare_model(
                    source,
                    patch or (),
                    to,
                    apply=False,
                    base_model=base_model,
                    terms=terms,
                    results=document,
                )
            )
        else:
            if patch or base_model:
                raise UsageError(
                    f"--patch and --base-model are for models, and {source} is none",
                    hint="a patch knows its base model",
                )
            from neuropatch.patch.patch import NeuronPatch

            found = NeuronPatch.from_pretrained(source)
            prepared = prepare_patch(found, to, terms=terms, results=document)
        send(out, prepared, dry_run=dry_run, yes=yes)


def list_repos(
    user: Annotated[
        str, typer.Argument(help="Name of a user or an organisation on the Hub.", metavar="USER")
    ],
    models: Annotated[
        bool, typer.Option("--models", help="List patched models too, not only patches.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the patches that somebody has on the Hugging Face Hub."""
    out = Output(json, quiet)
    from neuropatch.hub.listing import list_published

    found = list_published(user, models=models)
    rows = [
        [one.repo, one.kind, one.base_model or "-", one.license or "-", one.updated or "-"]
        for one in found
    ]

    def show() -> None:
        if rows:
            print_table(["repo", "kind", "base model", "license", "updated"], rows)
        else:
            print_lines([f"{user} has published nothing with neuropatch"])

    out.result({"repos": [one.to_json() for one in found]}, show)


def read_results(path: Path | None) -> dict[str, Any] | None:
    """The document of results that ``--results`` names."""
    from neuropatch.hub import measured

    return None if path is None else measured.read_results(path)


def send(out: Output, prepared: Push, *, dry_run: bool, yes: bool) -> None:
    """Show what a push sends, ask on a terminal, and send it."""
    preview = prepared.preview()
    for sentence in preview.notes:
        out.note(sentence)
    if dry_run:
        out.result(preview.to_json(), lambda: _print(preview), essence=preview.repo)
        return
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        for line in _lines(preview):
            print(line, file=sys.stderr)
        if not typer.confirm(f"push to {preview.repo}?", err=True):
            out.note("nothing was sent")
            raise typer.Exit(1)
    with out.progress() as progress:
        result = prepared.run(progress)
    for sentence in result.warnings:
        out.warn(sentence)
    out.result(result.to_json(), lambda: _print(result), essence=result.url)


def _print(result: PushResult) -> None:
    if result.dry_run:
        print_lines([*_lines(result), "nothing was sent"])
    elif result.made:
        print_lines([*_lines(result), f"pushed {result.url}"])
    else:
        print_lines([f"{result.repo} has all of it already: {result.url}"])


def _lines(result: PushResult) -> list[str]:
    width = max((len(file.path) for file in result.files), default=0)
    sizes = [_size(file.size) for file in result.files]
    length = max(map(len, sizes), default=0)
    lines = [
        f"  {file.path:<{width}}  {size:>{length}}  {_WAYS[file.way]}"
        + (", edited" if file.edited else "")
        for file, size in zip(result.files, sizes, strict=True)
    ]
    sums = [
        f"{_size(sum(f.size for f in result.files if f.way == way))} {_WAYS[way]}"
        for way in _WAYS
        if any(file.way == way for file in result.files)
    ]
    return [*lines, ", ".join(sums)]


def _size(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{count} {_UNITS[0]}"
