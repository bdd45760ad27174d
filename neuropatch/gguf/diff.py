"""A patch from two GGUF files of one architecture and one quantisation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuropatch.checkpoint.diff import CHUNK_BYTES, CheckpointDiff
from neuropatch.checkpoint.index import reading
from neuropatch.errors import CheckpointError, PatchMismatchError, SelectionError
from neuropatch.gguf.file import GgufFile
from neuropatch.gguf.formats import Blocks, Format, Index, Quantised, Values, format_of
from neuropatch.gguf.names import GgufModel, Place
from neuropatch.gguf.plan import read_blocks
from neuropatch.models.coordinates import ROLES
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import BaseModel, PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.provenance import library_versions
from neuropatch.storage.dtypes import bits, is_finite
from neuropatch.storage.safetensors_file import TensorInfo


def diff_gguf(base: str | Path, model: str | Path) -> CheckpointDiff:
    """Compare two GGUF files, block by block.

    The patch holds decoded values, float32. Applied to the base it gives the model's matrices
    exactly where the two have the same scales, as after an edit by :mod:`neuropatch.gguf.apply`;
    where the scales of a block differ, it gives the nearest values that the base's can hold, and
    the result says so.

    Args:
        base: File that the patch will apply to.
        model: File that it will give.

    Raises:
        CheckpointError: If one is no valid GGUF file, a matrix is quantised otherwise in the two,
            or holds NaN or infinite values where they differ.
        ArchitectureError: If the architecture cannot be edited in GGUF files.
        PatchMismatchError: If the architectures differ.
        SelectionError: If no matrix differs.
    """
    mine, theirs = (GgufModel.bind(GgufFile.open(path)) for path in (base, model))
    different = mine.layout.signature.differences(theirs.layout.signature)
    if different:
        raise PatchMismatchError(
            f"{base} and {model} have different architectures: {'; '.join(different)}",
            hint="compare a file with one that was made from it",
        )
    groups: dict[str, list[Place]] = {}
    for matrix in mine.layout.matrices(ROLES):
        place = mine.locate(matrix)
        _check_same(mine.file, theirs.file, place.info, theirs.locate(matrix).info)
        groups.setdefault(place.info.name, []).append(place)
    edits: list[WeightEdit] = []
    not_carried: dict[str, str] = {}
    with reading(), mine.file.path.open("rb") as left, theirs.file.path.open("rb") as right:
        readers = left.fileno(), right.fileno()
        for name, places in groups.items():
            pair = mine.file.tensors[name], theirs.file.tensors[name]
            found = _compare(readers, pair, format_of(pair[0]))
            edits += _edits(places, found)
            if found.rescaled:
                not_carried[name] = (
                    f"{found.rescaled} of its blocks have other scales, so that the patch gives "
                    "the nearest values only"
                )
        not_carried.update(_others(readers, mine.file, theirs.file, set(groups)))
    if not edits:
        raise SelectionError(
            f"no matrix differs between {base} and {model}"
            + (f"; what differs is {', '.join(sorted(not_carried)[:5])}" if not_carried else ""),
            hint="check that the second one is the edited model",
        )
    metadata = PatchMetadata(
        architecture=mine.layout.signature,
        base_model=BaseModel(mine.file.path.resolve().name),
        method={
            "name": "diff",
            "parameters": {"model": theirs.file.path.resolve().name, "roles": list(ROLES)},
        },
        versions=library_versions(),
    )
    return CheckpointDiff(NeuronPatch(metadata, tuple(edits)), dict(sorted(not_carried.items())))


@dataclass(frozen=True)
class _Differences:
    """Where the values of a tensor differ, what they are, and how many blocks differ in scale."""

    positions: Index
    old: Values
    new: Values
    rescaled: int


def _check_same(mine: GgufFile, theirs: GgufFile, left: TensorInfo, right: TensorInfo) -> None:
    if left.dtype != right.dtype:
        raise CheckpointError(
            f"tensor '{left.name}' is {left.dtype} in {mine.path} and {right.dtype} in "
            f"{theirs.path}",
            hint="convert the two models with the same quantisation",
        )


def _chunks(
    readers: tuple[int, int], pair: tuple[TensorInfo, TensorInfo], form: Format
) -> Iterator[tuple[int, Blocks, Blocks]]:
    """Both files' blocks of a tensor, some at a time, with the number of the first."""
    count = pair[0].numel // form.weights
    step = CHUNK_BYTES // form.size
    for first in range(0, count, step):
        numbers = np.arange(first, min(first + step, count))
        left, right = (
            read_blocks(reader, info, form, numbers)
            for reader, info in zip(readers, pair, strict=True)
        )
        yield first, left, right


def _compare(
    readers: tuple[int, int], pair: tuple[TensorInfo, TensorInfo], form: Format
) -> _Differences:
    positions: list[Index] = [np.empty(0, dtype=np.int64)]
    old: list[Values] = [np.empty(0, dtype=np.float32)]
    new: list[Values] = [np.empty(0, dtype=np.float32)]
    rescaled = 0
    for first, left, right in _chunks(readers, pair, form):
        numbers = np.flatnonzero((left != right).any(axis=1))
        if not numbers.size:
            continue
        left, right = left[numbers], right[numbers]
        rescaled += _other_scales(form, left, right)
        which = np.repeat(np.arange(len(numbers)), form.weights)
        inside = np.tile(np.arange(form.weights), len(numbers))
        before, after = form.values(left, which, inside), form.values(right, which, inside)
        if not (is_finite(before) and is_finite(after)):
            raise CheckpointError(
                f"tensor '{pair[0].name}' holds NaN or infinite values where the two differ",
                hint="one of the two files is damaged",
            )
        differ: NDArray[np.bool_] = bits(before) != bits(after)
        positions.append((((first + numbers)[which]) * form.weights + inside)[differ])
        old.append(before[differ])
        new.append(after[differ])
    return _Differences(
        np.concatenate(positions), np.concatenate(old), np.concatenate(new), rescaled
    )


def _other_scales(form: Format, left: Blocks, right: Blocks) -> int:
    """Number of blocks that differ in more than their levels."""
    if not isinstance(form, Quantised):
        return 0
    levels = np.zeros((len(left), form.weights), dtype=np.int16)
    bare = form.with_levels(left, levels) != form.with_levels(right, levels)
    return int(bare.any(axis=1).sum())


def _edits(places: Sequence[Place], found: _Differences) -> list[WeightEdit]:
    """``set`` edits of the matrices of one tensor."""
    edits = []
    for place in places:
        mine, rows, columns = place.find(found.positions)
        if mine.any():
            old, new = found.old[mine], found.new[mine]
            edits.append(WeightEdit.build(place.matrix, "set", rows, columns, old, new))
    return edits


def _others(
    readers: tuple[int, int], mine: GgufFile, theirs: GgufFile, compared: set[str]
) -> dict[str, str]:
    """Tensors that differ but were not compared as matrices, with how they differ."""
    found = {}
    for name in sorted({*mine.tensors, *theirs.tensors} - compared):
        left, right = mine.tensors.get(name), theirs.tensors.get(name)
        if left is None or right is None:
            found[name] = f"only in {(theirs if left is None else mine).path}"
        elif (left.dtype, left.shape) != (right.dtype, right.shape):
            found[name] = (
                f"{left.dtype} {list(left.shape)} against {right.dtype} {list(right.shape)}"
            )
        elif any(a != b for a, b in _bytes(readers, (left, right))):
            found[name] = "values differ"
    return found


def _bytes(
    readers: tuple[int, int], pair: tuple[TensorInfo, TensorInfo]
) -> Iterator[tuple[bytes, bytes]]:
    """Both files' bytes of a tensor of any format, some at a time."""
    length = pair[0].stop - pair[0].start
    for first in range(0, length, CHUNK_BYTES):
        count = min(CHUNK_BYTES, length - first)
        left, right = (
            os.pread(reader, count, info.start + first)
            for reader, info in zip(readers, pair, strict=True)
        )
        yield left, right
