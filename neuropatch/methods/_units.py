"""From scores of units to a patch: budget, selection, edits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from neuropatch.errors import SelectionError, UsageError
from neuropatch.methods._base import Inputs, Method
from neuropatch.methods._edits import Edit, unit_edits
from neuropatch.methods._metadata import patch_metadata
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.layout import Layout
from neuropatch.patch.patch import NeuronPatch

Place = TypeVar("Place", bound="BlockId | MatrixId")
"""What units belong to: a block, or the matrix whose outputs stand for units."""

UnitScores = Mapping[BlockId, NDArray[np.float64]]
"""``[units]`` of each block: the larger, the more a unit is to blame."""

UnitSets = dict[BlockId, NDArray[np.int64]]
"""Sorted indices of units by block; blocks without any are absent."""

DEFAULT_BUDGET = 5e-4
"""Share of the units that is edited at most when the user names none."""

UNIT_SCOPES = ("model", "layer")
"""Within what units are counted."""


@dataclass(frozen=True)
class UnitConfig:
    """Parameters of every method that finds units.

    Attributes:
        max_neurons: Most units that are edited (of a layer, if that is the scope).
        budget: The same as a share of the units; 0.0005 if neither is given.
        scope: Within what they are counted: ``model`` or ``layer``.
        edit: What is done to them, see :class:`neuropatch.methods._edits.Edit`.
        strength: How strongly.

    Raises:
        UsageError: If a parameter is out of range, or both amounts are given.
    """

    max_neurons: int | None = None
    budget: float | None = None
    scope: str = "model"
    edit: str = "zero"
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.max_neurons is not None and self.budget is not None:
            raise UsageError(
                "--max-neurons and --budget say the same thing twice", hint="give one of them"
            )
        if self.max_neurons is not None and self.max_neurons < 1:
            raise UsageError(f"--max-neurons is {self.max_neurons}", hint="ask for at least 1")
        if self.budget is not None and not 0 < self.budget < 1:
            raise UsageError(f"--budget is {self.budget:g}", hint="give a share between 0 and 1")
        if self.scope not in UNIT_SCOPES:
            raise UsageError(
                f"unknown scope '{self.scope}'", hint=f"choose {' or '.join(UNIT_SCOPES)}"
            )
        self.what()

    def what(self) -> Edit:
        """The edit."""
        return Edit(self.edit, self.strength)

    def count(self, units: int) -> int:
        """How many units of a group are edited at most.

        Raises:
            SelectionError: If the budget is less than one unit.
        """
        if self.max_neurons is not None:
            return min(self.max_neurons, units)
        budget = DEFAULT_BUDGET if self.budget is None else self.budget
        count = math.floor(budget * units)
        if not count:
            raise SelectionError(
                f"--budget {budget:g} of {units:,} units is less than one",
                hint="give --max-neurons 1 or more",
            )
        return count


def unit_blocks(layout: Layout) -> dict[BlockId, int]:
    """Number of units of each block that has an MLP, in canonical order."""
    return {matrix.block: layout.shape(matrix)[1] for matrix in layout.matrices(("down",))}


def check_units(layout: Layout, config: UnitConfig) -> None:
    """Refuse a budget that is no unit at all.

    Raises:
        SelectionError: If it is.
    """
    group_counts(unit_blocks(layout), config)


def select_units(
    scores: Mapping[Place, NDArray[np.float64]], config: UnitConfig
) -> dict[Place, NDArray[np.int64]]:
    """The units with the highest scores; ties go to the lower coordinate.

    A unit whose score is 0 or less is never selected: nothing says that it is to blame.

    Raises:
        SelectionError: If no score is above 0.
    """
    sizes = {block: len(values) for block, values in scores.items()}
    selected: dict[Place, NDArray[np.int64]] = {}
    for blocks, count in group_counts(sizes, config):
        flat = np.concatenate([scores[block] for block in blocks])
        if np.isnan(flat).any():
            raise SelectionError("a score is not a number", hint="use --dtype float32")
        order = np.argsort(-flat, kind="stable")[:count]
        chosen = np.sort(order[flat[order] > 0])
        starts = np.cumsum([0, *(sizes[block] for block in blocks)])
        for block, start, stop in zip(blocks, starts, starts[1:], strict=False):
            mine = chosen[(chosen >= start) & (chosen < stop)] - start
            if len(mine):
                selected[block] = mine.astype(np.int64)
    if not selected:
        raise SelectionError(
            "no unit is to blame: every score is 0 or less",
            hint="weigh the data sets that are kept less, or give other records",
        )
    return selected


def unit_patch(
    inputs: Inputs,
    method: Method,
    config: UnitConfig,
    units: UnitSets,
    *,
    found: Mapping[str, Any] | None = None,
) -> NeuronPatch:
    """The patch that edits units.

    Args:
        inputs: What the method worked on.
        method: The method.
        config: Its parameters, all of which are recorded.
        units: Sorted indices of units by block.
        found: What else the patch records beside the parameters, in types that JSON knows.
    """
    metadata = patch_metadata(inputs, method, {**asdict(config), **(found or {})})
    return NeuronPatch(metadata, (), unit_edits(inputs, units, config.what()))


def group_counts(sizes: Mapping[Place, int], config: UnitConfig) -> list[tuple[list[Place], int]]:
    """The groups within which units are counted, and how many are edited of each at most.

    Args:
        sizes: Number of units of each block.
        config: The amount, and the scope.

    Raises:
        SelectionError: If the budget is less than one unit of a group.
    """
    groups: dict[tuple[str, int] | None, list[Place]] = {}
    for block in sizes:
        groups.setdefault(None if config.scope == "model" else block[:2], []).append(block)
    return [
        (blocks, config.count(sum(sizes[block] for block in blocks))) for blocks in groups.values()
    ]
