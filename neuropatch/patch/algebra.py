"""The algebra of patches: union, intersection, difference, and composing with conflicts named.

Edits are compared coordinate by coordinate. Two edits *agree* when they have the same kind,
value and ``before``, bit for bit. Patches of which some edit units and others weights are
brought to weights first, so that a unit's column and a weight in it meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neuropatch.errors import PatchConflictError, PatchMismatchError, UsageError
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.patch.edits import WEIGHT_KINDS, UnitEdit, WeightEdit
from neuropatch.patch.joining import concatenate_units, concatenate_weights
from neuropatch.patch.metadata import merge_metadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import FLOAT_DTYPES, Array

Home = MatrixId | tuple[BlockId, str]
"""Where coordinates are compared: a matrix, or the units of a block under one sort of edit."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Conflict:
    """A coordinate that several patches edit in different ways.

    Attributes:
        place: The weight or unit, in words.
        edits: Position of each patch that edits it, and what it does there, in words.
    """

    place: str
    edits: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        return f"{self.place}: " + ", ".join(f"patch {i + 1} {what}" for i, what in self.edits)


@dataclass(frozen=True)
class _Cells:
    """All edits of one home by all patches, one row an edited coordinate, sorted by it.

    Attributes:
        edits: The edits the rows come from.
        edit: Which edit each row is from, ``[n]``.
        entry: Which entry of that edit, ``[n]``.
        patch: Position of the patch, ``[n]``; ascending within a coordinate.
        first: Index of the first row of the same coordinate, ``[n]``.
        agrees: Whether the row agrees with that first row, ``[n]``.
    """

    edits: list[WeightEdit | UnitEdit]
    edit: NDArray[np.int64]
    entry: NDArray[np.int64]
    patch: NDArray[np.int64]
    first: NDArray[np.int64]
    agrees: Mask

    def kept(self, rows: Mask) -> list[WeightEdit | UnitEdit]:
        """The edits, each restricted to the rows that are true."""
        found = []
        for number, edit in enumerate(self.edits):
            keep = np.zeros(len(edit), dtype=bool)
            keep[self.entry[rows & (self.edit == number)]] = True
            part = edit.take(keep)
            if part is not None:
                found.append(part)
        return found

    def count(self, rows: Mask) -> NDArray[np.int64]:
        """For every row, how many rows of its coordinate are true."""
        return np.bincount(self.first[rows], minlength=len(rows))[self.first]


def union(*patches: NeuronPatch) -> NeuronPatch:
    """All edits of all patches.

    Raises:
        PatchConflictError: If two patches edit one coordinate in different ways.
        PatchMismatchError: If the patches are for different architectures.
    """
    return compose(*patches)


def compose(
    *patches: NeuronPatch, on_conflict: Literal["error", "first", "last"] = "error"
) -> NeuronPatch:
    """One patch that does what all of them do.

    Args:
        patches: At least one patch.
        on_conflict: What counts where patches disagree: nothing (an error that lists the
            coordinates), the first patch, or the last.

    Raises:
        PatchConflictError: If patches disagree and ``on_conflict`` is ``error``.
        PatchMismatchError: If the patches are for different architectures.
    """
    aligned = _align(patches)
    if on_conflict == "error":
        found = _disagreements(aligned)
        count = sum(len(starts) for _, _, starts in found)
        if count:
            first = islice(_conflicts(found), 3)
            shown = "; ".join(map(str, first)) + ("; ..." if count > 3 else "")
            raise PatchConflictError(
                f"the patches disagree on {count} coordinates: {shown}",
                hint="combine patches made on one base, or say which counts with --on-conflict",
            )
    kept: list[WeightEdit | UnitEdit] = []
    for _, cells in _homes(aligned):
        rows = np.arange(len(cells.first))
        if on_conflict == "last":
            chosen = np.append(cells.first[1:] != cells.first[:-1], True)
        else:
            chosen = cells.first == rows
        kept.extend(cells.kept(chosen))
    return _rebuild("union", patches, aligned, kept)


def intersection(*patches: NeuronPatch) -> NeuronPatch:
    """The edits that all patches make, in the same way.

    Raises:
        PatchMismatchError: If the patches are for different architectures.
    """
    aligned = _align(patches)
    kept: list[WeightEdit | UnitEdit] = []
    for _, cells in _homes(aligned):
        shared = cells.count(cells.agrees) == len(aligned)
        kept.extend(cells.kept(shared & (cells.patch == 0)))
    return _rebuild("intersection", patches, aligned, kept)


def difference(patch: NeuronPatch, *others: NeuronPatch) -> NeuronPatch:
    """The edits of ``patch`` at coordinates that no other patch edits in any way.

    Raises:
        PatchMismatchError: If the patches are for different architectures.
    """
    patches = (patch, *others)
    aligned = _align(patches)
    kept: list[WeightEdit | UnitEdit] = []
    for _, cells in _homes(aligned):
        mine = cells.patch == 0
        kept.extend(cells.kept(mine & (cells.count(~mine) == 0)))
    return _rebuild("difference", patches, aligned, kept)


def conflicts(*patches: NeuronPatch) -> list[Conflict]:
    """Every coordinate that two patches edit in different ways, in the order of coordinates.

    Raises:
        PatchMismatchError: If the patches are for different architectures.
    """
    return list(_conflicts(_disagreements(_align(patches))))


def plain(patch: NeuronPatch) -> NeuronPatch:
    """A patch that does the same without being inverted.

    Weights are ``set`` back to ``before``; steering is by the negated vector.
    """
    if not patch.inverted:
        return patch
    steering = tuple(edit for edit in patch.units if edit.kind == "steer")
    weights_only = replace(patch, units=tuple(e for e in patch.units if e.kind != "steer"))
    merged: dict[MatrixId, list[WeightEdit]] = {}
    for change in weights_only.changes():
        merged.setdefault(change.edit.matrix, []).append(change.as_set())
    return replace(
        patch,
        weights=tuple(map(concatenate_weights, merged.values())),
        units=tuple(replace(edit, value=-edit.value) for edit in steering),
        inverted=False,
    )


def _align(patches: Sequence[NeuronPatch]) -> list[NeuronPatch]:
    """Bring patches to one architecture, one direction and one granularity."""
    if not patches:
        raise UsageError("no patches to combine", hint="name at least one patch")
    for position, other in enumerate(patches[1:], start=2):
        different = patches[0].metadata.architecture.differences(other.metadata.architecture)
        if different:
            raise PatchMismatchError(
                f"patch 1 and patch {position} are for different architectures: "
                + "; ".join(different),
                hint="combine patches of one base model",
            )
    aligned = list(patches)
    if len({patch.inverted for patch in aligned}) > 1:
        aligned = [plain(patch) for patch in aligned]
    units = any(edit.kind == "scale" for patch in aligned for edit in patch.units)
    if units and any(patch.weights for patch in aligned):
        aligned = [patch.compiled() for patch in aligned]
    return aligned


def _homes(patches: Sequence[NeuronPatch]) -> Iterator[tuple[Home, _Cells]]:
    """Every home that some patch edits, with its cells."""
    found: dict[Home, list[tuple[int, WeightEdit | UnitEdit]]] = {}
    for position, patch in enumerate(patches):
        for edit in patch.weights:
            found.setdefault(edit.matrix, []).append((position, edit))
        for unit_edit in patch.units:
            found.setdefault((unit_edit.block, unit_edit.kind), []).append((position, unit_edit))
    for home, edits in found.items():
        yield home, _cells(edits)


def _cells(edits: Sequence[tuple[int, WeightEdit | UnitEdit]]) -> _Cells:
    keys = np.concatenate([_keys(edit) for _, edit in edits])
    sizes = [len(edit) for _, edit in edits]
    number = np.repeat(np.arange(len(edits)), sizes)
    patch = np.repeat([position for position, _ in edits], sizes)
    order = np.lexsort((patch, keys))
    keys = keys[order]
    starts = np.append(True, keys[1:] != keys[:-1])
    first = np.flatnonzero(starts)[np.cumsum(starts) - 1]
    identity = _identities([edit for _, edit in edits])[order]
    return _Cells(
        edits=[edit for _, edit in edits],
        edit=number[order],
        entry=np.concatenate([np.arange(size) for size in sizes])[order],
        patch=patch[order],
        first=first,
        agrees=(identity == identity[first]).all(axis=1),
    )


def _keys(edit: WeightEdit | UnitEdit) -> NDArray[np.int64]:
    """One integer a coordinate."""
    return edit.keys if isinstance(edit, WeightEdit) else edit.units


def _identities(edits: Sequence[WeightEdit | UnitEdit]) -> NDArray[np.uint8]:
    """Bytes ``[n, width]`` that are equal exactly when two edits agree."""
    formats = list(FLOAT_DTYPES.values())
    parts = []
    for edit in edits:
        kind = WEIGHT_KINDS.index(edit.kind) if isinstance(edit, WeightEdit) else 0
        codes = [kind]
        columns = []
        for values in (edit.value, edit.before):
            codes.append(255 if values is None else formats.index(values.dtype))
            if values is not None:
                columns.append(_bytes(values))
        head = np.tile(np.array(codes, dtype=np.uint8), (len(edit), 1))
        parts.append(np.hstack([head, *columns]))
    width = max(part.shape[1] for part in parts)
    return np.vstack([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])


def _bytes(values: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)


def _disagreements(
    patches: Sequence[NeuronPatch],
) -> list[tuple[Home, _Cells, NDArray[np.int64]]]:
    """Homes in canonical order, with the first row of each coordinate in conflict."""
    found = []
    for home, cells in sorted(_homes(patches), key=lambda item: _order(item[0])):
        starts = np.unique(cells.first[~cells.agrees])
        if starts.size:
            found.append((home, cells, starts))
    return found


def _order(home: Home) -> tuple[Any, ...]:
    """Canonical order: weights by matrix, then units by block."""
    if isinstance(home, MatrixId):
        return (0, *home.sort_key)
    block, kind = home
    return (1, *MatrixId(*block, "down").sort_key, kind)


def _conflicts(
    found: Sequence[tuple[Home, _Cells, NDArray[np.int64]]],
) -> Iterator[Conflict]:
    for _, cells, starts in found:
        stops = np.searchsorted(cells.first, starts, side="right")
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            edits = [
                (cells.edits[cells.edit[row]], int(cells.entry[row])) for row in range(start, stop)
            ]
            patches = cells.patch[start:stop].tolist()
            what = tuple((p, _describe(*edit)) for p, edit in zip(patches, edits, strict=True))
            yield Conflict(_place(*edits[0]), what)


def _place(edit: WeightEdit | UnitEdit, entry: int) -> str:
    if isinstance(edit, WeightEdit):
        return f"{edit.matrix}[{edit.rows[entry]}, {edit.columns[entry]}]"
    return f"unit {edit.units[entry]} of {edit.block}"


def _describe(edit: WeightEdit | UnitEdit, entry: int) -> str:
    value = "" if edit.value is None else f" {float(edit.value[entry]):.4g}"
    before = f" (was {float(edit.before[entry]):.4g})" if isinstance(edit, WeightEdit) else ""
    return f"{edit.kind}{value}{before}"


def _rebuild(
    operation: str,
    patches: Sequence[NeuronPatch],
    aligned: Sequence[NeuronPatch],
    edits: Sequence[WeightEdit | UnitEdit],
) -> NeuronPatch:
    """A patch of the kept edits, with the provenance of all the patches."""
    weights: dict[tuple[MatrixId, str], list[WeightEdit]] = {}
    units: dict[tuple[BlockId, str], list[UnitEdit]] = {}
    for edit in edits:
        if isinstance(edit, WeightEdit):
            weights.setdefault((edit.matrix, edit.kind), []).append(edit)
        else:
            units.setdefault((edit.block, edit.kind), []).append(edit)
    return NeuronPatch(
        merge_metadata(operation, [patch.metadata for patch in patches]),
        tuple(map(concatenate_weights, weights.values())),
        tuple(map(concatenate_units, units.values())),
        inverted=aligned[0].inverted,
    )
