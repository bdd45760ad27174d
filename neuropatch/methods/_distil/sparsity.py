"""Which of the trained weights may stay changed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from neuropatch.attribution.selection import top_indices
from neuropatch.models.coordinates import MatrixId


def largest_changes(
    changes: Mapping[MatrixId, Tensor], sizes: Mapping[str, float], density: float
) -> dict[MatrixId, Tensor]:
    """Mark the weights that changed most, over all matrices together.

    Args:
        changes: What is added to weights, by matrix.
        sizes: Size of the weights of a role; a change counts relative to it, as weights of another
            size are trained at another rate.
        density: Share of the weights to keep; at least one is kept.

    Returns:
        For each matrix a mask of its changes' shape, 1 where a change stays and 0 elsewhere. Of
        equal changes the first in the order of matrices stays.
    """
    relative = torch.cat(
        [change.detach().abs().flatten() / sizes[matrix.role] for matrix, change in changes.items()]
    )
    count = max(1, round(density * len(relative)))
    mask = torch.zeros_like(relative).index_fill_(0, top_indices(relative, count), 1.0)
    parts = mask.split([change.numel() for change in changes.values()])
    return {
        matrix: part.view_as(change)
        for (matrix, change), part in zip(changes.items(), parts, strict=True)
    }
