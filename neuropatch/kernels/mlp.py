"""Operators behind MLPs whose units are gated by a learnable mask (LPNL's HardConcrete gates)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from neuropatch.kernels._arguments import ACTIVATION_DTYPES, dtype_name, fail
from neuropatch.kernels._backend import compiled
from neuropatch.kernels._registry import Operator, register
from neuropatch.kernels.reference import mlp as reference

_FORWARD = "masked_units"
_BACKWARD = "masked_units_backward_"

ACTIVATIONS = tuple(reference.ACTIVATIONS)
"""The activation functions: ``silu``, ``gelu`` (by erf), ``gelu_tanh`` and ``relu``."""


def gated_mlp(
    x: Tensor, gate_weight: Tensor, up_weight: Tensor, mask: Tensor, activation: str
) -> Tensor:
    """The hidden activation of a gated MLP (Llama's) with masked units.

    ``act(x Wg^T) * (x Wu^T) * m``. Differentiable in ``x`` and ``mask``. Only the two products are
    kept for the backward pass, which turns them into their own gradients, in place unless the
    graph is retained; the hidden activation is computed again.

    Args:
        x: ``[..., hidden]``, float32, bfloat16, float16 or float64.
        gate_weight: ``[units, hidden]``, frozen; type and device of ``x``, as is ``up_weight``.
        up_weight: ``[units, hidden]``, frozen.
        mask: ``[units]``: float32, or float64 where ``x`` is.
        activation: One of :data:`ACTIVATIONS`.

    Returns:
        ``[..., units]``, what the down projection takes; type of ``x``.

    Raises:
        UsageError: An argument does not fit, or a weight requires a gradient.
    """
    _check_frozen("gated_mlp", gate_weight=gate_weight, up_weight=up_weight)
    gate, up = functional.linear(x, gate_weight), functional.linear(x, up_weight)
    return masked_units(gate, up, mask, activation, reuse=True)


def plain_mlp(
    x: Tensor, up_weight: Tensor, bias: Tensor | None, mask: Tensor, activation: str
) -> Tensor:
    """The hidden activation of an MLP without a gate projection (GPT-2's, BERT's), units masked.

    ``act(x W^T + b) * m``; see :func:`gated_mlp`.

    Args:
        x: ``[..., hidden]``, float32, bfloat16, float16 or float64.
        up_weight: ``[units, hidden]``, frozen; type and device of ``x``. GPT-2 stores it
            transposed: pass ``weight.T``.
        bias: ``[units]``, frozen, or None.
        mask: ``[units]``: float32, or float64 where ``x`` is.
        activation: One of :data:`ACTIVATIONS`.

    Returns:
        ``[..., units]``; type of ``x``.

    Raises:
        UsageError: An argument does not fit, or a weight requires a gradient.
    """
    _check_frozen("plain_mlp", up_weight=up_weight, bias=bias)
    return masked_units(functional.linear(x, up_weight, bias), None, mask, activation, reuse=True)


def masked_units(
    preactivation: Tensor, up: Tensor | None, mask: Tensor, activation: str, *, reuse: bool = False
) -> Tensor:
    """What is left of a masked MLP once its GEMMs are done: ``act(z) * up * m`` in one pass.

    Differentiable in ``preactivation``, ``up`` and ``mask``, once. The sum over tokens in the
    mask's gradient is taken in an order that does not depend on the number of threads.

    Args:
        preactivation: ``[..., units]``, float32, bfloat16, float16 or float64; any strides.
        up: The same shape and type, or None for MLPs without a gate.
        mask: ``[units]``: float32, or float64 where ``preactivation`` is.
        activation: One of :data:`ACTIVATIONS`.
        reuse: The caller gives ``preactivation`` and ``up`` away: the backward pass may write
            gradients over them. Nobody else may hold them.

    Returns:
        ``[..., units]``, contiguous, type of ``preactivation``.

    Raises:
        UsageError: An argument does not fit, or ``NEUROPATCH_KERNELS`` cannot be honoured.
    """
    if preactivation.dim() < 1 or (up is not None and up.shape != preactivation.shape):
        shape = None if up is None else tuple(up.shape)
        fail(_FORWARD, f"preactivation has shape {tuple(preactivation.shape)} but up has {shape}")
    flat = preactivation.flatten(0, -2) if preactivation.dim() > 1 else preactivation[None]
    flat_up = None if up is None else up.reshape(flat.shape)
    _check_units(flat, flat_up, mask, activation, reuse)
    arguments = (flat, flat_up, mask, activation, reuse)
    if preactivation.dtype != torch.float64 and compiled(_FORWARD, preactivation.device):
        hidden: Tensor = torch.ops.neuropatch.masked_units(*arguments)
    else:
        hidden = _ReferenceUnits.apply(*arguments)  # type: ignore[no-untyped-call]
    return hidden.view(preactivation.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    preactivation, up, mask, activation, reuse = inputs
    ctx.save_for_backward(preactivation, up, mask)
    ctx.activation, ctx.reuse = activation, reuse


def _gradients(ctx: Any, grad: Tensor, run: Callable[..., Tensor]) -> tuple[Tensor | None, ...]:
    preactivation, up, mask = ctx.saved_tensors
    # A graph that is kept will read its saved tensors again.
    if not ctx.reuse or torch._C._autograd._get_current_graph_task_keep_graph():
        preactivation = preactivation.clone()
        up = None if up is None else up.clone()
    grad_mask = run(preactivation, up, mask, grad, ctx.activation)
    # Whoever else has kept what was given away shall be told so by autograd.
    torch.autograd.graph.increment_version([t for t in (preactivation, up) if t is not None])
    return preactivation, up, grad_mask, None, None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, grad, torch.ops.neuropatch.masked_units_backward_)


class _ReferenceUnits(torch.autograd.Function):
    """The reference with the derivatives of the operator."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return reference.masked_units(*arguments)

    setup_context = staticmethod(_setup_context)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, grads[0], reference.masked_units_backward_)


def _check_frozen(op: str, **weights: Tensor | None) -> None:
    for name, weight in weights.items():
        if weight is not None and weight.requires_grad:
            fail(op, f"{name} requires a gradient, but only x and mask get one: freeze it")


def _check_units(
    preactivation: Tensor, up: Tensor | None, mask: Tensor, activation: str, reuse: bool = False
) -> None:
    _check_arguments(_FORWARD, preactivation, up, mask, activation)


def _check_backward(
    preactivation: Tensor, up: Tensor | None, mask: Tensor, grad: Tensor, activation: str
) -> None:
    op = _BACKWARD
    _check_arguments(op, preactivation, up, mask, activation)
    if grad.shape != preactivation.shape:
        fail(op, f"grad has shape {tuple(grad.shape)}, not {tuple(preactivation.shape)}")
    if grad.dtype != preactivation.dtype:
        fail(
            op,
            f"preactivation is {dtype_name(preactivation.dtype)} but grad is "
            f"{dtype_name(grad.dtype)}",
        )
    if grad.device != preactivation.device:
        fail(op, "preactivation, up, mask and grad must be on one device")


def _check_arguments(
    op: str, preactivation: Tensor, up: Tensor | None, mask: Tensor, activation: str
) -> None:
    if preactivation.dim() != 2:
        fail(op, f"preactivation must have two dimensions, not shape {tuple(preactivation.shape)}")
    if preactivation.dtype not in ACTIVATION_DTYPES:
        fail(
            op,
            "preactivation must be float32, bfloat16, float16 or float64, not "
            f"{dtype_name(preactivation.dtype)}",
        )
    if up is not None and up.shape != preactivation.shape:
        fail(op, f"up has shape {tuple(up.shape)}, not {tuple(preactivation.shape)}")
    if up is not None and up.dtype != preactivation.dtype:
        fail(
            op,
            f"preactivation is {dtype_name(preactivation.dtype)} but up is {dtype_name(up.dtype)}",
        )
    if mask.dim() != 1 or mask.shape[0] != preactivation.shape[1]:
        fail(op, f"mask has shape {tuple(mask.shape)}, not ({preactivation.shape[1]},)")
    wanted = torch.float64 if preactivation.dtype == torch.float64 else torch.float32
    if mask.dtype != wanted:
        fail(op, f"mask must be {dtype_name(wanted)}, not {dtype_name(mask.dtype)}")
    if mask.device != preactivation.device or (up is not None and up.device != mask.device):
        fail(op, "preactivation, up and mask must be on one device")
    if activation not in ACTIVATIONS:
        fail(op, f"activation '{activation}' is none of {', '.join(ACTIVATIONS)}")


def _fake_units(
    preactivation: Tensor, up: Tensor | None, mask: Tensor, activation: str, reuse: bool = False
) -> Tensor:
    _check_units(preactivation, up, mask, activation)
    return torch.empty_like(preactivation, memory_format=torch.contiguous_format)


def _fake_backward(
    preactivation: Tensor, up: Tensor | None, mask: Tensor, grad: Tensor, activation: str
) -> Tensor:
    _check_backward(preactivation, up, mask, grad, activation)
    return torch.empty_like(mask, memory_format=torch.contiguous_format)


register(
    Operator(
        schema=(
            "masked_units(Tensor preactivation, Tensor? up, Tensor mask, str activation, "
            "bool reuse=False) -> Tensor"
        ),
        check=_check_units,
        reference=reference.masked_units,
        fake=_fake_units,
        setup_context=_setup_context,
        backward=_backward,
    )
)
register(
    Operator(
        schema=(
            "masked_units_backward_(Tensor(a!) preactivation, Tensor(b!)? up, Tensor mask, "
            "Tensor grad, str activation) -> Tensor"
        ),
        check=_check_backward,
        reference=reference.masked_units_backward_,
        fake=_fake_backward,
    )
)
