"""Per-sample norms of activation columns: what bounds of SNIP scores are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from neuropatch.kernels._arguments import (
    ACTIVATION_DTYPES,
    check_offsets_metadata,
    check_offsets_values,
    dtype_name,
    fail,
)
from neuropatch.kernels._backend import compiled
from neuropatch.kernels._registry import Operator, register
from neuropatch.kernels.reference import norms as reference

_OP = "snip_column_norms"


def snip_column_norms(values: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Norm of each column over the tokens of each sample, never below the exact one.

    ``norms[b, j] >= sqrt(sum over tokens t of b: (weights[t] * values[t, j]) ** 2)``. By Cauchy
    and Schwarz the product of the norms of a column of output gradients and a column of inputs
    bounds that element of the sample's weight gradient.

    Squares are summed in float64, where the square of a float32, or of a product of two, neither
    overflows nor underflows, and is rounded once at most. The root is then raised by the most that
    ``tokens`` additions and the root can have lost, ``(tokens + 4) * 2**-53`` of it, and rounded
    *up* to float32. So the result is an upper bound, and exceeds the exact norm by less than
    ``2**-22`` of it (or ``2**-149``). It is the same for any number of threads and, without
    weights, on every instruction set.

    Args:
        values: ``[tokens, columns]``; float32, bfloat16, float16 or float64. Any strides.
        offsets: ``[samples + 1]`` int64 on the CPU, from 0 to ``tokens`` and never descending;
            sample ``b`` is rows ``offsets[b]`` to ``offsets[b + 1]``, possibly none.
        weights: ``[tokens]`` float32 on the device of ``values``, factors of the tokens; None for
            ones.

    Returns:
        ``[samples, columns]`` float32; zero for a sample without tokens and where all products
        are zero, and nowhere else (float64 values below 1e-150 aside); infinite or NaN where a
        value is infinite or NaN, or a norm is beyond float32.

    Raises:
        UsageError: An argument does not fit, or ``NEUROPATCH_KERNELS`` cannot be honoured.
    """
    _check(values, offsets, weights)
    if values.dtype == torch.float64 or not compiled(_OP, values.device):
        return reference.snip_column_norms(values, offsets, weights)
    with torch.no_grad():
        norms: Tensor = torch.ops.neuropatch.snip_column_norms(values, offsets, weights)
    return norms


def _check(values: Tensor, offsets: Tensor, weights: Tensor | None = None) -> None:
    _check_metadata(values, offsets, weights)
    check_offsets_values(_OP, offsets, values.shape[0])


def _check_metadata(values: Tensor, offsets: Tensor, weights: Tensor | None) -> None:
    if values.dim() != 2:
        fail(_OP, f"values must have two dimensions, not shape {tuple(values.shape)}")
    if values.dtype not in ACTIVATION_DTYPES:
        fail(
            _OP,
            f"values must be float32, bfloat16, float16 or float64, not {dtype_name(values.dtype)}",
        )
    if weights is not None:
        if weights.shape != values.shape[:1]:
            fail(
                _OP,
                f"weights must have shape ({values.shape[0]},), not {tuple(weights.shape)}",
            )
        if weights.dtype != torch.float32:
            fail(_OP, f"weights must be float32, not {dtype_name(weights.dtype)}")
        if weights.device != values.device:
            fail(_OP, "values and weights must be on one device")
    check_offsets_metadata(_OP, offsets)


def _fake(values: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    _check_metadata(values, offsets, weights)
    return values.new_empty((offsets.shape[0] - 1, values.shape[1]), dtype=torch.float32)


register(
    Operator(
        schema="snip_column_norms(Tensor values, Tensor offsets, Tensor? weights=None) -> Tensor",
        check=_check,
        reference=reference.snip_column_norms,
        fake=_fake,
    )
)
