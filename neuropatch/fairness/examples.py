"""Labelled examples with a sensitive attribute: what classifiers are trained and audited on.

Features are carried raw, as the columns of the table that they came from. How they are encoded
(the known categories, the mean and deviation of a number) belongs to a model and is saved with it,
so that a saved model can be audited on a fresh file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64] | NDArray[np.str_]
"""``[n]``: float64 for a numeric feature, strings (dtype kind ``U``) for a categorical one."""

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows of one data set.

    Attributes:
        columns: The features of tabular data by name, ``[n]`` each, in the order of the file: a
            float64 array holds numbers (none missing), a string array holds categories. Empty for
            texts.
        texts: The texts, ``n`` of them; None for tabular data.
        labels: ``[n]``, 0 or 1.
        groups: ``[n]``, index into ``group_names``.
        group_names: Values of the sensitive attribute, such as ``("Female", "Male")``. A selection
            keeps all of them, also those that none of its rows has.
        sensitive: Name of the sensitive attribute, such as ``sex``.
        label: Where the label is 1, such as ``income=>50K`` or ``PINCP>50000``.
        positive: The class of label 1, such as ``>50K``.
    """

    columns: Mapping[str, Column]
    texts: tuple[str, ...] | None
    labels: Integers
    groups: Integers
    group_names: tuple[str, ...]
    sensitive: str
    label: str
    positive: str

    def __post_init__(self) -> None:
        lengths = {len(self.labels), len(self.groups), *map(len, self.columns.values())}
        if self.texts is not None:
            lengths.add(len(self.texts))
        if len(lengths) != 1:
            raise ValueError(f"columns of different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_text(self) -> bool:
        """Whether the examples are texts rather than rows of a table."""
        return self.texts is not None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the tabular features; empty for texts."""
        return tuple(self.columns)

    def select(self, index: Integers | NDArray[np.bool_]) -> Examples:
        """The rows at ``index``: positions, which may repeat, or a mask ``[n]``."""
        texts = self.texts
        if texts is not None:
            texts = tuple(texts[row] for row in np.arange(len(self))[index])
        return replace(
            self,
            columns={name: values[index] for name, values in self.columns.items()},
            texts=texts,
            labels=self.labels[index],
            groups=self.groups[index],
        )
