"""Names of activation functions: those of model configs, and those of our operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuropatch.errors import ArchitectureError

ACTIVATION_KEYS: tuple[str, ...] = ("hidden_activation", "hidden_act", "activation_function")
"""Keys of a config that name the activation function of its MLPs, the most telling one first."""

ACTIVATION_NAMES: dict[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
}
"""The operators' name of each function that transformers calls so."""


def mlp_activation(config: Mapping[str, Any]) -> str:
    """The activation function of a model's MLPs, as :mod:`neuropatch.kernels.mlp` calls it.

    Args:
        config: A ``config.json`` document.

    Raises:
        ArchitectureError: If the config names none, or one that the operators do not have.
    """
    named = next((config[key] for key in ACTIVATION_KEYS if config.get(key) is not None), None)
    if named is None:
        raise ArchitectureError(
            f"the model's config does not say its activation ({' or '.join(ACTIVATION_KEYS)})",
            hint="check config.json",
        )
    try:
        return ACTIVATION_NAMES[named]
    except (KeyError, TypeError):
        raise ArchitectureError(
            f"the activation {named!r} is not supported",
            hint=f"supported are {', '.join(ACTIVATION_NAMES)}",
        ) from None
