"""Reference of the selection of top weights."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def product_topk(
    weight: Tensor, score: Tensor, divisor: float, k: int, floor: float
) -> tuple[Tensor, Tensor]:
    """The ``k`` largest ``score * |weight| / divisor`` above ``floor``, by sorting all of them.

    Args:
        weight: ``[out, in]``.
        score: ``[out, in]``, float32 or float64.
        divisor: Positive and finite.
        k: How many to take.
        floor: Not negative.

    Returns:
        Values and flat indices ``[min(k, out * in)]``, filled up with 0 and -1.
    """
    product = (score * weight.abs().to(score.dtype) / divisor).reshape(-1)
    rank = torch.where(torch.isfinite(product), product, torch.inf)
    indices = torch.sort(rank, descending=True, stable=True).indices[:k]
    taken = rank[indices] > floor
    return torch.where(taken, product[indices], 0), torch.where(taken, indices, -1)
