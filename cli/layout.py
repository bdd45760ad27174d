"""``neuropatch layout``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .output import Output, print_lines

if TYPE_CHECKING:
    from neuropatch.models.introspect import Inferred

EPILOG = options.examples(
    "neuropatch layout",
    "neuropatch layout my-model",
    "neuropatch layout user/model --accept-inferred",
)


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("layout", epilog=EPILOG)(layout)


def layout(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Folder of a model of unknown architecture, or user/name[@revision] on the Hub.",
            metavar="[MODEL]",
            show_default=False,
        ),
    ] = None,
    accept: Annotated[
        bool,
        typer.Option("--accept-inferred", help="Use what is inferred from now on."),
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show which architectures are known, or infer a model's.

    For a model of unknown architecture, shows which of its tensors would be read as which role.
    Look at it, then keep it with --accept-inferred: all commands know the architecture from then
    on.
    """
    out = Output(json, quiet)
    from neuropatch.errors import UsageError
    from neuropatch.models.definition import definitions

    if model is None:
        if accept:
            raise UsageError("--accept-inferred needs a model", hint="name the model")
        names = sorted(definitions())
        out.result({"architectures": names}, lambda: print_lines(names))
        return
    from neuropatch.checkpoint.unknown import infer_checkpoint, keep_inferred
    from neuropatch.hub.resolve import resolve_model

    inferred = infer_checkpoint(resolve_model(model).folder)
    path = keep_inferred(inferred) if accept else None
    if path is None:
        out.note("nothing is kept: add --accept-inferred if this is how the model is built")
    out.result(
        {
            "definition": inferred.document,
            "left_alone": dict(inferred.left_alone),
            "kept": None if path is None else str(path),
        },
        lambda: print_lines(_lines(inferred)),
        essence=inferred.document["name"] if path is None else str(path),
    )
    if path is not None:
        out.note(f"kept in {path}")


def _lines(inferred: Inferred) -> list[str]:
    rows = [
        (stack, role, f"{out} x {into}", path) for stack, role, path, (out, into) in inferred.roles
    ]
    wide = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"architecture {inferred.document['name']}, inferred"]
    lines += ["  ".join((*map(str.ljust, row[:3], wide), row[3])) for row in rows]
    if inferred.left_alone:
        lines.append("left alone")
        lines += [f"  {path}: {reason}" for path, reason in inferred.left_alone]
    lines.append(f"outside the layers: {inferred.outside} tensors")
    return lines
