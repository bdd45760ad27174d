"""The ``neuropatch`` command: the Typer app, and the way every error leaves it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from neuropatch._version import __version__

from . import apply, demo, doctor, evaluate, localize, patches
from .errors import report

app = typer.Typer(
    name="neuropatch",
    help="Find the few neurons of a language model that cause an unwanted behaviour, and edit "
    "them with a small, portable, reversible patch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
localize.register(app)
apply.register(app)
patches.register(app)
evaluate.register(app)
doctor.register(app)
demo.register(app)


def _version(value: bool) -> None:
    if value:
        print(f"neuropatch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the process exits with 0, 1 (known error) or 2 (usage)."""
    try:
        code = app(standalone_mode=False)
    except BrokenPipeError:
        # The reader of our output went away (head, a closed pager): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except typer.Abort:
        code = report(KeyboardInterrupt())
    except typer.Exit as end:
        code = end.exit_code
    except Exception as error:  # noqa: BLE001  # the last line of defence, told to the user
        show = getattr(error, "show", None)
        if show is not None:  # click's own errors: bad options and arguments
            show()
            code = error.exit_code  # type: ignore[attr-defined]
        else:
            code = report(error)
    sys.exit(code or 0)
