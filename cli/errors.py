"""The one table from exceptions to a line on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback

import typer

from neuropatch.errors import NeuropatchError, ProcessError

from .output import plain
from .signals import Terminated

DEBUG_VARIABLE = "NEUROPATCH_DEBUG"

KNOWN_ERROR = 1
USAGE = 2
INTERRUPTED = 130
SIGNALLED = 128

# The common base of everything that the parser of the command line raises.
_ParserError = typer.BadParameter.__mro__[2]

_OS_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EACCES: "check the permissions, or write to another folder",
    errno.EPERM: "check the permissions, or write to another folder",
    errno.EROFS: "write to another folder",
    errno.ENOTDIR: "name a path whose parent is a folder",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "use a shorter name",
}


def report(error: BaseException) -> int:
    """Print what went wrong on stderr, in one line and a hint; returns the exit code.

    With ``NEUROPATCH_DEBUG=1`` the traceback is printed as well.
    """
    from neuropatch.hub.errors import redact

    if type(error).__name__ == "NoArgsIsHelpError":
        print(error, file=sys.stderr)
        return USAGE
    if os.environ.get(DEBUG_VARIABLE) == "1":
        for line in "".join(traceback.format_exception(error)).splitlines():
            print(line[: len(line) - len(line.lstrip())] + redact(line), file=sys.stderr)
    message, hint, code = describe(error)
    if isinstance(error, ProcessError) and error.told:
        return code
    print(plain(redact(f"error: {message}")), file=sys.stderr)
    if hint:
        print(plain(f"  {redact(hint)}"), file=sys.stderr)
    return code


def describe(error: BaseException) -> tuple[str, str | None, int]:
    """Message, hint and exit code of an exception."""
    if isinstance(error, NeuropatchError):
        return error.message, error.hint, KNOWN_ERROR
    if isinstance(error, _ParserError):
        return _usage(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing half-written was left", None, INTERRUPTED
    if isinstance(error, Terminated):
        code = SIGNALLED + error.number
        return f"ended by {error}; nothing half-written was left", None, code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory", "lower --batch-tokens or --max-memory", KNOWN_ERROR
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}", _OS_HINTS.get(error.errno or 0), KNOWN_ERROR
    hint = f"this is a defect of neuropatch; {DEBUG_VARIABLE}=1 shows where"
    return f"{type(error).__name__}: {error}", hint, KNOWN_ERROR


def _usage(error: BaseException) -> tuple[str, str | None, int]:
    """A command line that cannot be understood: what the parser says, and where to look."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "neuropatch"
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    return message[0].lower() + message[1:], f"see {command} --help", USAGE
