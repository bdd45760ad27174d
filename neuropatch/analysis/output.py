"""The folder that an analysis is written to."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from neuropatch.analysis.analysis import TABLES, Analysis
from neuropatch.checkpoint.staging import staged_folder, writing
from neuropatch.errors import OutputError
from neuropatch.storage.files import atomic_write

_ALL = {f"{table}.{suffix}" for table in TABLES for suffix in ("csv", "svg", "png")}


def can_draw() -> bool:
    """Whether figures can be drawn: matplotlib is installed."""
    return find_spec("matplotlib") is not None


def files_of(analysis: Analysis) -> dict[str, bytes]:
    """All files of an analysis by name; without matplotlib those without figures."""
    files = analysis.data_files()
    if can_draw():
        from neuropatch.analysis.figures import render

        files |= render(analysis)
    return files


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse an output before the work that would be lost on it.

    Raises:
        OutputError: If it is no folder, or holds something and may not be written over.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"-o {folder} is not a folder", hint="name a folder")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise OutputError(
            f"-o {folder} exists already",
            hint="name a folder that does not exist, or add --overwrite",
        )


def write_folder(folder: Path, files: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Write files into a folder: a new one appears whole or not at all.

    In a folder that is there already each file is replaced as a whole, figures and tables of an
    earlier analysis that this one lacks are removed, and other files stay.

    Raises:
        OutputError: If the folder cannot be written, or has appeared meanwhile.
        ResourceError: If the disk is full.
    """
    check_folder(folder, overwrite=overwrite)
    if folder.is_dir() and any(folder.iterdir()):
        with writing(folder):
            for name, content in files.items():
                atomic_write(folder / name, [content])
            for name in _ALL - set(files):
                (folder / name).unlink(missing_ok=True)
        return
    with staged_folder(folder) as staged:
        for name, content in files.items():
            (staged / name).write_bytes(content)
