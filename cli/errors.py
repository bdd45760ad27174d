"""The one table from exceptions to a line on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback

from neuropatch.errors import NeuropatchError

DEBUG_VARIABLE = "NEUROPATCH_DEBUG"

KNOWN_ERROR = 1
INTERRUPTED = 130

_OS_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EACCES: "check the permissions, or write to another folder",
    errno.EPERM: "check the permissions, or write to another folder",
    errno.EROFS: "write to another folder",
}


def report(error: BaseException) -> int:
    """Print what went wrong on stderr, in one line and a hint; returns the exit code.

    With ``NEUROPATCH_DEBUG=1`` the traceback is printed as well.
    """
    from neuropatch.hub.errors import redact

    if os.environ.get(DEBUG_VARIABLE) == "1":
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    message, hint, code = describe(error)
    print(redact(f"error: {_one_line(message)}"), file=sys.stderr)
    if hint:
        print(redact(f"  {_one_line(hint)}"), file=sys.stderr)
    return code


def describe(error: BaseException) -> tuple[str, str | None, int]:
    """Message, hint and exit code of an exception."""
    if isinstance(error, NeuropatchError):
        return error.message, error.hint, KNOWN_ERROR
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing half-written was left", None, INTERRUPTED
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory", "lower --batch-tokens or --max-memory", KNOWN_ERROR
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}", _OS_HINTS.get(error.errno or 0), KNOWN_ERROR
    hint = f"this is a defect of neuropatch; {DEBUG_VARIABLE}=1 shows where"
    return f"{type(error).__name__}: {error}", hint, KNOWN_ERROR


def _one_line(text: str) -> str:
    return " ".join(text.split())
