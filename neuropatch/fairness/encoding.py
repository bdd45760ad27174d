"""How a tabular model sees a row: numbers standardised, categories as indicators.

An encoding is made from training rows and saved with the model, so that a fresh file is encoded as
the model knows it. A category that it does not know is all zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuropatch.errors import DataError, ModelError
from neuropatch.fairness.examples import Column, Examples

Matrix = NDArray[np.float32]

MAX_INPUTS = 1 << 16
"""Configs are untrusted: no table of real data has as many encoded columns."""


@dataclass(frozen=True)
class Numeric:
    """A number ``x``, encoded as ``(x - mean) / std``."""

    name: str
    mean: float
    std: float

    @property
    def width(self) -> int:
        """Number of encoded columns."""
        return 1

    def encode(self, values: Column) -> Matrix:
        """Encode a column, ``[n]`` to ``[n, 1]``."""
        scaled = (values.astype(np.float64) - self.mean) / self.std
        return scaled.astype(np.float32)[:, None]

    def to_json(self) -> dict[str, Any]:
        """The feature for ``config.json``."""
        return {"name": self.name, "kind": "numeric", "mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class Category:
    """A category, encoded as one indicator for each known value."""

    name: str
    values: tuple[str, ...]

    @property
    def width(self) -> int:
        """Number of encoded columns."""
        return len(self.values)

    def encode(self, values: Column) -> Matrix:
        """Encode a column, ``[n]`` to ``[n, width]``."""
        indicators: Matrix = (values[:, None] == np.array(self.values)).astype(np.float32)
        return indicators

    def to_json(self) -> dict[str, Any]:
        """The feature for ``config.json``."""
        return {"name": self.name, "kind": "category", "values": list(self.values)}


Feature = Numeric | Category


def fit_features(examples: Examples) -> tuple[Feature, ...]:
    """The encoding of the features of some rows.

    A number that never varies gets the deviation 1, so that another value stays finite.

    Raises:
        DataError: If the examples are texts, or have no feature.
    """
    if examples.is_text or not examples.columns:
        raise DataError(
            "a tabular model needs columns, and the data are texts",
            hint="name a text classifier as the model",
        )
    found: list[Feature] = []
    for name, values in examples.columns.items():
        if values.dtype.kind == "U":
            found.append(Category(name, tuple(map(str, np.unique(values)))))
        else:
            numbers = values.astype(np.float64)
            found.append(Numeric(name, float(numbers.mean()), float(numbers.std()) or 1.0))
    return tuple(found)


def input_size(features: Sequence[Feature]) -> int:
    """Number of encoded columns of all features."""
    return sum(feature.width for feature in features)


def encode(features: Sequence[Feature], examples: Examples) -> Matrix:
    """Encode rows.

    Returns:
        float32 ``[n, input_size(features)]``.

    Raises:
        DataError: If the examples are texts, lack a feature, or have a number where the features
            have a category or the other way round.
    """
    if examples.is_text:
        raise DataError(
            "the model takes rows of a table, and the data are texts",
            hint="name a text classifier as the model",
        )
    return np.concatenate([_encode(feature, examples) for feature in features], axis=1)


def _encode(feature: Feature, examples: Examples) -> Matrix:
    values = examples.columns.get(feature.name)
    if values is None:
        raise DataError(
            f"the data have no feature '{feature.name}', which the model was trained on",
            hint=f"they have {', '.join(examples.feature_names)}; read them as for training",
        )
    is_category = isinstance(feature, Category)
    if (values.dtype.kind == "U") != is_category:
        there, wanted = ("numbers", "categories") if is_category else ("categories", "numbers")
        raise DataError(
            f"the feature '{feature.name}' holds {there}, and the model was trained on {wanted}",
            hint="read the data with the schema that was used for training",
        )
    return feature.encode(values)


def parse_features(document: Any, what: str) -> tuple[Feature, ...]:
    """Read the features of a ``config.json``, which is untrusted.

    Args:
        document: The list that stands there.
        what: The file, for messages.

    Raises:
        ModelError: If they are not what :meth:`Numeric.to_json` and :meth:`Category.to_json` give.
    """
    if not isinstance(document, list) or not document:
        raise damaged(what, "its features are not a list")
    features = tuple(_parse(one, what) for one in document)
    names = [feature.name for feature in features]
    if len(set(names)) != len(names):
        raise damaged(what, "a feature occurs twice")
    if not 0 < input_size(features) <= MAX_INPUTS:
        raise damaged(what, f"its features make {input_size(features):,} inputs")
    return features


def _parse(document: Any, what: str) -> Feature:
    if not isinstance(document, Mapping) or not isinstance(document.get("name"), str):
        raise damaged(what, "a feature has no name")
    name = document["name"]
    if document.get("kind") == "category":
        values = document.get("values")
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise damaged(what, f"the categories of '{name}' are not texts")
        if len(set(values)) != len(values):
            raise damaged(what, f"a category of '{name}' occurs twice")
        return Category(name, tuple(values))
    if document.get("kind") != "numeric":
        raise damaged(what, f"'{name}' is neither numeric nor a category")
    mean, std = _number(document, "mean", what), _number(document, "std", what)
    if std <= 0:
        raise damaged(what, f"the deviation of '{name}' is not positive")
    return Numeric(name, mean, std)


def _number(document: Mapping[str, Any], key: str, what: str) -> float:
    number = document.get(key)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise damaged(what, f"the {key} of '{document['name']}' is not a number")
    if not math.isfinite(number):
        raise damaged(what, f"the {key} of '{document['name']}' is not finite")
    return float(number)


def damaged(what: str, problem: str) -> ModelError:
    """The error for a model's file that holds nonsense."""
    return ModelError(f"{what}: {problem}", hint="the model is damaged; get it again")
