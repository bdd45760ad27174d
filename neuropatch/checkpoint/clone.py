"""Copying a file the fastest way the system has."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Literal

FICLONE = 0x40049409
"""Linux's ioctl that lets a file share another one's blocks until either is written to."""

_LARGE = 128 << 20
"""A file of so many bytes is flushed while it is copied, which takes a thread."""

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

    Holes stay holes where the copy is made in the kernel, as with ``cp``. The source may be a
    symbolic link (as in a snapshot of the Hub cache); its target is read.

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
            with _flushing(writer.fileno(), os.fstat(reader.fileno()).st_size):
                if not _copy_in_kernel(reader.fileno(), writer.fileno()):
                    reader.seek(0)
                    writer.seek(0)
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


def bytes_to_copy(path: Path) -> int:
    """Bytes that a copy of a file takes on a disk: its size without its holes."""
    with path.open("rb") as file:
        return sum(stop - start for start, stop in _segments(file.fileno()))


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


@contextmanager
def _flushing(file: int, size: int) -> Iterator[None]:
    """Write a large file to the disk in a thread, while it is filled in the ``with`` block.

    Who needs it on the disk has little left to flush then. An error of the disk is raised here: a
    later flush, by another descriptor, need not be told of it again.
    """
    if size < _LARGE:
        yield
        return
    full = Event()
    errors: list[OSError] = []

    def flush() -> None:
        try:
            while not full.wait(0.05):
                os.fsync(file)
        except OSError as error:
            errors.append(error)

    thread = Thread(target=flush)
    thread.start()
    try:
        yield
    finally:
        full.set()
        thread.join()
    if errors:
        raise errors[0]


def _copy_in_kernel(reader: int, writer: int) -> bool:
    """Copy without passing the bytes through this process; False where the system cannot."""
    # Pythons built against an old C library have no copy_file_range.
    return (hasattr(os, "copy_file_range") and _loop(_copy_range, reader, writer)) or _loop(
        _send, reader, writer
    )


def _copy_range(reader: int, writer: int, count: int, offset: int) -> int:
    return os.copy_file_range(reader, writer, count, offset, offset)


def _send(reader: int, writer: int, count: int, offset: int) -> int:
    os.lseek(writer, offset, os.SEEK_SET)
    return os.sendfile(writer, reader, offset, count)


def _loop(copy: Callable[[int, int, int, int], int], reader: int, writer: int) -> bool:
    """Copy a file's data, and leave its holes; False, with nothing copied, if unsupported."""
    copied = False
    for start, stop in _segments(reader):
        done = start
        while done < stop:
            try:
                # All at once, as `cp` asks: Linux stops by itself, after 2 GiB less a page. Chunks
                # of a power of two took twice the time on ext4, which then looks for larger pages.
                count = copy(reader, writer, stop - done, done)
            except OSError as error:
                if copied or error.errno not in _UNSUPPORTED:
                    raise
                return False
            if count == 0:
                # Some virtual file systems report success and copy nothing.
                return copied
            copied = True
            done += count
    os.ftruncate(writer, os.fstat(reader).st_size)
    return True


def _segments(file: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, as start and stop; all of it where the system cannot tell."""
    size = os.fstat(file).st_size
    stop = 0
    while stop < size:
        try:
            start = os.lseek(file, stop, os.SEEK_DATA)
            stop = os.lseek(file, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            if error.errno not in _UNSUPPORTED:
                raise
            start, stop = stop, size
        yield start, stop
