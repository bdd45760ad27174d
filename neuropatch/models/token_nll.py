"""Negative log likelihood of tokens, with gradients that are right to float32's last digits.

``log_softmax`` and ``softmax`` of torch on a CPU add up the exponentials of a row one after another
in each vector lane. Over a vocabulary of 49,152 this leaves the sum off by up to 1.4e-5 (SmolLM2 on
rows of BeaverTails), and with it *every* probability of the row, all in the same direction. In the
gradient of the last hidden state those errors add up along the mean of the output embeddings, while
the gradient itself is a small difference, ``sum_j p_j W_j - W_target``, wherever the model is sure
of the token. The float32 scores of a whole model are then off by 8e-5 in the Frobenius norm, and by
4e-6 with the sum that is taken here, by ``torch.sum``, which adds pairwise.

The gradient is made together with the loss, in rows that stay in the cache, so that of the logits'
size one tensor is kept and no other is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

_CHUNK_ELEMENTS = 1 << 20
"""Logits that are worked on at a time: 4 MiB in float32."""


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood of each target under its row of logits, in nats.

    Args:
        logits: ``[N, V]``, any floating type.
        targets: ``[N]`` int64, below ``V``.

    Returns:
        ``[N]`` in float32 (float64 for float64 logits), differentiable once with respect to the
        logits.
    """
    nll: torch.Tensor = _TokenNll.apply(logits, targets)  # type: ignore[no-untyped-call]
    return nll


def token_odds(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log odds of each target against all other tokens, ``log((1 - p) / p)``, in nats.

    The likelihood of a token that a model has memorised hardly changes with anything, and so does
    its gradient, which has the factor ``1 - p``. That of the log odds does not have it.

    Args:
        logits: ``[N, V]``, any floating type.
        targets: ``[N]`` int64, below ``V``.

    Returns:
        ``[N]`` in float32 (float64 for float64 logits), differentiable.
    """
    wide = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    target = targets[:, None]
    others = wide.scatter(1, target, -torch.inf).logsumexp(dim=1)
    return others - wide.gather(1, target).squeeze(1)


def row_chunks(logits: torch.Tensor) -> Iterator[slice]:
    """Rows of logits ``[N, V]``, as many at a time as stay in the cache."""
    step = max(1, _CHUNK_ELEMENTS // logits.shape[1])
    for start in range(0, len(logits), step):
        yield slice(start, start + step)


class _TokenNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        nll = torch.empty(len(targets), dtype=wide, device=logits.device)
        needed = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits, dtype=wide) if needed else None
        for rows in row_chunks(logits):
            part, target = logits[rows].to(wide), targets[rows, None]
            highest = part.amax(dim=1, keepdim=True)
            out = gradient[rows] if gradient is not None else None
            odds = torch.sub(part, highest, out=out).exp_()
            # 1 - p of the target is the share of all others: summed, it keeps its digits where the
            # model is sure of the token, and a difference would lose them.
            likely = odds.gather(1, target)
            others = odds.scatter_(1, target, 0.0).sum(dim=1, keepdim=True)
            total = likely + others
            nll[rows] = (total.log() + highest - part.gather(1, target)).squeeze(1)
            if needed:
                odds.div_(total).scatter_(1, target, -others / total)
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * above[:, None]).to(ctx.dtype), None
