"""Operators behind SNIP scores: sums of per-sample gradient magnitudes."""

from __future__ import annotations

import torch
from torch import Tensor

from neuropatch.kernels._arguments import (
    check_offsets_metadata,
    check_offsets_values,
    check_score_dtypes,
    fail,
)
from neuropatch.kernels._backend import compiled
from neuropatch.kernels._registry import Operator, register
from neuropatch.kernels.reference import snip as reference

_ACCUMULATE = "snip_accumulate_"


def snip_accumulate_(score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor) -> None:
    """Adds the magnitude of each sample's weight gradient to ``score``, for a batch of samples.

    ``score[i, j] += sum over samples b of | sum over tokens t of b: grad[t, i] * input[t, j] |``,
    the sum inside the SNIP score ``mean_b |W * dL_b/dW|`` (Lee et al., arXiv 1810.02340) that SPIN
    (arXiv 2410.16672) uses. No weight gradient is materialised. The order of summation does not
    depend on the number of threads, so neither does any bit of the result.

    Besides its arguments the compiled kernel takes
    ``4 * tokens * (out + 48 * torch.get_num_threads())`` bytes of memory, and up to 0.5 MB a
    thread. On CPUs that have bfloat16 dot products it takes subnormal bfloat16 values, products and
    sums for zeros (``NEUROPATCH_KERNELS=avx512`` keeps them); ``docs/kernels.md`` has the
    arithmetic of each instruction set.

    Args:
        score: ``[out, in]``, float32 or float64, contiguous; changed in place.
        grad: ``[tokens, out]``, the gradient at the output of a linear layer; float32, bfloat16,
            float16, or float64 where ``score`` is float64. Any strides.
        input: ``[tokens, in]``, the input of that layer; same type and device as ``grad``.
        offsets: ``[samples + 1]`` int64 on the CPU, from 0 to ``tokens`` and never descending;
            sample ``b`` is rows ``offsets[b]`` to ``offsets[b + 1]``, possibly none.

    Raises:
        UsageError: An argument does not fit, or ``NEUROPATCH_KERNELS`` cannot be honoured.
    """
    _check_accumulate(score, grad, input, offsets)
    if score.dtype == torch.float64 or not compiled(_ACCUMULATE, score.device):
        reference.snip_accumulate_(score, grad, input, offsets)
        return
    with torch.no_grad():
        torch.ops.neuropatch.snip_accumulate_(score, grad, input, offsets)


def _check_accumulate(score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor) -> None:
    _check_accumulate_metadata(score, grad, input, offsets)
    check_offsets_values(_ACCUMULATE, offsets, grad.shape[0])


def _check_accumulate_metadata(score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor) -> None:
    op = _ACCUMULATE
    if score.dim() != 2 or grad.dim() != 2 or input.dim() != 2:
        shapes = ", ".join(str(tuple(t.shape)) for t in (score, grad))
        fail(
            op,
            "score, grad and input must have two dimensions, not shapes "
            f"{shapes} and {tuple(input.shape)}",
        )
    if grad.shape[0] != input.shape[0]:
        fail(op, f"grad has {grad.shape[0]} tokens but input has {input.shape[0]}")
    if score.shape[0] != grad.shape[1] or score.shape[1] != input.shape[1]:
        fail(
            op,
            f"score has shape {tuple(score.shape)} but grad and input need "
            f"({grad.shape[1]}, {input.shape[1]})",
        )
    check_score_dtypes(op, score, grad, input)
    if not score.is_contiguous():
        fail(op, "score must be contiguous")
    check_offsets_metadata(op, offsets)
    if not (score.device == grad.device == input.device):
        fail(op, "score, grad and input must be on one device")
    if score.requires_grad:
        fail(op, "score must not require a gradient")


register(
    Operator(
        schema=(
            "snip_accumulate_(Tensor(a!) score, Tensor grad, Tensor input, Tensor offsets) -> ()"
        ),
        check=_check_accumulate,
        reference=reference.snip_accumulate_,
        fake=_check_accumulate_metadata,
    )
)
