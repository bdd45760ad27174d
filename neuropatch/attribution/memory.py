"""Memory: sizes in words, what is free, what a process holds, and giving back what it does not."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from neuropatch.errors import UsageError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
    "K": 2**10,
    "M": 2**20,
    "G": 2**30,
}


def parse_size(text: str) -> int:
    """Bytes from a size such as ``8GB``, ``512MiB`` or ``1073741824``.

    Raises:
        UsageError: If the text is not a positive size.
    """
    number = text.strip().upper().rstrip("BKMGTI")
    unit = text.strip().upper()[len(number) :]
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise UsageError(f"'{text}' is not a size", hint="write for example 8GB or 512MiB")
    return size


def format_size(size: float) -> str:
    """A size for people, in decimal units: ``538 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def available_memory() -> int:
    """Bytes of main memory that a process can take now without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident_memory() -> int:
    """Bytes of main memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def private_memory() -> int:
    """Bytes that this process alone holds now: without the files that are mapped into it.

    The pages of a file, such as weights that were loaded without a copy, count as available.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return resident_memory()


def release_free_memory() -> None:
    """Give memory that is allocated but unused back to the system, where the C library can.

    Tensors of ever other sizes leave gaps between them that glibc keeps. Taking the pages back
    from the system costs time, so this is for a process that has grown beyond its plan.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
