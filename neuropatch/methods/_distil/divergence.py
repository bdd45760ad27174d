"""The divergence from a teacher's predictions that are kept small.

Of each distribution the ``k`` most likely tokens are kept with their log probabilities, and all
others together count as one more outcome. Merging outcomes can only lower a divergence (data
processing inequality), so what is measured is a lower bound of the divergence over the whole
vocabulary, and exact where ``k`` is the vocabulary.

Over a large vocabulary the logits of a batch are the largest tensor of a training step. Their
gradient has a closed form, so it is made together with the divergence, in rows that stay in the
cache, as :mod:`neuropatch.models.token_nll` does and for its reasons: of the logits' size one
tensor is kept, in their number format, and one is made when it is passed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuropatch.models.token_nll import row_chunks

_LEAST = 1e-7
"""Least probability of the teacher's merged outcome: below it float32 sums of the others are 1."""


@dataclass(frozen=True)
class Target:
    """A teacher's predictions of a sample's ``N`` labels.

    Attributes:
        tokens: The most likely tokens, int64 ``[N, k]``.
        log_probs: Their log probabilities, ``[N, k]``.
    """

    tokens: Tensor
    log_probs: Tensor


def kept(log_probs: Tensor, tokens: int) -> Target:
    """The most likely tokens of distributions ``[N, vocabulary]``."""
    best = log_probs.topk(min(tokens, log_probs.shape[1]), dim=1)
    return Target(best.indices, best.values)


def divergence(logits: Tensor, target: Target) -> Tensor:
    """``KL(teacher || model)`` over the teacher's tokens and all others as one: ``[N]``, in nats.

    Args:
        logits: The model's, ``[N, vocabulary]``.
        target: The teacher's.

    Returns:
        In float32 (float64 for float64 logits), differentiable once with respect to the logits.
    """
    apply = _Divergence.apply
    found: Tensor = apply(logits, target.tokens, target.log_probs)  # type: ignore[no-untyped-call]
    return found


def wide(logits: Tensor) -> Tensor:
    """Logits in float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()


class _Divergence(torch.autograd.Function):
    """The divergence, and its gradient with it.

    With ``p`` of the model and ``t`` of the teacher, and ``r`` and ``s`` what they give all others:
    ``KL = sum_k t_k (log t_k - log p_k) + s (log s - log r)``. The slope is ``p_k - t_k`` at the
    logit of a token of the teacher's, and ``p_j (1 - s / r)`` at another one.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, log_probs: Tensor) -> Tensor:
        theirs = log_probs.to(torch.promote_types(logits.dtype, torch.float32))
        told = theirs.exp()
        merged = tokens.shape[1] < logits.shape[1]
        left = (1 - told.sum(1)).clamp(min=_LEAST) if merged else torch.zeros_like(told[:, 0])
        # 1 but for the bound: kept, so that the gradient is that of what is returned.
        mass = told.sum(1) + left
        found: Tensor = (told * theirs).sum(1) + torch.special.xlogy(left, left)
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for rows in row_chunks(logits):
            part = wide(logits[rows])
            mine, own, rest = tokens[rows], told[rows], left[rows, None]
            highest = part.amax(dim=1, keepdim=True)
            odds = (part - highest).exp_()
            likely = odds.gather(1, mine)
            # Summed and not taken from 1: it keeps its digits where the model is sure.
            others = odds.scatter_(1, mine, 0.0).sum(dim=1, keepdim=True)
            total = likely.sum(dim=1, keepdim=True) + others
            others = others.clamp(min=torch.finfo(others.dtype).tiny)
            log_total = total.log() + highest
            found[rows] -= (own * (part.gather(1, mine) - log_total)).sum(1)
            found[rows] -= (rest * (others.log() - total.log())).squeeze(1)
            if gradient is not None:
                share = mass[rows, None] / total
                odds.mul_(share - rest / others)
                gradient[rows] = odds.scatter_(1, mine, likely * share - own).to(logits.dtype)
        ctx.save_for_backward(gradient)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        found = torch.empty_like(gradient)
        for rows in row_chunks(gradient):
            found[rows] = gradient[rows] * above[rows, None]
        return found, None, None
