"""What a definition's expressions come to in a model's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuropatch.errors import ArchitectureError
from neuropatch.models.definition import ArchitectureDefinition, LayerSet, evaluate

MAX_LAYERS = 1 << 16
"""Configs are untrusted: no real model has near so many layers."""


def own_config(
    definition: ArchitectureDefinition, config: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """The model type that a definition is for, and the part of a config that its sizes are in.

    Of a multimodal model the text model decides. Older files have its sizes at the top level.
    """
    model_type = str(config.get("model_type"))
    if model_type not in definition.towers:
        return model_type, config
    text = config.get(definition.towers[model_type])
    return definition.model_types[0], text if isinstance(text, dict) else config


def experts_per_token(definition: ArchitectureDefinition, config: Mapping[str, Any]) -> int | None:
    """How many experts a token passes in a model; None where nothing says it.

    Args:
        definition: The definition of its architecture.
        config: Its ``config.json`` document.
    """
    _, own = own_config(definition, config)
    values = flattened({**definition.defaults, **own})
    found = (evaluate(one, values) for one in definition.per_token)
    return next((value for value in found if value is not None), None)


def flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what its parts say as ``part.key`` besides."""
    nested = {
        f"{part}.{key}": value
        for part, values in config.items()
        if isinstance(values, dict)
        for key, value in values.items()
    }
    return {**config, **nested}


def bind_dimensions(
    definition: ArchitectureDefinition, config: Mapping[str, Any]
) -> dict[str, int]:
    """The sizes of a model from its config; optional ones that it has not are 0.

    Raises:
        ArchitectureError: If a dimension is neither in the config nor derivable.
    """
    sizes: dict[str, int] = {}
    for name, expressions in definition.dimensions.items():
        values = {**config, **sizes}
        if name in definition.optional:
            values = {key: value for key, value in values.items() if value != 0}
        found = (evaluate(one.value, values) for one in expressions if one.holds(config))
        value = next((value for value in found if value is not None), None)
        if value is None and name not in definition.optional:
            said = " or ".join(one.value for one in expressions)
            raise ArchitectureError(
                f"the model's config does not say {name} ({said})", hint="check config.json"
            )
        sizes[name] = value or 0
    return sizes


def bind_layers(layer_set: LayerSet, config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """Indices of the layers of a kind, in order.

    Raises:
        ArchitectureError: If the config says something else than indices.
    """

    def said(key: str | None, usual: Any) -> Any:
        value = None if key is None else config.get(key)
        return usual if value is None else value

    start, step = said(layer_set.start, 0), said(layer_set.step, 1)
    listed, excluded = said(layer_set.listed, None), said(layer_set.excluded, [])
    numbers = [start, step, *_indices(layer_set.listed, listed or [])]
    numbers += _indices(layer_set.excluded, excluded)
    if not all(type(n) is int and n >= 0 for n in numbers) or step == 0 or layers > MAX_LAYERS:
        raise ArchitectureError(
            "the model's config does not say which of its layers have experts: "
            f"{[key for key in vars(layer_set).values() if key]} are no numbers of layers",
            hint="check config.json",
        )
    if listed is not None:
        return tuple(sorted({layer for layer in listed if layer < layers}))
    return tuple(
        layer for layer in range(start, layers) if (layer + 1) % step == 0 and layer not in excluded
    )


def _indices(key: str | None, value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    raise ArchitectureError(
        f"the model's config has {key} = {value!r}, which is no list of layers",
        hint="check config.json",
    )
