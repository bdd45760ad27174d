"""The operator behind exact SNIP scores of a few weights of a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from neuropatch.kernels._arguments import (
    check_offsets_metadata,
    check_offsets_values,
    check_score_dtypes,
    dtype_name,
    fail,
)
from neuropatch.kernels._backend import compiled
from neuropatch.kernels._registry import Operator, register
from neuropatch.kernels.reference import snip_at as reference

_OP = "snip_accumulate_at_"


def snip_accumulate_at_(
    score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor, rows: Tensor, columns: Tensor
) -> None:
    """:func:`~neuropatch.kernels.snip_accumulate_` for some weights of the matrix only.

    ``score[c] += sum over samples b of | sum over t of b: grad[t, i] * input[t, j] |``, where
    ``i, j = rows[c], columns[c]``. On one machine with one ``NEUROPATCH_KERNELS`` every element
    gets the very bits that ``snip_accumulate_`` gives it in the whole matrix, so that exact scores
    of a few weights can stand for the matrix; ``amx`` alone, whose tiles round and add in an order
    of their own, is not followed. The order of summation does not depend on the number of threads.

    Besides its arguments the compiled kernel takes ``4 * tokens`` bytes for each distinct row and
    column. The reference makes the whole matrix, one sample at a time.

    Args:
        score: ``[n]``, float32 or float64, contiguous; changed in place.
        grad: ``[tokens, out]``, the gradient at the output of a linear layer; float32, bfloat16,
            float16, or float64 where ``score`` is float64. Any strides.
        input: ``[tokens, in]``, the input of that layer; same type and device as ``grad``.
        offsets: ``[samples + 1]`` int64 on the CPU, from 0 to ``tokens`` and never descending;
            sample ``b`` is rows ``offsets[b]`` to ``offsets[b + 1]``, possibly none.
        rows: ``[n]`` int32, contiguous, on the device of ``score``: rows of the matrix. Any order
            and repetitions are right; neighbours with equal rows are fastest.
        columns: ``[n]`` int32, likewise: columns of the matrix.

    Raises:
        UsageError: An argument does not fit, or ``NEUROPATCH_KERNELS`` cannot be honoured.
    """
    _check(score, grad, input, offsets, rows, columns)
    if score.dtype == torch.float64 or not compiled(_OP, score.device):
        reference.snip_accumulate_at_(score, grad, input, offsets, rows, columns)
        return
    with torch.no_grad():
        torch.ops.neuropatch.snip_accumulate_at_(score, grad, input, offsets, rows, columns)


def _check(
    score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor, rows: Tensor, columns: Tensor
) -> None:
    _check_metadata(score, grad, input, offsets, rows, columns)
    check_offsets_values(_OP, offsets, grad.shape[0])
    for name, places, size in (("rows", rows, grad.shape[1]), ("columns", columns, input.shape[1])):
        if not places.numel():
            continue
        low, high = (int(bound) for bound in torch.aminmax(places))
        if low < 0 or high >= size:
            fail(_OP, f"{name} must be from 0 to {size - 1}, not from {low} to {high}")


def _check_metadata(
    score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor, rows: Tensor, columns: Tensor
) -> None:
    if score.dim() != 1 or rows.shape != score.shape or columns.shape != score.shape:
        shapes = f"{tuple(score.shape)}, {tuple(rows.shape)} and {tuple(columns.shape)}"
        fail(_OP, f"score, rows and columns must have one shape (n,), not {shapes}")
    if grad.dim() != 2 or input.dim() != 2:
        shapes = f"{tuple(grad.shape)} and {tuple(input.shape)}"
        fail(_OP, f"grad and input must have two dimensions, not shapes {shapes}")
    if grad.shape[0] != input.shape[0]:
        fail(_OP, f"grad has {grad.shape[0]} tokens but input has {input.shape[0]}")
    check_score_dtypes(_OP, score, grad, input)
    if rows.dtype != torch.int32 or columns.dtype != torch.int32:
        names = f"{dtype_name(rows.dtype)} and {dtype_name(columns.dtype)}"
        fail(_OP, f"rows and columns must be int32, not {names}")
    if not (score.is_contiguous() and rows.is_contiguous() and columns.is_contiguous()):
        fail(_OP, "score, rows and columns must be contiguous")
    check_offsets_metadata(_OP, offsets)
    if len({tensor.device for tensor in (score, grad, input, rows, columns)}) > 1:
        fail(_OP, "score, grad, input, rows and columns must be on one device")
    if score.requires_grad:
        fail(_OP, "score must not require a gradient")


register(
    Operator(
        schema=(
            "snip_accumulate_at_(Tensor(a!) score, Tensor grad, Tensor input, Tensor offsets, "
            "Tensor rows, Tensor columns) -> ()"
        ),
        check=_check,
        reference=reference.snip_accumulate_at_,
        fake=_check_metadata,
    )
)
