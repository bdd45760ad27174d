"""A patch from two checkpoints: what a fine-tune or an edit changed, weight by weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from neuropatch.checkpoint.index import Checkpoint, reading
from neuropatch.checkpoint.journal import check_not_interrupted
from neuropatch.checkpoint.location import Location
from neuropatch.checkpoint.scales import Scaled
from neuropatch.checkpoint.values import Index, unpack_halves
from neuropatch.errors import CheckpointError, PatchMismatchError, SelectionError
from neuropatch.models.coordinates import ROLES, sorted_roles
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.provenance import library_versions
from neuropatch.storage.dtypes import Array, bits, is_finite
from neuropatch.storage.safetensors_file import TensorInfo

CHUNK_BYTES = 1 << 20
"""How much of a tensor is compared at a time: twice as fast as 4 MiB, which leave the cache."""


@dataclass(frozen=True)
class CheckpointDiff:
    """What differs between two checkpoints.

    Attributes:
        patch: ``set`` edits of the weights that differ in bits; applied to the base it gives
            the model's matrices.
        not_carried: Tensors that differ but that the patch cannot carry (embeddings, norms,
            biases, the head, roles that were not asked for), by name, with how they differ.
    """

    patch: NeuronPatch
    not_carried: Mapping[str, str]


def diff_checkpoints(
    base_dir: str | Path, model_dir: str | Path, *, roles: Sequence[str] = ROLES
) -> CheckpointDiff:
    """Compare two checkpoints of one architecture, bit by bit.

    Args:
        base_dir: Folder of the checkpoint that the patch will apply to.
        model_dir: Folder of the checkpoint that it will give.
        roles: Roles whose matrices the patch carries.

    Raises:
        CheckpointError: If a folder is no valid checkpoint, a tensor has another number format
            in the two, or holds NaN or infinite values where they differ.
        PatchMismatchError: If the architectures differ.
        SelectionError: If no matrix differs.
    """
    for folder in (base_dir, model_dir):
        check_not_interrupted(Path(folder))
    base, model = Checkpoint.open(base_dir), Checkpoint.open(model_dir)
    different = base.layout.signature.differences(model.layout.signature)
    if different:
        raise PatchMismatchError(
            f"{base.folder} and {model.folder} have different architectures: "
            + "; ".join(different),
            hint="compare a model with one that was made from it",
        )
    groups = _matrices(base, model, roles)
    edits: list[WeightEdit] = []
    not_carried: dict[str, str] = {}
    with reading(), ExitStack() as stack:
        files = {
            (which, shard): stack.enter_context(which_checkpoint.path(shard).open("rb"))
            for which, which_checkpoint in enumerate((base, model))
            for shard in which_checkpoint.headers
        }
        for (name, _), pairs in groups.items():
            mine, theirs = pairs[0]
            if mine.scaled is not None and theirs.scaled is not None:
                _check_scales(base, model, mine.scaled, theirs.scaled, files)
            found = _differences(files[0, mine.shard], files[1, theirs.shard], mine, theirs)
            carried = _edits([location for location, _ in pairs], *found)
            edits.extend(carried)
            rest = len(found[0]) - sum(map(len, carried))
            if rest:
                not_carried[name] = f"{rest} values outside the roles compared differ"
        compared = {name for pair in groups for name in pair}
        scaled = [one.scaled for pairs in groups.values() for pair in pairs for one in pair]
        compared |= {one.info.name for one in scaled if one is not None}
        not_carried.update(_others(base, model, files, compared))
    if not edits:
        raise SelectionError(
            f"no matrix differs between {base.folder} and {model.folder}"
            + (f"; what differs is {', '.join(sorted(not_carried)[:5])}" if not_carried else ""),
            hint="check that the second one is the edited model",
        )
    metadata = PatchMetadata(
        architecture=base.layout.signature,
        base_model=base.source,
        method={
            "name": "diff",
            "parameters": {"model": model.source.name, "roles": list(sorted_roles(roles))},
        },
        versions=library_versions(),
    )
    return CheckpointDiff(NeuronPatch(metadata, tuple(edits)), dict(sorted(not_carried.items())))


def _matrices(
    base: Checkpoint, model: Checkpoint, roles: Sequence[str]
) -> dict[tuple[str, str], list[tuple[Location, Location]]]:
    """The matrices to compare, grouped by the tensors that hold them."""
    groups: dict[tuple[str, str], list[tuple[Location, Location]]] = {}
    for matrix in base.layout.matrices(roles):
        mine, theirs = base.locate(matrix), model.locate(matrix)
        if (mine.info.dtype, mine.scaled is None) != (theirs.info.dtype, theirs.scaled is None):
            raise CheckpointError(
                f"tensor '{mine.info.name}' is {_format(mine)} in {base.folder} and "
                f"{_format(theirs)} in {model.folder}",
                hint="save one of the two in the number format of the other",
            )
        groups.setdefault((mine.info.name, theirs.info.name), []).append((mine, theirs))
    return groups


def _format(location: Location) -> str:
    return location.info.dtype + (" with scales" if location.scaled else "")


def _chunks(file: BinaryIO, info: TensorInfo) -> Iterator[bytes]:
    """The bytes of a tensor, a chunk at a time."""
    file.seek(info.start)
    for start in range(info.start, info.stop, CHUNK_BYTES):
        wanted = min(CHUNK_BYTES, info.stop - start)
        chunk = file.read(wanted)
        if len(chunk) < wanted:
            raise CheckpointError(
                f"the file of tensor '{info.name}' was cut while it was read",
                hint="download or export it again",
            )
        yield chunk


def _differences(
    base_file: BinaryIO,
    model_file: BinaryIO,
    base: Location,
    model: Location,
) -> tuple[Index, Array, Array]:
    """Positions in the flattened tensor where bits differ, and the two weights there."""
    dtype = base.stored
    offsets: list[Index] = [np.empty(0, dtype=np.int64)]
    old: list[Array] = [np.empty(0, dtype=dtype)]
    new: list[Array] = [np.empty(0, dtype=dtype)]
    first = 0
    for a, b in zip(_chunks(base_file, base.info), _chunks(model_file, model.info), strict=True):
        count = len(a) * 2 if base.packed else len(a) // dtype.itemsize
        if a != b:
            left, right = (_numbers(chunk, base) for chunk in (a, b))
            where = np.flatnonzero(bits(left) != bits(right))
            offsets.append(where + first)
            old.append(left[where])
            new.append(right[where])
        first += count
    places = np.concatenate(offsets)
    before, after = np.concatenate(old), np.concatenate(new)
    if not places.size:
        return places, before, after
    return places, base.decode(before, places), model.decode(after, places)


def _numbers(chunk: bytes, location: Location) -> Array:
    """The numbers that a chunk of a tensor holds, in its stored format."""
    if location.packed:
        return unpack_halves(np.frombuffer(chunk, np.uint8)).view(location.stored)
    return np.frombuffer(chunk, location.stored)


def _check_scales(
    base: Checkpoint,
    model: Checkpoint,
    mine: Scaled,
    theirs: Scaled,
    files: Mapping[tuple[int, str], BinaryIO],
) -> None:
    """Refuse tensors that were quantised apart: numbers of other scales fit the base's nowhere."""
    left = _chunks(files[0, mine.path.name], mine.info)
    right = _chunks(files[1, theirs.path.name], theirs.info)
    same = (mine.info.dtype, mine.info.shape) == (theirs.info.dtype, theirs.info.shape)
    if not same or any(a != b for a, b in zip(left, right, strict=True)):
        raise CheckpointError(
            f"'{mine.info.name}' differs between {base.folder} and {model.folder}: they were "
            "quantised apart, so no patch of the one gives the other",
            hint="compare them before quantisation, or dequantise both",
        )


def _edits(
    locations: Sequence[Location], offsets: Index, old: Array, new: Array
) -> list[WeightEdit]:
    """``set`` edits of the matrices of one tensor."""
    if not offsets.size:
        return []
    edits = []
    for location in locations:
        mine, rows, columns = location.slot.find(offsets)
        if not mine.any():
            continue
        if not (is_finite(old[mine]) and is_finite(new[mine])):
            raise CheckpointError(
                f"tensor '{location.info.name}' holds NaN or infinite values where the two differ",
                hint="one of the two checkpoints is damaged",
            )
        edits.append(WeightEdit.build(location.matrix, "set", rows, columns, old[mine], new[mine]))
    return edits


def _others(
    base: Checkpoint,
    model: Checkpoint,
    files: Mapping[tuple[int, str], BinaryIO],
    compared: set[str],
) -> dict[str, str]:
    """Tensors that differ but were not compared as matrices, with how they differ."""
    found: dict[str, str] = {}
    ties = {tied.tensors[0]: tied.when for tied in base.layout.definition.tied}
    for name in sorted({*base.tensors, *model.tensors} - compared):
        if name not in base.tensors or name not in model.tensors:
            holder = base if name in base.tensors else model
            # A head that is tied to the embeddings may be left out of a file.
            if name not in ties or not holder.config.get(ties[name], True):
                found[name] = f"only in {holder.folder}"
            continue
        mine, theirs = base.tensor(name), model.tensor(name)
        if (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
            found[name] = (
                f"{mine.dtype} {list(mine.shape)} against {theirs.dtype} {list(theirs.shape)}"
            )
            continue
        left = _chunks(files[0, base.tensors[name]], mine)
        right = _chunks(files[1, model.tensors[name]], theirs)
        if any(a != b for a, b in zip(left, right, strict=True)):
            found[name] = "values differ"
    return found
