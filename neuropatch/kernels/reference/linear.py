"""References of the operators behind linear layers with a sparse change of their weights."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


@torch.no_grad()
def add_sparse_linear(
    output: Tensor,
    input: Tensor,
    rows: Tensor,
    columns: Tensor,
    delta: Tensor,
    edit_offsets: Tensor,
    token_offsets: Tensor,
    patches: Tensor,
) -> Tensor:
    """Adds ``x D_p^T`` to the rows of ``output`` that patch ``p`` serves, with a dense ``D_p``.

    Args:
        output: ``[tokens, out]``.
        input: ``[tokens, in]``, of the same type.
        rows: ``[edits]``; edits of patch ``p`` are ``edit_offsets[p]`` to ``edit_offsets[p + 1]``.
        columns: ``[edits]``.
        delta: ``[edits]``, float32 or float64: the type of the arithmetic.
        edit_offsets: ``[patches + 1]`` on the CPU.
        token_offsets: ``[ranges + 1]`` on the CPU.
        patches: ``[ranges]`` on the CPU: the patch of each range of tokens, or -1 for none.

    Returns:
        ``[tokens, out]`` in the type of ``output``, rounded once.
    """
    result = output.to(delta.dtype, copy=True)
    starts = edit_offsets.tolist()
    for (begin, end), patch in zip(pairwise(token_offsets.tolist()), patches.tolist(), strict=True):
        if patch < 0:
            continue
        edits = slice(starts[patch], starts[patch + 1])
        change = delta.new_zeros(output.shape[1], input.shape[1])
        place = (rows[edits].long(), columns[edits].long())
        change.index_put_(place, delta[edits], accumulate=True)
        result[begin:end] += input[begin:end].to(delta.dtype) @ change.T
    return result.to(output.dtype).contiguous()
