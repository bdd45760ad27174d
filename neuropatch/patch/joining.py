"""Edits of one kind and place joined into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuropatch.errors import PatchMismatchError
from neuropatch.patch.edits import UnitEdit, WeightEdit


def concatenate_weights(edits: Sequence[WeightEdit]) -> WeightEdit:
    """One edit from several of the same kind on the same matrix, at different coordinates.

    Raises:
        PatchMismatchError: If they come from bases in different number formats.
    """
    first = edits[0]
    if len(edits) == 1:
        return first
    _check_formats(edits, str(first.matrix))
    values = [edit.value for edit in edits if edit.value is not None]
    return WeightEdit.build(
        first.matrix,
        first.kind,
        np.concatenate([edit.rows for edit in edits]),
        np.concatenate([edit.columns for edit in edits]),
        np.concatenate([edit.before for edit in edits]),
        np.concatenate(values) if values else None,
    )


def concatenate_units(edits: Sequence[UnitEdit]) -> UnitEdit:
    """One edit from several of the same kind on the same block, of different units.

    Raises:
        PatchMismatchError: If they come from bases in different number formats.
    """
    first = edits[0]
    if len(edits) == 1:
        return first
    _check_formats(edits, str(first.block))
    units = np.concatenate([edit.units for edit in edits])
    order = np.argsort(units)
    before = [edit.before for edit in edits if edit.before is not None]
    return UnitEdit(
        first.block,
        first.kind,
        units[order],
        np.concatenate([edit.value for edit in edits])[order],
        np.concatenate(before)[order] if before else None,
    )


def _check_formats(edits: Sequence[WeightEdit | UnitEdit], where: str) -> None:
    formats = {str(edit.before.dtype) for edit in edits if edit.before is not None}
    if len(formats) > 1:
        raise PatchMismatchError(
            f"{where}: the patches come from bases in {' and '.join(sorted(formats))}",
            hint="combine patches made from one copy of the base model",
        )
