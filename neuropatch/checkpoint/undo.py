"""Undo patches: they lie in a model's folder and hold the bytes from before an edit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from neuropatch.checkpoint.plan import EditPlan, Write
from neuropatch.errors import PatchMismatchError
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.format import read_patch
from neuropatch.storage.dtypes import bits

FOLDER = "neuropatch"
"""Subfolder of a model for neuropatch's own files: loaders take only those above it for weights."""

_NAME = re.compile(r"undo-(\d{4,9})\.safetensors")


def is_undo_name(name: str) -> bool:
    """Whether a file's name is that of an undo patch."""
    return _NAME.fullmatch(name) is not None


def undo_files(folder: Path) -> list[Path]:
    """The undo patches of a model, oldest first."""
    own = folder / FOLDER
    found = [(_NAME.fullmatch(path.name), path) for path in own.glob("undo-*.safetensors")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


def next_undo(folder: Path) -> Path:
    """Path of the next undo patch of a model."""
    files = undo_files(folder)
    match = _NAME.fullmatch(files[-1].name) if files else None
    number = int(match[1]) + 1 if match else 1
    return folder / FOLDER / f"undo-{number:04d}.safetensors"


def check_gives_back(plan: EditPlan) -> None:
    """Refuse to revert a patch that was applied to a fine-tune, where its undo patch is at hand.

    The patch has the values of its base; the fine-tune's own ones are in the undo patch. An edit
    such as ``zero`` leaves nothing in the model that tells the two apart.

    Raises:
        PatchMismatchError: If the model held other values before than the plan writes.
    """
    for path in undo_files(plan.checkpoint.folder):
        undo = read_patch(path)
        for write in plan.writes:
            for edit in undo.weights:
                if edit.matrix == write.location.matrix and _disagrees(write, edit):
                    raise PatchMismatchError(
                        f"the patch would leave other values in {edit.matrix} than "
                        f"{plan.checkpoint.folder} held before: it was applied to a fine-tune",
                        hint=f"revert {path} instead, which has the fine-tune's own values",
                    )


def _disagrees(write: Write, edit: WeightEdit) -> bool:
    """Whether an edit that is in effect replaced other values than a write puts back."""
    mine = write.change.edit.keys[write.order]
    _, i, j = np.intersect1d(mine, edit.keys, assume_unique=True, return_indices=True)
    if not i.size or edit.before.dtype != write.old.dtype:
        return False
    in_effect = bits(edit.after)[j] == bits(write.old)[i]
    differs = bits(edit.before)[j] != bits(write.new)[i]
    return bool((in_effect & differs).any())
