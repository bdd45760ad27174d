"""Output folders that appear whole or not at all, and one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuropatch.errors import OutputError, ResourceError
from neuropatch.storage.files import sync_folder


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """Turn what the system says while ``what`` is written into an error that a user can act on.

    Raises:
        ResourceError: If the disk or the quota is full.
        OutputError: If something cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"{what}: the disk is full",
                hint="free some space, or write to another disk",
            ) from error
        name = error.filename if error.filename is not None else what
        raise OutputError(
            f"{what} cannot be written: {error.strerror} ({name})",
            hint="choose a folder you can write to",
        ) from error


@contextmanager
def exclusive(lock: Path, *, busy: str) -> Iterator[None]:
    """Hold a lock file for the length of a ``with`` block; its folder is made if need be.

    The lock ends with the process, however it ends. Afterwards the file is removed, and the
    folder too if nothing else is in it.

    Args:
        lock: The file.
        busy: The message if another process holds it.

    Raises:
        OutputError: If another process holds the lock.
    """
    descriptor = _acquire(lock, busy)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        with suppress(OSError):
            lock.parent.rmdir()
        os.close(descriptor)


def _acquire(lock: Path, busy: str) -> int:
    while True:
        with suppress(FileExistsError):
            lock.parent.mkdir()
        if lock.parent.is_symlink():
            raise OutputError(f"{lock.parent} is a symbolic link", hint="remove it")
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(lock, flags, 0o600)
        except FileNotFoundError:
            # The holder before us removed the folder between our two steps.
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(busy, hint="wait until it is done") from None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_same_file(descriptor, lock):
            return descriptor
        # The holder before us removed the file after we had opened it.
        os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def check_output(output: Path, model: Path) -> None:
    """Refuse an output that is taken, or that would change the model's folder.

    Raises:
        OutputError: Saying which.
    """
    if output.is_symlink():
        raise OutputError(f"{output} is a symbolic link", hint="name a folder that does not exist")
    real, source = output.resolve(), model.resolve()
    if real == source or source in real.parents:
        raise OutputError(
            f"{output} is inside the model's folder {model}",
            hint="name a folder elsewhere, or edit the model itself with --in-place",
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(
            f"{output} exists already", hint="name a folder that does not exist, or remove it"
        )


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """Fill a hidden folder beside ``output`` that takes its name when the block succeeds.

    If the block fails, nothing is left. If the process is killed, the hidden folder
    ``.OUTPUT.neuropatch-partial`` is left, and the next writer of ``output`` removes it.

    Raises:
        OutputError: If another process is writing the same output, or it has appeared meanwhile.
        ResourceError: If the disk is full.
    """
    output = output.resolve()
    with writing(output), _parents(output.parent):
        work = output.parent / f".{output.name}.neuropatch-partial"
        with exclusive(work / "lock", busy=f"another neuropatch is writing {output}"):
            content = work / "content"
            shutil.rmtree(content, ignore_errors=True)
            content.mkdir()
            try:
                yield content
                _sync_tree(content)
                _rename(content, output)
            finally:
                shutil.rmtree(content, ignore_errors=True)
        sync_folder(output.parent)


@contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; on failure those that were made go away again."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _sync_tree(path)
        else:
            sync_folder(path)
    sync_folder(folder)


def _rename(content: Path, output: Path) -> None:
    try:
        content.rename(output)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise OutputError(
            f"{output} appeared while it was being written",
            hint="another program made it; remove it or choose another name",
        ) from None


def check_space(folder: Path, needed: int, *, output: Path) -> None:
    """Refuse to start what cannot fit.

    Args:
        folder: A folder on the disk that is written to.
        needed: Bytes.
        output: What is written, for the message.

    Raises:
        ResourceError: With the bytes needed and free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"{output} needs {needed} bytes, and {free} are free on its disk",
            hint="free some space, or write to another disk",
        )
