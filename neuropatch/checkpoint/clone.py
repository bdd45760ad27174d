"""Copying a file the fastest way the system has."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal

FICLONE = 0x40049409
"""Linux's ioctl that lets a file share another one's blocks until either is written to."""

_CHUNK = 128 << 20

_UNSUPPORTED = {
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EPERM,
}

Way = Literal["reflinked", "copied", "hard-linked"]


def clone(source: Path, destination: Path) -> Way:
    """Copy a file's bytes to a new file: shared blocks, a copy in the kernel, or a plain copy.

    The source may be a symbolic link (as in a snapshot of the Hub cache); its target is read.

    Args:
        source: File to copy.
        destination: File to create.

    Raises:
        FileExistsError: If the destination exists, be it only as a symbolic link.
        OSError: If the disk is full, or a file cannot be read or written.
    """
    with source.open("rb") as reader:
        mode = stat.S_IMODE(os.fstat(reader.fileno()).st_mode) & 0o666 | 0o600
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(destination, flags, mode), "r+b") as writer:
            if _reflink(reader.fileno(), writer.fileno()):
                return "reflinked"
            if not _copy_in_kernel(reader.fileno(), writer.fileno()):
                shutil.copyfileobj(reader, writer, 1 << 20)
    return "copied"


def hard_link(source: Path, destination: Path) -> Way:
    """Give a file a second name, or copy it where that cannot be.

    The two names are one file: a program that edits one in place changes the other. Neuropatch
    itself never edits a file with several names in place. Symbolic links are copied, so that no
    second name reaches into the Hub cache.
    """
    if source.is_symlink() or in_hub_cache(source):
        return clone(source, destination)
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _UNSUPPORTED | {errno.EMLINK, errno.EACCES}:
            raise
        return clone(source, destination)
    return "hard-linked"


def can_reflink(source: Path, folder: Path) -> bool:
    """Whether files in ``folder`` can share blocks with ``source``."""
    with source.open("rb") as reader:
        probe = folder / ".reflink-probe"
        try:
            with probe.open("xb") as writer:
                return _reflink(reader.fileno(), writer.fileno())
        finally:
            probe.unlink(missing_ok=True)


def in_hub_cache(path: Path) -> bool:
    """Whether a path, its links followed, lies in a repo of a Hub cache."""
    parts = path.resolve().parts
    return any(
        part.startswith(("models--", "datasets--", "spaces--")) and below in ("snapshots", "blobs")
        for part, below in pairwise(parts)
    )


def _reflink(reader: int, writer: int) -> bool:
    try:
        fcntl.ioctl(writer, FICLONE, reader)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _copy_in_kernel(reader: int, writer: int) -> bool:
    """Copy without passing the bytes through this process; False where the system cannot."""
    # Pythons built against an old C library have no copy_file_range.
    return (hasattr(os, "copy_file_range") and _loop(os.copy_file_range, reader, writer)) or _loop(
        _send, reader, writer
    )


def _send(reader: int, writer: int, count: int) -> int:
    return os.sendfile(writer, reader, None, count)


def _loop(copy: Callable[[int, int, int], int], reader: int, writer: int) -> bool:
    """Copy from the files' positions to the end; False, with nothing copied, if unsupported."""
    size = os.fstat(reader).st_size
    done = 0
    while done < size:
        try:
            count = copy(reader, writer, min(_CHUNK, size - done))
        except OSError as error:
            if done or error.errno not in _UNSUPPORTED:
                raise
            return False
        if count == 0:
            # Some virtual file systems report success and copy nothing.
            return done > 0
        done += count
    return True
