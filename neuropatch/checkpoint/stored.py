"""A patch with the values that a checkpoint holds, whatever format it was made in memory with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neuropatch.checkpoint.index import Checkpoint, reading
from neuropatch.checkpoint.values import Index
from neuropatch.models.coordinates import MatrixId
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import Array


def as_stored(patch: NeuronPatch, checkpoint: Checkpoint) -> NeuronPatch:
    """The same edits with ``before`` values as the files hold them.

    A model that was loaded in another number format holds rounded values, and a patch that
    restores those would not give back the checkpoint's bytes.

    Args:
        patch: A patch that was made from this checkpoint.
        checkpoint: The checkpoint.

    Raises:
        CheckpointError: If a tensor is missing or cannot take an edit.
    """
    return replace(
        patch,
        weights=tuple(_weight_edit(edit, checkpoint) for edit in patch.weights),
        units=tuple(_unit_edit(edit, checkpoint) for edit in patch.units),
    )


def _weight_edit(edit: WeightEdit, checkpoint: Checkpoint) -> WeightEdit:
    before = _values(checkpoint, edit.matrix, edit.rows, edit.columns)
    return replace(edit, before=before)


def _unit_edit(edit: UnitEdit, checkpoint: Checkpoint) -> UnitEdit:
    if edit.before is None:
        return edit
    count, hidden = edit.before.shape
    before = _values(
        checkpoint,
        MatrixId(*edit.block, "down"),
        np.tile(np.arange(hidden), count),
        np.repeat(edit.units, hidden),
    )
    return replace(edit, before=before.reshape(count, hidden))


def _values(checkpoint: Checkpoint, matrix: MatrixId, rows: Index, columns: Index) -> Array:
    location = checkpoint.locate(matrix)
    offsets = location.slot.offsets(rows, columns)
    order = np.argsort(offsets)
    with reading(), checkpoint.path(location.shard).open("rb") as file:
        found = location.read(file.fileno(), offsets[order])
    values = np.empty_like(found)
    values[order] = found
    return values
