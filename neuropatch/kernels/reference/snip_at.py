"""Reference of the operator behind exact SNIP scores of a few weights."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


@torch.no_grad()
def snip_accumulate_at_(
    score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor, rows: Tensor, columns: Tensor
) -> None:
    """Adds elements ``(rows[c], columns[c])`` of ``|G_b^T X_b|`` of each sample ``b`` to ``score``.

    The whole product is made, as in :func:`neuropatch.kernels.reference.snip.snip_accumulate_`:
    only so does every element have the bits that it has there, whatever order a GEMM sums in.

    Args:
        score: ``[n]``, float32 or float64; changed in place.
        grad: ``[tokens, out]``, the gradient at the output of a linear layer.
        input: ``[tokens, in]``, the input of that layer; same type as ``grad``.
        offsets: ``[samples + 1]`` int64 on the CPU; sample ``b`` is rows ``offsets[b]`` to
            ``offsets[b + 1]``.
        rows: ``[n]`` int32, rows of the product.
        columns: ``[n]`` int32, columns of the product.
    """
    for start, stop in pairwise(offsets.tolist()):
        grad_b = grad[start:stop].to(score.dtype)
        input_b = input[start:stop].to(score.dtype)
        score += (grad_b.T @ input_b).abs()[rows, columns]
