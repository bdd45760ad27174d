"""The ``neuropatch`` command: the Typer app, and the way every error leaves it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Annotated, TextIO

import typer
import typer.main

from neuropatch._version import __version__
from neuropatch.errors import ProcessError
from neuropatch.world import is_first, place

from . import (
    analyze,
    apply,
    audit,
    compare,
    demo,
    doctor,
    evaluate,
    export,
    fairtune,
    layout,
    localize,
    methods,
    patches,
    plan,
    push,
    report,
    tune,
)
from .errors import report as report_error
from .signals import Terminated, terminable

app = typer.Typer(
    name="neuropatch",
    help="Find the few neurons of a language model that cause an unwanted behaviour, and edit "
    "them with a small, portable, reversible patch.",
    epilog="\b\n" + "Show a command's options and examples:\n  $ neuropatch localize --help",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: examples keep their lines and can be copied, and rich need not be loaded.
    rich_markup_mode=None,
)
localize.register(app)
plan.register(app)
methods.register(app)
apply.register(app)
patches.register(app)
evaluate.register(app)
compare.register(app)
tune.register(app)
analyze.register(app)
report.register(app)
audit.register(app)
fairtune.register(app)
export.register(app)
push.register(app)
layout.register(app)
demo.register(app)
doctor.register(app)


def _version(value: bool) -> None:
    if value:
        print(f"neuropatch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand != "localize" and (where := place()) is not None:
        raise ProcessError(
            f"neuropatch {context.invoked_subcommand} runs on one process, and there are "
            f"{where.size}",
            hint="start it without torchrun or accelerate launch",
            told=not is_first(),
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process.

    The exit code is 0 when all is done, 1 after a known error, 2 for a command line that cannot
    be understood, 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        arguments: What follows the program's name; None takes the process's own.
    """
    # Names of files and bars may have characters that a terminal's encoding lacks.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    code = _run(list(sys.argv[1:] if arguments is None else arguments))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop(sys.stdout)
    except OSError as error:
        _drop(sys.stdout)
        code = report_error(error)
    with suppress(BrokenPipeError):
        sys.stderr.flush()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    # The Hub client logs each request that it repeats, with its signed address. An error that stays
    # is told in one line of ours, and one that passes need not be. It reads this when imported.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    # Not through app(): that prints interrupts and closed pipes its own way.
    command = typer.main.get_command(app)
    try:
        with terminable(), command.make_context("neuropatch", arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        # The reader of our output went away (head, a closed pager): nothing is wrong.
        _drop(sys.stdout)
    except (KeyboardInterrupt, Terminated) as error:
        return report_error(error)
    except Exception as error:  # noqa: BLE001  # the last line of defence, told to the user
        return report_error(error)
    return 0


def _drop(stream: TextIO) -> None:
    """Let the rest of a stream that cannot be written go nowhere, at exit as well."""
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # a device, not a path of the user
        os.dup2(nowhere.fileno(), stream.fileno())
