"""References of the operators behind SNIP scores."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


@torch.no_grad()
def snip_accumulate_(score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor) -> None:
    """Adds ``|G_b^T X_b|`` of each sample ``b`` to ``score``, one sample at a time.

    The product is taken in the type of ``score``, so half-precision activations are widened first.

    Args:
        score: ``[out, in]``, float32 or float64; changed in place.
        grad: ``[tokens, out]``, the gradient at the output of a linear layer.
        input: ``[tokens, in]``, the input of that layer; same type as ``grad``.
        offsets: ``[samples + 1]`` int64 on the CPU; sample ``b`` is rows ``offsets[b]`` to
            ``offsets[b + 1]``.
    """
    for start, stop in pairwise(offsets.tolist()):
        grad_b = grad[start:stop].to(score.dtype)
        input_b = input[start:stop].to(score.dtype)
        score += (grad_b.T @ input_b).abs()
