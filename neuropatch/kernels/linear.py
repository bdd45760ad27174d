"""Operators behind linear layers with a sparse change of their weights, for each token range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from neuropatch.kernels._arguments import (
    ACTIVATION_DTYPES,
    check_offsets_metadata,
    check_offsets_values,
    dtype_name,
    fail,
)
from neuropatch.kernels._backend import compiled
from neuropatch.kernels._registry import Operator, register
from neuropatch.kernels.reference import linear as reference

_OP = "add_sparse_linear"


@dataclass(frozen=True)
class SparseEdits:
    """Changes ``D_p`` of one weight matrix ``[out, in]``, for several patches ``p``.

    Attributes:
        rows: Output index of each edit, int32 ``[edits]``; ascending within each patch.
        columns: Input index of each edit, int32 ``[edits]``.
        delta: New minus old weight, float32 ``[edits]`` (float64 for float64 models).
        offsets: int64 ``[patches + 1]`` on the CPU: edits ``offsets[p]`` to ``offsets[p + 1]`` are
            those of patch ``p``, possibly none.
    """

    rows: Tensor
    columns: Tensor
    delta: Tensor
    offsets: Tensor


def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    edits: SparseEdits,
    token_offsets: Tensor,
    patches: Tensor,
) -> Tensor:
    """A linear layer some weights of which are zeroed, scaled or replaced on the fly.

    ``y_t = (W + D_p) x_t + b`` for each token ``t`` of a range that patch ``p`` serves. ``W`` is
    neither copied nor changed. See :func:`add_sparse_linear` for the arguments.

    Args:
        x: ``[tokens, in]``.
        weight: ``[out, in]``, of the same type.
        bias: ``[out]`` or None.
        edits: The changes.
        token_offsets: int64 ``[ranges + 1]`` on the CPU.
        patches: int64 ``[ranges]`` on the CPU.

    Returns:
        ``[tokens, out]``, type of ``x``.

    Raises:
        UsageError: An argument does not fit.
    """
    return add_sparse_linear(functional.linear(x, weight, bias), x, edits, token_offsets, patches)


def add_sparse_linear(
    output: Tensor, x: Tensor, edits: SparseEdits, token_offsets: Tensor, patches: Tensor
) -> Tensor:
    """Corrects the output of a linear layer for patches of its weights, one for each token range.

    ``output_t + D_p x_t``, where ``p`` is the patch of token ``t``. Differentiable in ``output``
    and ``x``. Sums are float32, in the order of the edits, whatever the number of threads and
    whatever else is in the batch.

    Args:
        output: ``[tokens, out]``, float32, bfloat16, float16 or float64.
        x: ``[tokens, in]``, the input of the layer; type and device of ``output``.
        edits: The changes, on the same device.
        token_offsets: int64 ``[ranges + 1]`` on the CPU, from 0 to ``tokens`` and never
            descending.
        patches: int64 ``[ranges]`` on the CPU: the patch that serves each range, -1 for none.

    Returns:
        ``[tokens, out]``, contiguous, type of ``output``.

    Raises:
        UsageError: An argument does not fit, or ``NEUROPATCH_KERNELS`` cannot be honoured.
    """
    arguments = (
        output, x, edits.rows, edits.columns, edits.delta, edits.offsets, token_offsets, patches
    )  # fmt: skip
    _check_metadata(*arguments)
    result: Tensor
    if output.dtype != torch.float64 and compiled(_OP, output.device):
        result = torch.ops.neuropatch.add_sparse_linear(*arguments)
    else:
        _check(*arguments)
        result = _ReferenceSparseLinear.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, x, *edits = inputs
    ctx.save_for_backward(*edits)
    ctx.width = x.shape[1]


def _gradients(ctx: Any, grad: Tensor, run: Callable[..., Tensor]) -> tuple[Tensor | None, ...]:
    grad_input = None
    if ctx.needs_input_grad[1]:
        rows, columns, delta, edit_offsets, token_offsets, patches = ctx.saved_tensors
        # The same changes of the transposed matrix: sorted by column within each patch.
        places = torch.arange(rows.shape[0])
        patch = torch.searchsorted(edit_offsets[1:], places, right=True).to(rows.device)
        order = torch.argsort(patch << 32 | columns, stable=True)
        transposed = columns[order], rows[order], delta[order]
        nothing = grad.new_zeros(grad.shape[0], ctx.width)
        grad_input = run(nothing, grad, *transposed, edit_offsets, token_offsets, patches)
    return grad, grad_input, None, None, None, None, None, None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, grad, torch.ops.neuropatch.add_sparse_linear)


class _ReferenceSparseLinear(torch.autograd.Function):
    """The reference with the derivatives of the operator."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return reference.add_sparse_linear(*arguments)

    setup_context = staticmethod(_setup_context)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, grads[0], _ReferenceSparseLinear.apply)


def _check_metadata(
    output: Tensor,
    input: Tensor,
    rows: Tensor,
    columns: Tensor,
    delta: Tensor,
    edit_offsets: Tensor,
    token_offsets: Tensor,
    patches: Tensor,
) -> None:
    if output.dim() != 2 or input.dim() != 2:
        fail(
            _OP,
            f"output and input must have two dimensions, not shapes {tuple(output.shape)} and "
            f"{tuple(input.shape)}",
        )
    if output.shape[0] != input.shape[0]:
        fail(_OP, f"output has {output.shape[0]} tokens but input has {input.shape[0]}")
    if output.dtype != input.dtype:
        fail(_OP, f"output is {dtype_name(output.dtype)} but input is {dtype_name(input.dtype)}")
    if output.dtype not in ACTIVATION_DTYPES:
        fail(
            _OP,
            "output and input must be float32, bfloat16, float16 or float64, not "
            f"{dtype_name(output.dtype)}",
        )
    if not (rows.dim() == columns.dim() == delta.dim() == 1) or not (
        rows.shape == columns.shape == delta.shape
    ):
        shapes = ", ".join(str(tuple(t.shape)) for t in (rows, columns))
        fail(
            _OP,
            "rows, columns and delta must have one dimension and one length, not shapes "
            f"{shapes} and {tuple(delta.shape)}",
        )
    if rows.dtype != torch.int32 or columns.dtype != torch.int32:
        fail(
            _OP,
            f"rows and columns must be int32, not {dtype_name(rows.dtype)} and "
            f"{dtype_name(columns.dtype)}",
        )
    wanted = torch.float64 if output.dtype == torch.float64 else torch.float32
    if delta.dtype != wanted:
        fail(_OP, f"delta must be {dtype_name(wanted)}, not {dtype_name(delta.dtype)}")
    if not (output.device == input.device == rows.device == columns.device == delta.device):
        fail(_OP, "output, input, rows, columns and delta must be on one device")
    check_offsets_metadata(_OP, edit_offsets, "edit_offsets")
    check_offsets_metadata(_OP, token_offsets, "token_offsets")
    _check_patches_metadata(token_offsets, patches)


def _check_patches_metadata(token_offsets: Tensor, patches: Tensor) -> None:
    if patches.device.type != "cpu" or patches.dtype != torch.int64:
        fail(_OP, f"patches must be int64 on the CPU, not {dtype_name(patches.dtype)}")
    ranges = token_offsets.shape[0] - 1
    if patches.dim() != 1 or patches.shape[0] != ranges:
        fail(_OP, f"patches must have shape ({ranges},), not {tuple(patches.shape)}")


def _check(
    output: Tensor,
    input: Tensor,
    rows: Tensor,
    columns: Tensor,
    delta: Tensor,
    edit_offsets: Tensor,
    token_offsets: Tensor,
    patches: Tensor,
) -> None:
    _check_metadata(output, input, rows, columns, delta, edit_offsets, token_offsets, patches)
    check_offsets_values(
        _OP, edit_offsets, rows.shape[0], "edit_offsets", what="the number of edits"
    )
    check_offsets_values(_OP, token_offsets, output.shape[0], "token_offsets")
    count = edit_offsets.shape[0] - 1
    for patch in patches.tolist():
        if not -1 <= patch < count:
            fail(_OP, f"patches names patch {patch}, but there are {count}")
    for name, index, size in (
        ("rows", rows, output.shape[1]),
        ("columns", columns, input.shape[1]),
    ):
        if index.shape[0] and not 0 <= int(index.min()) <= int(index.max()) < size:
            fail(_OP, f"{name} must lie in 0 to {size - 1}")
    descends = (rows[1:] < rows[:-1]).nonzero().flatten().cpu() + 1
    if not torch.isin(descends, edit_offsets).all():
        fail(_OP, "rows must not descend within a patch")


def _fake(
    output: Tensor,
    input: Tensor,
    rows: Tensor,
    columns: Tensor,
    delta: Tensor,
    edit_offsets: Tensor,
    token_offsets: Tensor,
    patches: Tensor,
) -> Tensor:
    _check_metadata(output, input, rows, columns, delta, edit_offsets, token_offsets, patches)
    return torch.empty_like(output, memory_format=torch.contiguous_format)


register(
    Operator(
        schema=(
            "add_sparse_linear(Tensor output, Tensor input, Tensor rows, Tensor columns, "
            "Tensor delta, Tensor edit_offsets, Tensor token_offsets, Tensor patches) -> Tensor"
        ),
        check=_check,
        reference=reference.add_sparse_linear,
        fake=_fake,
        setup_context=_setup_context,
        backward=_backward,
    )
)
