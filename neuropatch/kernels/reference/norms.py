"""Reference of the per-sample norms of activation columns."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


@torch.no_grad()
def snip_column_norms(values: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Norms of the columns of each sample, rounded up to float32.

    Args:
        values: ``[tokens, columns]``.
        offsets: ``[samples + 1]`` int64 on the CPU; sample ``b`` is rows ``offsets[b]`` to
            ``offsets[b + 1]``.
        weights: ``[tokens]`` float32, factors of the tokens, or None.

    Returns:
        ``[samples, columns]`` float32, at or above the exact norms.
    """
    bounds = pairwise(offsets.tolist())
    factors = values.new_ones(len(values)) if weights is None else weights
    norms = [
        _raised_norm(values[start:stop].double() * factors[start:stop, None].double())
        for start, stop in bounds
    ]
    if not norms:
        return values.new_empty((0, values.shape[1]), dtype=torch.float32)
    return torch.stack(norms)


def _raised_norm(sample: Tensor) -> Tensor:
    # Additions in any order lose at most tokens * 2**-53 of a sum of squares, hence half of that of
    # its root. Squares that are rounded themselves are within the same allowance.
    norm = sample.square().sum(dim=0).sqrt() * (1 + (len(sample) + 4) * 2.0**-53)
    nearest = norm.float()
    above = torch.nextafter(nearest, torch.full_like(nearest, torch.inf))
    return torch.where(nearest.double() < norm, above, nearest)
