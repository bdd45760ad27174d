"""From the units that a method found to edits of a patch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neuropatch.errors import UsageError
from neuropatch.methods._base import Inputs
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.modules import resolve_parameters
from neuropatch.patch.edits import UnitEdit
from neuropatch.patch.runtime import to_numpy

EDITS = ("zero", "scale")
"""Kinds of edits."""


@dataclass(frozen=True)
class Edit:
    """What is done to what a method found.

    Attributes:
        kind: One of :data:`EDITS`.
        strength: For ``scale`` the factor.

    Raises:
        UsageError: If the kind is unknown, or the strength missing or without effect.
    """

    kind: str = "zero"
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in EDITS:
            raise UsageError(f"unknown edit '{self.kind}'", hint=f"choose {', '.join(EDITS)}")
        if (self.strength is None) != (self.kind == "zero"):
            raise UsageError(
                f"--edit {self.kind} and --strength do not go together"
                if self.kind == "zero"
                else f"--edit {self.kind} needs --strength",
                hint="--strength is the factor of --edit scale",
            )


def unit_edits(
    inputs: Inputs, units: Mapping[BlockId, NDArray[np.int64]], edit: Edit
) -> tuple[UnitEdit, ...]:
    """Edits of units.

    Args:
        inputs: What the method worked on.
        units: Sorted indices of units by block.
        edit: What to do to them.
    """
    blocks = [block for block, chosen in units.items() if len(chosen)]
    downs = [MatrixId(*block, "down") for block in blocks]
    edits = []
    for block, slot in zip(
        blocks, resolve_parameters(inputs.model, inputs.layout, downs), strict=True
    ):
        chosen = units[block]
        columns = slot.weight()[:, torch.from_numpy(chosen)].T
        factor = 0.0 if edit.strength is None else edit.strength
        value = np.full(len(chosen), factor, dtype=np.float32)
        edits.append(UnitEdit(block, "scale", chosen, value, to_numpy(columns)))
    return tuple(edits)
