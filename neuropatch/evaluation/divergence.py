"""Divergence of a patched model's next-token distributions from the base model's.

    KL(base || patched) = mean over predicting positions of sum_v p_base(v) log(p_base(v) / p(v))

in nats per token, over the windows that perplexity is measured on. Log probabilities are float32
and their weighted differences are added up in float64. Two equal sets of logits give exactly 0.
"""

from __future__ import annotations

import torch

from neuropatch.evaluation.perplexity import log_probabilities, position_chunks


def total_kl(base: torch.Tensor, other: torch.Tensor) -> float:
    """Sum over positions of the KL divergence of ``other`` from ``base``, in nats.

    Args:
        base: Logits ``[N, V]`` of the base model.
        other: Logits ``[N, V]`` of the other model at the same positions.
    """
    total = 0.0
    for rows in position_chunks(base):
        expected, found = log_probabilities(base[rows]), log_probabilities(other[rows])
        # Where the base gives a token no probability at all, 0 * log(0 / p) counts as 0.
        terms = torch.where(expected.isneginf(), 0, expected.exp() * (expected - found))
        total += float(terms.sum(dtype=torch.float64))
    return total
