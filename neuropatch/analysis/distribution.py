"""How the neurons of patches are spread over layers and over components.

Figures 2 and 3 of LPNL (arXiv 2405.10989): for every layer, and for every component, the number
and the share of a patch's neurons, with mean and standard deviation over patches of one group
(such as seeds) and over groups (such as data sets or categories).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neuropatch.analysis.neurons import Neurons, components_of, layers_of

Floats = NDArray[np.float64]

Level = Literal["patch", "group", "all"]


@dataclass(frozen=True)
class Series:
    """One line of a distribution.

    Attributes:
        level: A ``patch``, the patches of one ``group``, or ``all`` groups alike.
        name: The patch or group.
        members: How many patches, or for ``all`` groups, the means are taken over.
        count: Number of neurons in each place, ``[places]``; the mean over members.
        share: Share of the patch's neurons in each place, from 0 to 1, ``[places]``; the mean.
        count_std: Sample standard deviation of ``count`` over members; None for one member.
        share_std: The same of ``share``.
    """

    level: Level
    name: str
    members: int
    count: Floats
    share: Floats
    count_std: Floats | None = None
    share_std: Floats | None = None


@dataclass(frozen=True)
class Distribution:
    """Neurons over places.

    Attributes:
        places: The layers or components, in canonical order.
        series: Every patch, then every group, then all groups if there are several.
    """

    places: tuple[str, ...]
    series: tuple[Series, ...]

    def of(self, level: Level) -> tuple[Series, ...]:
        """The series of one level."""
        return tuple(series for series in self.series if series.level == level)

    def rows(self, place: str) -> list[dict[str, Any]]:
        """The distribution as one record for each series and place.

        Args:
            place: Name of the column of places, such as ``layer``.
        """
        return [
            {
                "level": series.level,
                "series": series.name,
                place: name,
                "members": series.members,
                "count": float(series.count[i]),
                "count_std": None if series.count_std is None else float(series.count_std[i]),
                "share": float(series.share[i]),
                "share_std": None if series.share_std is None else float(series.share_std[i]),
            }
            for series in self.series
            for i, name in enumerate(self.places)
        ]


def over_layers(patches: Sequence[Neurons]) -> Distribution:
    """Neurons in each layer, experts of a layer together.

    Args:
        patches: At least one, of one architecture.
    """
    layers = layers_of(patches[0].signature)
    index = {layer: number for number, layer in enumerate(layers)}
    counts = np.zeros((len(patches), len(layers)))
    for row, patch in enumerate(patches):
        for place, found in patch.sets.items():
            counts[row, index[place.block.stack, place.block.layer]] += len(found)
    return _distribution(patches, tuple(f"{stack}.{layer}" for stack, layer in layers), counts)


def over_components(patches: Sequence[Neurons]) -> Distribution:
    """Neurons in each component: MLP units, and roles.

    Args:
        patches: At least one, of one architecture.
    """
    components = components_of(patches[0].signature)
    counts = np.zeros((len(patches), len(components)))
    for row, patch in enumerate(patches):
        for place, found in patch.sets.items():
            counts[row, components.index(place.component)] += len(found)
    return _distribution(patches, components, counts)


def _distribution(
    patches: Sequence[Neurons], places: tuple[str, ...], counts: Floats
) -> Distribution:
    shares = counts / counts.sum(axis=1, keepdims=True)
    series = [
        Series("patch", patch.name, 1, counts[row], shares[row])
        for row, patch in enumerate(patches)
    ]
    groups = []
    for group in dict.fromkeys(patch.group for patch in patches):
        members = [row for row, patch in enumerate(patches) if patch.group == group]
        groups.append(_mean("group", group, counts[members], shares[members]))
    series += groups
    if len(groups) > 1:
        # Over groups and not over patches: a category with more seeds weighs no more.
        means = [np.stack([getattr(one, name) for one in groups]) for name in ("count", "share")]
        series.append(_mean("all", "all", *means))
    return Distribution(places, tuple(series))


def _mean(level: Level, name: str, counts: Floats, shares: Floats) -> Series:
    several = len(counts) > 1
    return Series(
        level,
        name,
        len(counts),
        counts.mean(axis=0),
        shares.mean(axis=0),
        counts.std(axis=0, ddof=1) if several else None,
        shares.std(axis=0, ddof=1) if several else None,
    )
