"""What a patch changes in a checkpoint: everything read, computed and checked before a write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neuropatch.checkpoint.index import Checkpoint, reading
from neuropatch.checkpoint.location import Location
from neuropatch.checkpoint.rounding import Rounding
from neuropatch.checkpoint.values import Index
from neuropatch.errors import CheckpointError, PatchMismatchError, UsageError
from neuropatch.models.coordinates import MatrixId
from neuropatch.patch.algebra import compose
from neuropatch.patch.drift import Drift
from neuropatch.patch.edits import Change, WeightEdit
from neuropatch.patch.joining import concatenate_weights
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.provenance import library_versions
from neuropatch.storage.dtypes import Array, bits, cast, is_finite


@dataclass(frozen=True)
class Write:
    """New values for some weights of one matrix.

    Attributes:
        change: What the patch does there.
        location: The tensor.
        offsets: Positions in the flattened tensor, sorted and unique, int64 ``[n]``.
        order: Position in the change of each offset, int64 ``[n]``.
        expected: What the base holds there, ``[n]`` in the location's dtype.
        old: The values there now, ``[n]`` in the location's dtype.
        new: The values to write, ``[n]`` in the location's dtype; the file can hold them.
        rounding: What is lost by that, in formats with scales.
    """

    change: Change
    location: Location
    offsets: Index
    order: Index
    expected: Array
    old: Array
    new: Array
    rounding: Rounding


@dataclass(frozen=True)
class EditPlan:
    """Everything that a patch writes into a checkpoint.

    Attributes:
        checkpoint: The checkpoint, as it is now.
        metadata: Provenance of the patch, or of the combination of several.
        writes: The writes, in the order of matrices.
        drift: How far the checkpoint is from what the patch was made for.
    """

    checkpoint: Checkpoint
    metadata: PatchMetadata
    writes: tuple[Write, ...]
    drift: Drift

    @property
    def weights(self) -> int:
        """Number of weights that are written."""
        return sum(len(write.offsets) for write in self.writes)

    @property
    def changed(self) -> int:
        """Number of weights whose value really changes."""
        return sum(int((bits(write.old) != bits(write.new)).sum()) for write in self.writes)

    @property
    def tensors(self) -> int:
        """Number of tensors that are written to."""
        return len({write.location.info.name for write in self.writes})

    @property
    def bytes(self) -> int:
        """Bytes of the values that are written."""
        return sum(write.location.bytes_of(len(write.new)) for write in self.writes)

    @property
    def rounding(self) -> Rounding:
        """What is lost where the file cannot hold a new value."""
        return Rounding.total(write.rounding for write in self.writes)

    def by_shard(self) -> Mapping[str, list[Write]]:
        """The writes of each shard, by file name."""
        groups: dict[str, list[Write]] = {}
        for write in self.writes:
            groups.setdefault(write.location.shard, []).append(write)
        return groups

    def undo_patch(self) -> NeuronPatch:
        """The same change as a patch of this very checkpoint.

        Its ``before`` values are what the checkpoint holds now, in the checkpoint's own format,
        so reverting it gives these bytes back even where the checkpoint is a fine-tune that
        differs from the base of the patch.
        """
        merged: dict[tuple[MatrixId, str], list[WeightEdit]] = {}
        for write in self.writes:
            edit = _rebased(write)
            merged.setdefault((edit.matrix, edit.kind), []).append(edit)
        metadata = PatchMetadata(
            architecture=self.checkpoint.layout.signature,
            base_model=self.checkpoint.source,
            method={"name": "undo", "of": dict(self.metadata.method)},
            datasets=self.metadata.datasets,
            versions=library_versions(),
            license=self.metadata.license,
        )
        return NeuronPatch(metadata, tuple(map(concatenate_weights, merged.values())))


def make_plan(
    checkpoint: Checkpoint, patches: Sequence[NeuronPatch], *, revert: bool = False
) -> EditPlan:
    """Check patches against a checkpoint and work out every new value; nothing is written.

    Args:
        checkpoint: The checkpoint to edit.
        patches: At least one patch; several are done as one.
        revert: Take the patches back instead: the checkpoint must hold them.

    Raises:
        PatchMismatchError: If the architecture differs, a patch steers units, a new value is
            beyond the checkpoint's number format, or the checkpoint does not hold the patches that
            are to be reverted.
        PatchConflictError: If patches edit a weight in different ways.
        CheckpointError: If a tensor cannot take the edit.
    """
    if not patches:
        raise UsageError("no patch is given", hint="name at least one patch")
    for patch in patches:
        patch.check_fits(checkpoint.layout.signature, what=str(checkpoint.folder))
        _refuse_steering(patch)
    patch = patches[0] if len(patches) == 1 else compose(*patches)
    if revert:
        patch = patch.invert()
    changes = patch.changes()
    locations = _locate(checkpoint, changes)
    drift = Drift()
    writes = _compute(checkpoint, changes, locations, drift, reading_back=revert)
    if revert and drift.unequal:
        raise _not_held(checkpoint, writes, drift)
    return EditPlan(checkpoint, patch.metadata, tuple(writes), drift)


def _refuse_steering(patch: NeuronPatch) -> None:
    steering = [edit.block for edit in patch.units if edit.kind == "steer"]
    if steering:
        raise PatchMismatchError(
            f"the patch steers units of {', '.join(map(str, steering[:3]))}, which needs a bias or "
            "run time; nothing was written",
            hint="apply it to a model in memory",
        )


def _locate(checkpoint: Checkpoint, changes: Sequence[Change]) -> list[Location]:
    """Where every change goes, with the checks that need no value."""
    found: dict[MatrixId, Location] = {}
    places: dict[tuple[str, int | None, int | None], MatrixId] = {}
    for change in changes:
        matrix = change.edit.matrix
        location = found.get(matrix)
        if location is None:
            location = found[matrix] = checkpoint.locate(matrix)
            rows = location.slot.row_map
            place = (
                location.info.name,
                location.slot.expert,
                None if rows is None else rows.start,
            )
            other = places.setdefault(place, matrix)
            if other != matrix:
                raise CheckpointError(
                    f"{other} and {matrix} share one tensor, '{location.info.name}'",
                    hint="models whose layers share weights cannot be edited layer by layer",
                )
        _check_bounds(change, location)
    return [found[change.edit.matrix] for change in changes]


def _check_bounds(change: Change, location: Location) -> None:
    rows, columns = location.slot.shape
    if change.edit.rows.max() >= rows or change.edit.columns.max() >= columns:
        raise PatchMismatchError(
            f"{change.edit.matrix}: the patch edits a weight outside {rows} x {columns}",
            hint="apply it to the model it was made from",
        )


def _compute(
    checkpoint: Checkpoint,
    changes: Sequence[Change],
    locations: Sequence[Location],
    drift: Drift,
    *,
    reading_back: bool,
) -> list[Write]:
    """Read the weights that are edited, shard by shard, and compute their new values."""
    by_shard: dict[str, list[int]] = {}
    for number, location in enumerate(locations):
        by_shard.setdefault(location.shard, []).append(number)
    writes: dict[int, Write] = {}
    for shard, numbers in by_shard.items():
        with reading(), checkpoint.path(shard).open("rb") as file:
            for number in numbers:
                writes[number] = _write(
                    file.fileno(), changes[number], locations[number], reading_back=reading_back
                )
    for number in sorted(writes):
        write = writes[number]
        drift.add(write.location.matrix.role, write.expected, write.old)
    return [writes[number] for number in sorted(writes)]


def _write(file: int, change: Change, location: Location, *, reading_back: bool) -> Write:
    offsets = location.slot.offsets(change.edit.rows, change.edit.columns)
    order = np.argsort(offsets)
    offsets = offsets[order]
    old = location.read(file, offsets)
    # Values are computed in the order of the patch, whose parameters are in that order.
    current = np.empty_like(old)
    current[order] = old
    if not (reading_back or is_finite(old)):
        raise CheckpointError(
            f"{location.matrix} holds NaN or infinite values at weights the patch edits "
            f"('{location.info.name}', {location.info.dtype})",
            hint="the model is damaged; download or export it again",
        )
    wanted = change.new_values(current)[order]
    location.check_range(wanted, offsets)
    new = location.rounded(wanted, offsets)
    # What an inverse puts back was held before, and was rounded then if need be.
    lossy = location.scaled is not None and not change.inverted
    rounding = Rounding.of(wanted, new) if lossy else Rounding()
    expected = _expected(change, location, offsets, order)
    return Write(change, location, offsets, order, expected, old, new, rounding)


def _expected(change: Change, location: Location, offsets: Index, order: Index) -> Array:
    """What the location holds of the values that the patch was made for, by sorted offsets."""
    unsorted = np.empty_like(offsets)
    unsorted[order] = offsets
    before = location.rounded(cast(change.edit.before, location.dtype), unsorted)
    expected = location.rounded(change.expected_from(before), unsorted)
    return np.asarray(expected[order])


def _not_held(checkpoint: Checkpoint, writes: Sequence[Write], drift: Drift) -> PatchMismatchError:
    where = []
    for write in writes:
        count = int((bits(write.expected) != bits(write.old)).sum())
        if count:
            where.append(f"{write.location.matrix} ({count})")
    shown = ", ".join(where[:3]) + (", ..." if len(where) > 3 else "")
    return PatchMismatchError(
        f"{checkpoint.folder} does not hold this patch: {drift.unequal} of {drift.weights} weights "
        f"have other values, in {shown}",
        hint="if it was applied to a fine-tune, revert the undo patch in the folder's neuropatch/",
    )


def _rebased(write: Write) -> WeightEdit:
    edit = write.change.edit
    old, new = np.empty_like(write.old), np.empty_like(write.new)
    old[write.order], new[write.order] = write.old, write.new
    if edit.kind == "zero" and not write.change.inverted:
        return WeightEdit(edit.matrix, "zero", edit.rows, edit.columns, old)
    return WeightEdit(edit.matrix, "set", edit.rows, edit.columns, old, new)
