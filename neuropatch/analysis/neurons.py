"""A patch as sets of neurons, and of weights where it edits no whole neuron.

What is counted follows from the coordinates alone, whatever the edit does there:

- a *unit* is one coordinate of the MLP's hidden activation: edited as such, or as a whole column
  of ``down``, which is what the edit of a unit compiles to;
- an *output neuron* is a whole row of a matrix ``W`` seen as ``[out, in]``;
- every other edited weight counts as one *weight*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from neuropatch.errors import PatchMismatchError, SelectionError
from neuropatch.models.coordinates import ROLES, BlockId, MatrixId
from neuropatch.models.layout import Layout, Signature
from neuropatch.patch.edits import Index
from neuropatch.patch.patch import NeuronPatch

UNITS = "mlp units"
"""The component of units, beside the roles."""

COMPONENTS: tuple[str, ...] = (UNITS, *ROLES)
"""Components that neurons are counted in, in canonical order."""

KINDS: tuple[str, ...] = ("units", "output neurons", "weights")
"""What is counted."""


class Place(NamedTuple):
    """Where neurons or weights of one kind lie.

    Attributes:
        block: The block.
        component: One of :data:`COMPONENTS`.
        kind: One of :data:`KINDS`.
    """

    block: BlockId
    component: str
    kind: str


@dataclass(frozen=True)
class Neurons:
    """The neurons and weights of one patch.

    Attributes:
        name: The patch's name, fit to be shown.
        group: What it is grouped under, such as a category.
        signature: Its architecture.
        sets: Indices in each place, int64, sorted and unique: of units, of rows, or of weights
            as ``row << 32 | column``.
    """

    name: str
    group: str
    signature: Signature
    sets: Mapping[Place, Index]

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Number of each of :data:`KINDS`."""
        counts = dict.fromkeys(KINDS, 0)
        for place, found in self.sets.items():
            counts[place.kind] += len(found)
        return counts

    @property
    def total(self) -> int:
        """Number of neurons and single weights."""
        return sum(self.counts.values())


def neurons_of(patch: NeuronPatch, *, name: str, group: str) -> Neurons:
    """The neurons and weights that a patch edits.

    Args:
        patch: A patch, inverted or not.
        name: Its name.
        group: What it is grouped under.

    Raises:
        ArchitectureError: If nothing is known of its architecture.
        SelectionError: If it edits nothing.
    """
    signature = patch.metadata.architecture
    layout = Layout.from_signature(signature)
    sets: dict[Place, Index] = {}
    for edit in patch.units:
        _add(sets, Place(edit.block, UNITS, "units"), edit.units)
    keys: dict[MatrixId, list[Index]] = {}
    for weight_edit in patch.weights:
        keys.setdefault(weight_edit.matrix, []).append(weight_edit.keys)
    for matrix, parts in keys.items():
        for place, found in _of_matrix(matrix, np.concatenate(parts), layout.shape(matrix)):
            _add(sets, place, found)
    if not sets:
        raise SelectionError(f"{name} edits nothing", hint="leave this patch out")
    return Neurons(name, group, signature, sets)


def _add(sets: dict[Place, Index], place: Place, found: Index) -> None:
    if len(found):
        sets[place] = np.union1d(sets[place], found) if place in sets else np.sort(found)


def _of_matrix(matrix: MatrixId, keys: Index, shape: tuple[int, int]) -> list[tuple[Place, Index]]:
    """What the edited weights of one matrix amount to.

    Columns come first, so that a wholly edited ``down`` is its units and not also its rows.
    """
    rows, columns = keys >> 32, keys & 0xFFFFFFFF
    height, width = shape
    found = []
    left = np.ones(len(keys), dtype=bool)
    if matrix.role == "down":
        whole = np.bincount(columns, minlength=width) == height
        left = ~whole[columns]
        found.append((Place(matrix.block, UNITS, "units"), np.flatnonzero(whole)))
    complete = np.bincount(rows, minlength=height) == width
    neurons = np.unique(rows[left & complete[rows]])
    single = keys[left & ~complete[rows]]
    found.append((Place(matrix.block, matrix.role, "output neurons"), neurons))
    found.append((Place(matrix.block, matrix.role, "weights"), single))
    return found


def capacity(signature: Signature) -> dict[str, int]:
    """How many of each of :data:`KINDS` a model has."""
    layout = Layout.from_signature(signature)
    counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    for matrix in layout.matrices():
        height, width = layout.shape(matrix)
        counts["units"] += width if matrix.role == "down" else 0
        counts["output neurons"] += height
        counts["weights"] += height * width
    return dict(counts)


def check_comparable(patches: Sequence[Neurons]) -> None:
    """Refuse patches whose coordinates mean different things.

    Raises:
        PatchMismatchError: Naming the two patches and what differs.
    """
    first = patches[0]
    for other in patches[1:]:
        differences = first.signature.differences(other.signature)
        if differences:
            raise PatchMismatchError(
                f"{first.name} and {other.name} are for different architectures: "
                + "; ".join(differences),
                hint="analyze patches of one architecture at a time",
            )


def layers_of(signature: Signature) -> tuple[tuple[str, int], ...]:
    """Every layer of an architecture, as its stack and number, in canonical order."""
    layout = Layout.from_signature(signature)
    return tuple(dict.fromkeys((block.stack, block.layer) for block in layout.blocks()))


def components_of(signature: Signature) -> tuple[str, ...]:
    """The components that an architecture has, in canonical order."""
    roles = {matrix.role for matrix in Layout.from_signature(signature).matrices()}
    return tuple(part for part in COMPONENTS if part == UNITS or part in roles)


def counted(patches: Sequence[Neurons]) -> str:
    """What the patches' numbers are numbers of, for an axis or a heading."""
    kinds = {kind for patch in patches for kind in KINDS if patch.counts[kind]}
    if kinds == {"units"}:
        return "MLP units"
    if kinds == {"weights"}:
        return "weights"
    return "neurons and weights" if "weights" in kinds else "neurons"
