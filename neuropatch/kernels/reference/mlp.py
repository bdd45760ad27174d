"""References of the operators behind masked MLPs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

_BACKWARD = torch.ops.aten

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
    "relu": functional.relu,
}
"""Activation functions by the names that the operators take."""

ACTIVATION_GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": lambda grad, z: _BACKWARD.silu_backward(grad, z),
    "gelu": lambda grad, z: _BACKWARD.gelu_backward(grad, z),
    "gelu_tanh": lambda grad, z: _BACKWARD.gelu_backward(grad, z, approximate="tanh"),
    "relu": lambda grad, z: _BACKWARD.threshold_backward(grad, z, 0),
}
"""The gradient at ``z`` from the gradient at ``act(z)`` and ``z``, by the same names."""


@torch.no_grad()
def masked_units(
    preactivation: Tensor, up: Tensor | None, mask: Tensor, activation: str, reuse: bool = False
) -> Tensor:
    """``act(preactivation) * up * mask``, or without ``up``; rounded once.

    Args:
        preactivation: ``[tokens, units]``.
        up: ``[tokens, units]`` of the same type, or None.
        mask: ``[units]``, float32 or float64: the type of the arithmetic.
        activation: A name of :data:`ACTIVATIONS`.
        reuse: Says what the backward pass may do; without effect here.

    Returns:
        ``[tokens, units]`` in the type of ``preactivation``, contiguous.
    """
    hidden = ACTIVATIONS[activation](preactivation.to(mask.dtype))
    if up is not None:
        hidden = hidden * up.to(mask.dtype)
    return (hidden * mask).to(preactivation.dtype).contiguous()


@torch.no_grad()
def masked_units_backward_(
    preactivation: Tensor, up: Tensor | None, mask: Tensor, grad: Tensor, activation: str
) -> Tensor:
    """Derivatives of :func:`masked_units`.

    Args:
        preactivation: ``[tokens, units]``; becomes its own gradient.
        up: ``[tokens, units]`` or None; becomes its own gradient.
        mask: ``[units]``.
        grad: ``[tokens, units]``, the gradient at the result.
        activation: A name of :data:`ACTIVATIONS`.

    Returns:
        The gradient of the mask, ``[units]`` in its type: the sum over tokens.
    """
    z, grad = preactivation.to(mask.dtype), grad.to(mask.dtype)
    active = ACTIVATIONS[activation](z)
    factor = torch.ones_like(z) if up is None else up.to(mask.dtype)
    grad_mask = (grad * active * factor).sum(0)
    grad_hidden = grad * mask
    preactivation.copy_(ACTIVATION_GRADIENTS[activation](grad_hidden * factor, z))
    if up is not None:
        up.copy_(grad_hidden * active)
    return grad_mask
