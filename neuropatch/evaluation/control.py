"""The random control of a patch: as many edits of the same kinds, at places drawn by lot.

A result of a patch means something only if a patch of the same size that knows nothing does not
have it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuropatch.errors import SelectionError
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.modules import model_layout, resolve_parameters
from neuropatch.patch.algebra import plain
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.patch import NeuronPatch
from neuropatch.patch.runtime import to_numpy
from neuropatch.storage.dtypes import Array, cast, compute_dtype

Index = NDArray[np.int64]


def random_control(patch: NeuronPatch, model: nn.Module, seed: int) -> NeuronPatch:
    """A patch of the same size for each matrix and block, at random places.

    In every matrix the control edits as many weights by each kind as the patch does, and in every
    block as many units; none of them is edited by the patch. Factors, deltas and steering
    constants are the patch's, dealt out anew. A ``set`` edit *changes* a weight by one of the
    patch's own changes (new value minus ``before``), since a value that is near the weight it
    was made for may be far from any other weight. ``before`` values are the model's.

    Args:
        patch: The patch; an inverted one counts as the edits that it does.
        model: A model of the patch's architecture that does not hold the patch.
        seed: Seed of the draw: equal seeds give equal controls.

    Raises:
        PatchMismatchError: If the model is of another architecture.
        SelectionError: If the patch leaves too few weights or units to draw from.
        ModelError: If the model's weights cannot be edited.
    """
    layout = model_layout(model)
    patch.check_fits(layout.signature, what="the model")
    rng = np.random.default_rng(seed)
    source = plain(patch)
    weights: dict[MatrixId, list[WeightEdit]] = {}
    for edit in source.weights:
        weights.setdefault(edit.matrix, []).append(edit)
    units: dict[BlockId, list[UnitEdit]] = {}
    for unit_edit in source.units:
        units.setdefault(unit_edit.block, []).append(unit_edit)
    matrices = {*weights, *(MatrixId(*block, "down") for block in units)}
    slots = resolve_parameters(model, layout, sorted(matrices, key=lambda m: m.sort_key))
    matrix_of = {slot.matrix: slot.weight() for slot in slots}
    drawn_units: list[UnitEdit] = []
    columns: dict[MatrixId, Index] = {}
    for block, block_edits in units.items():
        down = MatrixId(*block, "down")
        drawn = _draw_units(block, block_edits, weights.get(down, []), matrix_of[down], rng)
        drawn_units += drawn
        scaled = [edit.units for edit in (*block_edits, *drawn) if edit.kind == "scale"]
        columns[down] = np.concatenate([np.empty(0, np.int64), *scaled])
    drawn_weights = [
        edit
        for matrix, edits in weights.items()
        for edit in _draw_weights(matrix, edits, matrix_of[matrix], columns.get(matrix), rng)
    ]
    metadata = replace(
        source.metadata,
        method={
            "name": "random-control",
            "parameters": {"seed": seed},
            "of": [dict(source.metadata.method)],
        },
        datasets=(),
        evaluation=None,
    )
    return NeuronPatch(metadata, tuple(drawn_weights), tuple(drawn_units))


def _draw_units(
    block: BlockId,
    edits: Sequence[UnitEdit],
    down_edits: Sequence[WeightEdit],
    down: torch.Tensor,
    rng: np.random.Generator,
) -> list[UnitEdit]:
    """Edits of other units: every edited unit is replaced by one drawn unit in all its edits."""
    edited = np.unique(np.concatenate([edit.units for edit in edits]))
    taken = np.concatenate([edited, *(edit.columns for edit in down_edits)])
    free = np.setdiff1d(np.arange(down.shape[1]), taken)
    if len(free) < len(edited):
        raise _no_room(f"{len(edited)} units of {block}", len(free))
    stand_ins = rng.permutation(free)[: len(edited)]
    found = []
    for edit in edits:
        chosen = stand_ins[np.searchsorted(edited, edit.units)]
        order = np.argsort(chosen)
        chosen = chosen[order]
        before = None
        if edit.kind == "scale":
            before = to_numpy(down[:, torch.from_numpy(chosen)].T)
        found.append(UnitEdit(block, edit.kind, chosen, edit.value[order], before))
    return found


def _draw_weights(
    matrix: MatrixId,
    edits: Sequence[WeightEdit],
    weight: torch.Tensor,
    blocked: Index | None,
    rng: np.random.Generator,
) -> list[WeightEdit]:
    """Edits of other weights of a matrix, none of them in a ``blocked`` column."""
    height, width = weight.shape
    open_columns = np.arange(width)
    if blocked is not None:
        open_columns = np.setdiff1d(open_columns, blocked)
    # No edit of the patch lies in a blocked column: a weight is never edited twice.
    taken = np.concatenate(
        [e.rows * len(open_columns) + np.searchsorted(open_columns, e.columns) for e in edits]
    )
    count, room = len(taken), height * len(open_columns)
    if 2 * count > room:
        raise _no_room(f"{count} weights of {matrix}", room - count)
    # Drawing enough to lose every taken one: what is left is a fair draw from the free ones.
    drawn = rng.choice(room, size=2 * count, replace=False)
    drawn = drawn[~np.isin(drawn, taken)][:count]
    found = []
    for edit in edits:
        mine, drawn = drawn[: len(edit)], drawn[len(edit) :]
        rows, columns = mine // len(open_columns), open_columns[mine % len(open_columns)]
        before = to_numpy(weight[torch.from_numpy(rows), torch.from_numpy(columns)])
        value = _values(edit, before, rng.permutation(len(edit)))
        found.append(WeightEdit.build(matrix, edit.kind, rows, columns, before, value))
    return found


def _values(edit: WeightEdit, before: Array, order: Index) -> Array | None:
    """The parameter of an edit, dealt out in another order to weights that are ``before``."""
    if edit.value is None:
        return None
    if edit.kind != "set":
        return edit.value[order].astype(compute_dtype(before.dtype))
    change: Array = edit.value.astype(np.float64) - edit.before.astype(np.float64)
    shifted: NDArray[Any] = before.astype(np.float64) + change[order]
    return cast(shifted, before.dtype)


def _no_room(what: str, free: int) -> SelectionError:
    return SelectionError(
        f"the patch edits {what}; only {free} others are left for a random control",
        hint="evaluate without a control: --controls 0",
    )
