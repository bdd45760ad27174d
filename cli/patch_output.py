"""The patch file that a command writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from neuropatch.errors import OutputError, UsageError

if TYPE_CHECKING:
    from neuropatch.patch.patch import NeuronPatch


def check_patch_output(path: Path) -> None:
    """Refuse an output before the work that would be lost on it.

    Raises:
        UsageError: If the path is not that of a patch file.
        OutputError: If no file can be written there.
    """
    if path.is_dir():
        raise UsageError(f"-o {path} is a folder", hint=f"try -o {path / 'patch.safetensors'}")
    if path.suffix != ".safetensors":
        raise UsageError(
            f"-o {path}: a patch is written to a file named *.safetensors",
            hint=f"try -o {path}.safetensors",
        )
    # The nearest folder that is there: those between are made when the patch is written.
    above = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not above.is_dir():
        raise OutputError(f"-o {path}: {above} is not a folder", hint="write to another folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(
            f"-o {path}: {above} cannot be written to", hint="write to another folder"
        )


def save_patch(patch: NeuronPatch, path: Path) -> None:
    """Write a patch, atomically.

    Raises:
        ResourceError: If the disk is full.
        OutputError: If the file cannot be written.
    """
    from neuropatch.checkpoint.staging import writing

    with writing(path):
        patch.save(path)
