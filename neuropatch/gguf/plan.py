"""What a patch changes in a GGUF file: everything read, computed and checked before a write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from neuropatch.checkpoint.index import reading
from neuropatch.checkpoint.values import read_values
from neuropatch.errors import CheckpointError, PatchMismatchError, UsageError
from neuropatch.gguf.file import GgufFile
from neuropatch.gguf.formats import Blocks, Format, Index, Represented, Values, format_of
from neuropatch.gguf.names import GgufModel, Place
from neuropatch.models.coordinates import MatrixId
from neuropatch.patch.algebra import compose
from neuropatch.patch.drift import Drift
from neuropatch.patch.edits import Change, WeightEdit
from neuropatch.patch.joining import concatenate_weights
from neuropatch.patch.metadata import BaseModel, PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.provenance import library_versions
from neuropatch.storage.dtypes import bits, is_finite
from neuropatch.storage.safetensors_file import TensorInfo


@dataclass
class Requantisation:
    """What rounding to the levels of a format did to the edited weights.

    Attributes:
        weights: Number of edited weights.
        blocks: Number of blocks they lie in.
        others: Number of the other weights of those blocks.
        largest: Largest distance of a weight from the value that the patch asks for.
        squares: Sum of the squares of those distances.
        change_squares: Sum of the squares of the changes that the patch asks for.
        others_moved: Largest change of one of the other weights.
    """

    weights: int = 0
    blocks: int = 0
    others: int = 0
    largest: float = 0.0
    squares: float = 0.0
    change_squares: float = 0.0
    others_moved: float = 0.0

    def add(self, targets: Values, values: Values, before: Values) -> None:
        """Count edited weights ``[n]``: what was asked for, what was stored, and what it was."""
        distance = np.abs(values.astype(np.float64) - targets)
        self.weights += len(values)
        self.largest = max(self.largest, float(distance.max()))
        self.squares += float((distance**2).sum())
        self.change_squares += float(((targets.astype(np.float64) - before) ** 2).sum())

    @property
    def rms(self) -> float:
        """Root of the mean square of the distances."""
        return float(np.sqrt(self.squares / self.weights))

    @property
    def relative(self) -> float:
        """Norm of the errors over the norm of the change that the patch asks for."""
        return float(np.sqrt(self.squares / self.change_squares)) if self.change_squares else 0.0

    def to_json(self) -> dict[str, Any]:
        """The numbers as a JSON document."""
        return {
            "weights": self.weights,
            "blocks": self.blocks,
            "max_error": self.largest,
            "rms_error": self.rms,
            "relative_error": self.relative,
            "other_weights": self.others,
            "other_weights_moved": self.others_moved,
        }


@dataclass(frozen=True)
class TensorEdit:
    """New blocks of one tensor.

    Attributes:
        info: The tensor.
        numbers: Positions of the blocks in the tensor, sorted, int64 ``[m]``.
        old: The blocks as they are, uint8 ``[m, size]``.
        new: The blocks to write, uint8 ``[m, size]``.
    """

    info: TensorInfo
    numbers: Index
    old: Blocks
    new: Blocks


@dataclass(frozen=True)
class GgufPlan:
    """Everything that a patch writes into a GGUF file.

    Attributes:
        model: The file, as it is now.
        metadata: Provenance of the patch, or of the combination of several.
        tensors: The new blocks.
        undo_edits: The same change as edits of this very file, values in float32.
        changed: Number of weights that get another value.
        drift: How far the file is from what the patch was made for, as its blocks can tell: a
            weight is equal if the patch's value rounds to its level.
        errors: What rounding did, by the format of the tensors.
    """

    model: GgufModel
    metadata: PatchMetadata
    tensors: tuple[TensorEdit, ...]
    undo_edits: tuple[WeightEdit, ...]
    changed: int
    drift: Drift
    errors: Mapping[str, Requantisation]

    def undo_patch(self) -> NeuronPatch:
        """The same change as a patch of this very file, whose revert gives its bytes back."""
        merged: dict[MatrixId, list[WeightEdit]] = {}
        for edit in self.undo_edits:
            merged.setdefault(edit.matrix, []).append(edit)
        metadata = PatchMetadata(
            architecture=self.model.layout.signature,
            base_model=BaseModel(self.model.file.path.resolve().name),
            method={"name": "undo", "of": dict(self.metadata.method)},
            datasets=self.metadata.datasets,
            versions=library_versions(),
            license=self.metadata.license,
        )
        return NeuronPatch(metadata, tuple(map(concatenate_weights, merged.values())))


@dataclass
class _Found:
    """What the tensors have given so far."""

    revert: bool
    tensors: list[TensorEdit] = field(default_factory=list)
    undo_edits: list[WeightEdit] = field(default_factory=list)
    changed: int = 0
    drift: Drift = field(default_factory=Drift)
    errors: dict[str, Requantisation] = field(default_factory=dict)
    inexact: int = 0


def make_gguf_plan(
    file: GgufFile, patches: Sequence[NeuronPatch], *, revert: bool = False
) -> GgufPlan:
    """Check patches against a GGUF file and work out every new block; nothing is written.

    Args:
        file: The file.
        patches: At least one patch; several are done as one.
        revert: Take the patches back instead: the file must hold them.

    Raises:
        PatchMismatchError: If the architecture differs, a patch steers units, a new value lies
            outside what its block can hold, or the file does not hold the patches that are to be
            reverted, or they do not have its own values from before.
        PatchConflictError: If patches edit a weight in different ways.
        ArchitectureError: If the architecture cannot be edited in GGUF files.
        CheckpointError: If a tensor cannot take the edit.
    """
    if not patches:
        raise UsageError("no patch is given", hint="name at least one patch")
    model = GgufModel.bind(file, [p.metadata.architecture.model_type for p in patches])
    for patch in patches:
        patch.check_fits(model.layout.signature, what=str(file.path))
        if any(edit.kind == "steer" for edit in patch.units):
            raise PatchMismatchError(
                "the patch steers units, which needs a bias or run time; nothing was written",
                hint="apply it to a model in memory",
            )
    patch = patches[0] if len(patches) == 1 else compose(*patches)
    if revert:
        patch = patch.invert()
    groups: dict[str, list[tuple[Change, Place]]] = {}
    for change in patch.changes():
        place = model.locate(change.edit.matrix)
        groups.setdefault(place.info.name, []).append((change, place))
    found = _Found(revert)
    with reading(), file.path.open("rb") as reader:
        for edits in groups.values():
            _edit_tensor(reader.fileno(), edits, found)
    if revert:
        _check_held(file, found)
    return GgufPlan(
        model,
        patch.metadata,
        tuple(found.tensors),
        tuple(found.undo_edits),
        found.changed,
        found.drift,
        found.errors,
    )


def _edit_tensor(reader: int, edits: Sequence[tuple[Change, Place]], found: _Found) -> None:
    """Work out the new blocks of one tensor from all changes of it."""
    info = edits[0][1].info
    form = format_of(info)
    positions = [place.positions(change.edit.rows, change.edit.columns) for change, place in edits]
    parts = [slice(*pair) for pair in pairwise(np.cumsum([0, *map(len, positions)]).tolist())]
    together = np.concatenate(positions)
    order = np.argsort(together)
    numbers, which = np.unique(together[order] // form.weights, return_inverse=True)
    inside = together[order] % form.weights
    old = read_blocks(reader, info, form, numbers)
    current = _scattered(form.values(old, which, inside), order)
    if not is_finite(current):
        raise CheckpointError(
            f"tensor '{info.name}' ({info.dtype}) has NaN or infinite values in blocks that the "
            "patch edits",
            hint="the model is damaged; download or convert it again",
        )
    targets, expected = np.empty_like(current), np.empty_like(current)
    for (change, _), part in zip(edits, parts, strict=True):
        targets[part] = change.new_values(current[part])
        expected[part] = change.expected_as(current.dtype)
    result = form.represent(old, which, inside, targets[order])
    _check_fits(info, result, targets[order])
    new = form.put(old, which, inside, result.codes)
    _check_returns(info, form, (old, new), which, inside)
    held = _scattered(form.represent(old, which, inside, expected[order]).values, order)
    values = _scattered(result.values, order)
    found.tensors.append(TensorEdit(info, numbers, old, new))
    for (change, place), part in zip(edits, parts, strict=True):
        edit = change.edit
        found.drift.add(place.matrix.role, held[part], current[part])
        found.undo_edits.append(
            WeightEdit(edit.matrix, "set", edit.rows, edit.columns, current[part], values[part])
        )
    found.changed += int((bits(values) != bits(current)).sum())
    found.inexact += int((bits(values) != bits(targets)).sum())
    entry = found.errors.setdefault(info.dtype, Requantisation())
    entry.add(targets, values, current)
    entry.blocks += len(numbers)
    entry.others += len(numbers) * form.weights - len(values)
    entry.others_moved = max(entry.others_moved, form.others_moved(old, new, which, inside))


def read_blocks(reader: int, info: TensorInfo, form: Format, numbers: Index) -> Blocks:
    """Read blocks of a tensor: uint8 ``[m, size]``."""
    blocks = read_values(reader, info, np.dtype(f"V{form.size}"), numbers)
    return blocks.view(np.uint8).reshape(-1, form.size)


def _scattered(values: Values, order: Index) -> Values:
    """Values in the order of the changes, from those in the order of positions."""
    result = np.empty_like(values)
    result[order] = values
    return result


def _check_fits(info: TensorInfo, result: Represented, targets: Values) -> None:
    outside = int((~result.fits).sum())
    if outside:
        worst = float(np.abs(result.values.astype(np.float64) - targets)[~result.fits].max())
        raise PatchMismatchError(
            f"{outside} of {len(targets)} new values of '{info.name}' lie outside what their "
            f"blocks can hold ({info.dtype}), by up to {worst:.3g}; nothing was written",
            hint="apply the patch to the safetensors checkpoint, then convert the result to GGUF",
        )


def _check_returns(
    info: TensorInfo, form: Format, blocks: tuple[Blocks, Blocks], which: Index, inside: Index
) -> None:
    """Refuse blocks whose levels decode to one value, so that its value does not tell a level."""
    old, new = blocks
    back = form.represent(new, which, inside, form.values(old, which, inside))
    if not np.array_equal(form.put(new, which, inside, back.codes), old):
        raise CheckpointError(
            f"tensor '{info.name}' has blocks whose scale is too small beside their minimum: an "
            "edit of them could not be taken back",
            hint="convert the model again",
        )


def _check_held(file: GgufFile, found: _Found) -> None:
    """Refuse to revert what the file does not hold, or what would not give its bytes back."""
    hint = "revert the undo patch that apply wrote beside the file"
    if found.drift.unequal:
        raise PatchMismatchError(
            f"{file.path} does not hold this patch: {found.drift.unequal} of "
            f"{found.drift.weights} weights have other values",
            hint=hint,
        )
    if found.inexact:
        raise PatchMismatchError(
            f"the patch has other values from before than {file.path} can hold: it was made from "
            "a model in another number format",
            hint=hint,
        )
