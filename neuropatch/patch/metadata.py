"""What a patch says about itself: base model, architecture, method, data, versions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from neuropatch.errors import PatchFormatError
from neuropatch.models.layout import Signature


@dataclass(frozen=True)
class BaseModel:
    """The model a patch was made from: a Hub id or folder name, and its commit if it has one."""

    name: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class PatchMetadata:
    """Provenance of a patch; everything but the architecture may be empty.

    Attributes:
        architecture: What another model must share for the coordinates to mean the same.
        base_model: The model the ``before`` values come from.
        method: ``{"name": ..., "parameters": {...}}`` with every hyperparameter and seed.
        datasets: One record per data set: name, source, sha256, rows, used rows, columns.
        versions: Versions of the libraries that made it.
        kernels: Backend that computed each op.
        license: SPDX id of the licence the patch inherits, if known.
        evaluation: Results measured for it, if any.
    """

    architecture: Signature
    base_model: BaseModel = field(default_factory=BaseModel)
    method: Mapping[str, Any] = field(default_factory=dict)
    datasets: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    license: str | None = None
    evaluation: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        # What JSON cannot hold would be lost on writing: it is refused, or (tuples, numbers as
        # names) brought to its JSON form, here and not after hours of localising.
        _as_json("base_model", [self.base_model.name, self.base_model.revision])
        for name in ("method", "datasets", "versions", "kernels", "license", "evaluation"):
            value = getattr(self, name)
            plain = _as_json(name, list(value) if name == "datasets" else value)
            object.__setattr__(self, name, tuple(plain) if name == "datasets" else plain)

    def to_json(self) -> dict[str, Any]:
        """The metadata as a JSON document."""
        return {
            "architecture": {
                "model_type": self.architecture.model_type,
                "dimensions": dict(self.architecture.dimensions),
                **_if_any("layers", {k: list(v) for k, v in self.architecture.layers.items()}),
            },
            "base_model": {"name": self.base_model.name, "revision": self.base_model.revision},
            "method": dict(self.method),
            "datasets": [dict(record) for record in self.datasets],
            "versions": dict(self.versions),
            "kernels": dict(self.kernels),
            "license": self.license,
            "evaluation": None if self.evaluation is None else dict(self.evaluation),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PatchMetadata:
        """Read metadata from a patch file's document.

        Raises:
            PatchFormatError: If a field is missing or of the wrong type.
        """
        architecture = _typed(document, "architecture", dict)
        base = _typed(document, "base_model", dict)
        datasets = _typed(document, "datasets", list)
        if not all(isinstance(record, dict) for record in datasets):
            raise _bad("datasets", "a list of records")
        model_type = _typed(architecture, "model_type", str)
        if not re.fullmatch(r"[\w.-]{1,100}", model_type, re.ASCII):
            raise _bad("model_type", "the name of an architecture")
        return cls(
            architecture=Signature(
                model_type, _sizes(architecture, "dimensions"), _layers(architecture, "layers")
            ),
            base_model=BaseModel(
                _typed(base, "name", str, type(None)), _typed(base, "revision", str, type(None))
            ),
            method=_typed(document, "method", dict),
            datasets=tuple(datasets),
            versions=_texts(document, "versions"),
            kernels=_texts(document, "kernels"),
            license=_typed(document, "license", str, type(None)),
            evaluation=_typed(document, "evaluation", dict, type(None)),
        )

    def with_method(self, name: str, **parameters: Any) -> PatchMetadata:
        """The same provenance under another method, keeping the data and versions."""
        return replace(self, method={"name": name, "parameters": parameters})


def _as_json(name: str, value: Any) -> Any:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PatchFormatError(
            f"the patch's metadata field '{name}' cannot be written as JSON: {error}",
            hint="use texts, finite numbers, true, false, null, lists and maps",
        ) from None
    return json.loads(text)


def _bad(name: str, wanted: str) -> PatchFormatError:
    return PatchFormatError(
        f"the patch's metadata field '{name}' is not {wanted}", hint="the patch is damaged"
    )


def _typed(document: Mapping[str, Any], name: str, *types: type) -> Any:
    value = document.get(name)
    if not isinstance(value, types):
        raise _bad(name, " or ".join(t.__name__ for t in types))
    return value


def _texts(document: Mapping[str, Any], name: str) -> dict[str, str]:
    value: dict[str, str] = _typed(document, name, dict)
    if not all(isinstance(text, str) for text in value.values()):
        raise _bad(name, "a map of texts")
    return value


def _sizes(document: Mapping[str, Any], name: str) -> dict[str, int]:
    value: dict[str, int] = _typed(document, name, dict)
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in value.values()):
        raise _bad(name, "a map of sizes")
    return value


def _if_any(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value} if value else {}


def _layers(document: Mapping[str, Any], name: str) -> dict[str, tuple[int, ...]]:
    """Layers of each kind; only models whose layers differ have the field."""
    value: dict[str, list[int]] = _typed({name: {}, **document}, name, dict)
    for indices in value.values():
        if not isinstance(indices, list) or not all(type(index) is int for index in indices):
            raise _bad(name, "a map of lists of layers")
    return {kind: tuple(indices) for kind, indices in value.items()}


def merge_metadata(operation: str, parts: Sequence[PatchMetadata]) -> PatchMetadata:
    """Provenance of a combination: what all agree on, and the methods that were combined.

    The methods are recorded sorted, so that a union does not depend on the order of its parts.
    """
    first = parts[0]
    datasets = {repr(sorted(record.items())): record for part in parts for record in part.datasets}
    methods: list[Any] = [dict(part.method) for part in parts]
    if operation != "difference":
        methods.sort(key=repr)
    agreed: dict[str, Any] = {
        name: getattr(first, name)
        for name in ("base_model", "license", "versions", "kernels")
        if all(getattr(part, name) == getattr(first, name) for part in parts)
    }
    return PatchMetadata(
        architecture=first.architecture,
        method={"name": operation, "of": methods},
        datasets=tuple(datasets[key] for key in sorted(datasets)),
        **agreed,
    )
