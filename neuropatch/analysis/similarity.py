"""How much the neuron sets of patches, and of groups of patches, have in common.

Figure 4 of LPNL (arXiv 2405.10989). For sets ``A`` and ``B``:

    Jaccard index        |A and B| / |A or B|
    overlap coefficient  |A and B| / min(|A|, |B|)

Beside the number of shared neurons stands the number that two random sets of the same sizes would
share on average, ``sum over kinds of |A| |B| / N`` with ``N`` the number in the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuropatch.analysis.distribution import Level
from neuropatch.analysis.neurons import KINDS, Neurons, capacity

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """What two patches have in common.

    Attributes:
        first: Position of the one patch.
        second: Position of the other.
        shared: Neurons and weights in both.
        by_chance: Mean of ``shared`` over random sets of the same sizes.
        jaccard: Jaccard index; None if the patches hold nothing of one kind, so that they could
            not meet.
        overlap: Overlap coefficient, or None.
    """

    first: int
    second: int
    shared: int
    by_chance: float
    jaccard: float | None
    overlap: float | None


@dataclass(frozen=True)
class Matrix:
    """Similarities of all pairs of patches, or of groups.

    Attributes:
        names: What is compared, ``n`` names.
        jaccard: Jaccard indices, ``[n, n]``, symmetric; NaN where there is none.
        overlap: Overlap coefficients, ``[n, n]``, likewise.
    """

    names: tuple[str, ...]
    jaccard: Floats
    overlap: Floats


@dataclass(frozen=True)
class Similarity:
    """Similarities of patches and of their groups.

    Attributes:
        pairs: Every pair of patches once, a patch with itself left out.
        patches: Patch by patch; 1 on the diagonal.
        groups: Group by group: the mean over pairs of different patches, one of each. On the
            diagonal the mean over pairs within the group, 1 if it has one patch.
        sizes: Number of neurons and weights of each patch.
    """

    pairs: tuple[Pair, ...]
    patches: Matrix
    groups: Matrix
    sizes: tuple[int, ...]

    def rows(self) -> list[dict[str, Any]]:
        """The similarities as one record for each pair of patches, and of groups."""
        names = self.patches.names
        rows: list[dict[str, Any]] = [
            {
                "level": "patch",
                "first": names[pair.first],
                "second": names[pair.second],
                "first_size": self.sizes[pair.first],
                "second_size": self.sizes[pair.second],
                "shared": pair.shared,
                "shared_by_chance": pair.by_chance,
                "jaccard": pair.jaccard,
                "overlap": pair.overlap,
            }
            for pair in self.pairs
        ]
        level: Level = "group"
        for i, j in zip(*np.triu_indices(len(self.groups.names)), strict=True):
            rows.append(
                {
                    "level": level,
                    "first": self.groups.names[i],
                    "second": self.groups.names[j],
                    **dict.fromkeys(("first_size", "second_size", "shared", "shared_by_chance")),
                    "jaccard": _known(self.groups.jaccard[i, j]),
                    "overlap": _known(self.groups.overlap[i, j]),
                }
            )
        return rows


def similarity(patches: Sequence[Neurons]) -> Similarity:
    """Compare patches pair by pair.

    Args:
        patches: At least two, of one architecture.
    """
    sizes = capacity(patches[0].signature)
    pairs = tuple(
        _pair(patches, first, second, sizes)
        for first in range(len(patches))
        for second in range(first + 1, len(patches))
    )
    every = Matrix(
        tuple(patch.name for patch in patches), np.eye(len(patches)), np.eye(len(patches))
    )
    for pair in pairs:
        for values, value in ((every.jaccard, pair.jaccard), (every.overlap, pair.overlap)):
            values[pair.first, pair.second] = np.nan if value is None else value
            values[pair.second, pair.first] = values[pair.first, pair.second]
    groups = tuple(dict.fromkeys(patch.group for patch in patches))
    members = [[i for i, patch in enumerate(patches) if patch.group == name] for name in groups]
    return Similarity(
        pairs,
        every,
        Matrix(groups, _means(every.jaccard, members), _means(every.overlap, members)),
        tuple(patch.total for patch in patches),
    )


def _pair(patches: Sequence[Neurons], first: int, second: int, sizes: dict[str, int]) -> Pair:
    one, other = patches[first], patches[second]
    shared = sum(
        len(np.intersect1d(found, other.sets[place], assume_unique=True))
        for place, found in one.sets.items()
        if place in other.sets
    )
    common = [kind for kind in KINDS if one.counts[kind] and other.counts[kind]]
    by_chance = sum(one.counts[kind] * other.counts[kind] / sizes[kind] for kind in common)
    if not common:
        return Pair(first, second, 0, 0.0, None, None)
    return Pair(
        first,
        second,
        shared,
        by_chance,
        shared / (one.total + other.total - shared),
        shared / min(one.total, other.total),
    )


def _means(values: Floats, members: Sequence[Sequence[int]]) -> Floats:
    """Means over pairs of different patches, one of each group, ``[groups, groups]``."""
    means = np.full((len(members), len(members)), np.nan)
    for i, ones in enumerate(members):
        for j, others in enumerate(members):
            every = [values[a, b] for a in ones for b in others if a != b]
            if not every:
                means[i, j] = 1.0
            elif not np.isnan(every).any():
                means[i, j] = np.mean(every)
    return means


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
