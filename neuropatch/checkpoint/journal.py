"""Editing a checkpoint in place so that a killed run can be taken back.

The order of writes is: a marker that says an edit has begun, the undo patch with the bytes that
stand there now, and only then the shards; the marker goes last. Whoever finds a marker therefore
knows that the shards hold old values, new values, or some of each, and that the undo patch it
names has the old ones. The rule is to roll back, never to complete: it needs no decision, and the
user simply runs the command again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from neuropatch.checkpoint.clone import in_hub_cache
from neuropatch.checkpoint.edit import Values, verify_shard, write_shard
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.plan import EditPlan
from neuropatch.checkpoint.staging import exclusive, writing
from neuropatch.checkpoint.undo import FOLDER, is_undo_name, next_undo
from neuropatch.errors import CheckpointError, OutputError, PatchMismatchError
from neuropatch.patch.format import read_patch
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import Array
from neuropatch.storage.files import atomic_write, sync_folder

MARKER = "in-place.json"


def check_not_interrupted(folder: Path) -> None:
    """Refuse to read a model that is half edited.

    Raises:
        CheckpointError: If an in-place edit of it was interrupted or is going on.
    """
    own = folder / FOLDER
    # Without its undo patch an edit has not reached the shards yet.
    if (own / MARKER).exists() and (own / _marked(folder)).exists():
        raise CheckpointError(
            f"{folder} is half edited: an in-place edit was interrupted, or is going on",
            hint="any in-place apply or revert rolls it back first; to do only that, run "
            f"neuropatch revert {folder} {own / _marked(folder)} --in-place",
        )


def check_editable(plan: EditPlan) -> None:
    """Refuse to edit files in place that are also someone else's.

    Raises:
        OutputError: If a shard is a link, has several names, lies in the Hub cache or is
            read-only.
    """
    hint = "write the result to a new folder with -o"
    for shard in plan.by_shard():
        path = plan.checkpoint.path(shard)
        if path.is_symlink():
            raise OutputError(f"{path} is a symbolic link to {path.resolve()}", hint=hint)
        if in_hub_cache(path):
            raise OutputError(f"{path} belongs to the Hub cache, which is never changed", hint=hint)
        if path.stat().st_nlink > 1:
            raise OutputError(f"{path} has other names (hard links), which would change", hint=hint)
        if not os.access(path, os.W_OK):
            raise OutputError(f"{path} is read-only", hint=hint)


@contextmanager
def sole_editor(folder: Path) -> Iterator[NeuronPatch | None]:
    """Be the only one who edits a model in place; rolls back an interrupted edit first.

    Yields:
        The undo patch of the edit that was rolled back, or None if there was none.

    Raises:
        OutputError: If another process edits the model, or the folder cannot be written.
    """
    if in_hub_cache(folder):
        raise OutputError(
            f"{folder} belongs to the Hub cache, which is never changed",
            hint="write the result to a new folder with -o",
        )
    lock = folder / FOLDER / "lock"
    with writing(folder), exclusive(lock, busy=f"another neuropatch is editing {folder}"):
        yield _roll_back(folder)


def edit_in_place(plan: EditPlan) -> Path:
    """Write a plan into its own checkpoint; the caller holds :func:`sole_editor`.

    Returns:
        Path of the undo patch.

    Raises:
        OSError, OutputError: If something cannot be written; the model is as before then.
    """
    folder = plan.checkpoint.folder
    own = folder / FOLDER
    undo = next_undo(folder)
    atomic_write(own / MARKER, [json.dumps({"undo": undo.name}).encode()])
    begun: list[str] = []
    try:
        plan.undo_patch().save(undo)
        for shard, writes in plan.by_shard().items():
            begun.append(shard)
            values: list[Values] = [(w.location, w.offsets, w.new) for w in writes]
            write_shard(folder / shard, values)
            verify_shard(folder / shard, values)
    except BaseException:
        for shard in begun:
            writes = plan.by_shard()[shard]
            write_shard(folder / shard, [(w.location, w.offsets, w.old) for w in writes])
        undo.unlink(missing_ok=True)
        _remove_marker(own)
        raise
    _remove_marker(own)
    return undo


def _remove_marker(own: Path) -> None:
    (own / MARKER).unlink()
    sync_folder(own)


def _marked(folder: Path) -> str:
    """The undo patch that the marker names."""
    marker = folder / FOLDER / MARKER
    try:
        name = json.loads(marker.read_bytes())["undo"]
        if is_undo_name(name):
            return str(name)
    except (ValueError, TypeError, KeyError):
        pass
    raise CheckpointError(
        f"{marker} is damaged, so it cannot be said whether {folder} is half edited",
        hint="restore the model from a copy, then remove this file",
    )


def _roll_back(folder: Path) -> NeuronPatch | None:
    own = folder / FOLDER
    for left in own.glob(".*.tmp"):
        left.unlink()
    if not (own / MARKER).exists():
        return None
    undo = own / _marked(folder)
    patch = None
    if undo.exists():
        patch = read_patch(undo)
        _restore(Checkpoint.open(folder), patch)
        undo.unlink()
    # Without an undo patch no shard had been touched.
    _remove_marker(own)
    return patch


def _restore(checkpoint: Checkpoint, undo: NeuronPatch) -> None:
    """Write the values from before back, if every byte there is the old one or the new one."""
    by_shard: dict[str, list[Values]] = {}
    for change in undo.changes():
        location = checkpoint.locate(change.edit.matrix)
        offsets = location.slot.offsets(change.edit.rows, change.edit.columns)
        order = np.argsort(offsets)
        offsets, old, new = offsets[order], change.edit.before[order], change.edit.after[order]
        with checkpoint.path(location.shard).open("rb") as file:
            found = _bytes(location.read_stored(file.fileno(), offsets))
        was, is_new = (_bytes(location.encode(values, offsets)) for values in (old, new))
        # Byte by byte, since a power cut can tear a value.
        if not ((found == was) | (found == is_new)).all():
            raise PatchMismatchError(
                f"{checkpoint.folder}: an in-place edit was interrupted, and {location.matrix} has "
                "been changed by another program since",
                hint=f"restore the model from a copy, then remove {FOLDER}/{MARKER}",
            )
        by_shard.setdefault(location.shard, []).append((location, offsets, old))
    for shard, values in by_shard.items():
        write_shard(checkpoint.path(shard), values)


def _bytes(values: Array) -> Array:
    return np.ascontiguousarray(values).view(np.uint8)
