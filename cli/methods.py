"""``neuropatch methods``."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .output import Output, print_lines

if TYPE_CHECKING:
    from neuropatch.methods._base import Method

EPILOG = options.examples("neuropatch methods", "neuropatch methods spin", "neuropatch methods -q")

_WIDTH = 96


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("methods", epilog=EPILOG)(methods)


def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="Method whose parameters are shown; all if none.", metavar="METHOD"),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the methods that find weights or neurons.

    With a name: the parameters of that method, their defaults, and the options of localize that
    set them.
    """
    out = Output(json, quiet)
    from neuropatch.methods._base import find_method, method_names

    names = method_names()
    # Only names are asked for: no method need be loaded.
    if quiet and not json and name is None:
        print_lines(names)
        return
    found = [find_method(one) for one in (names if name is None else (name,))]
    documents = [_document(method) for method in found]
    if name is None:
        out.result({"methods": documents}, lambda: _print_all(documents))
    else:
        out.result(documents[0], lambda: _print_one(documents[0]))


def _document(method: Method) -> dict[str, Any]:
    from neuropatch.methods._base import DATA
    from neuropatch.methods._parameters import parameters_of

    return {
        "name": method.name,
        "summary": method.summary,
        "paper": method.paper,
        "granularity": method.granularity,
        "models": list(method.kinds),
        "needs": [option for data, option in DATA.items() if data in method.needs],
        "takes": [option for data, option in DATA.items() if data in method.takes],
        "parameters": [
            {
                "name": one.name,
                "option": _option(one.name),
                "kind": one.kind,
                "default": one.default,
                "meaning": one.meaning,
            }
            for one in parameters_of(method)
        ],
    }


def _option(parameter: str) -> str:
    if parameter in options.METHOD_PARAMETERS:
        return f"--{parameter.replace('_', '-')}"
    return f"--set {parameter}=VALUE"


def _print_all(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        _print_table([(document["name"], document["summary"]), ("", _essence(document))], 10)
    print_lines(["", "neuropatch methods METHOD shows its parameters"])


def _essence(document: dict[str, Any]) -> str:
    data = ", ".join(document["needs"]) or "no data"
    if document["takes"]:
        data += f"; also uses {', '.join(document['takes'])}"
    return f"finds {_finds(document)}; needs {data}; {document['paper']}"


def _finds(document: dict[str, Any]) -> str:
    granularity: str = document["granularity"]
    return "weights or units" if granularity == "both" else granularity


def _print_one(document: dict[str, Any]) -> None:
    rows = [
        ("method", f"{document['name']}: {document['summary']}"),
        ("paper", document["paper"]),
        ("finds", _finds(document)),
        ("models", " and ".join(document["models"])),
        ("needs", ", ".join(document["needs"]) or "no data"),
        ("takes", ", ".join(document["takes"]) or "nothing else"),
    ]
    _print_table(rows, 10)
    print_lines(["", "parameters"])
    shown = [
        (one["option"], _default(one["default"]), one["meaning"]) for one in document["parameters"]
    ]
    for option, default, meaning in shown:
        print_lines([f"  {option}  (default {default})"])
        print_lines(
            textwrap.wrap(meaning, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
        )


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _print_table(rows: list[tuple[str, str]], width: int) -> None:
    """Names and texts in two columns, texts broken between words."""
    for name, text in rows:
        lines = textwrap.wrap(text, _WIDTH - width, break_on_hyphens=False)
        names = [name, *[""] * (len(lines) - 1)]
        print_lines([f"{a:<{width}} {b}" for a, b in zip(names, lines, strict=True)])
