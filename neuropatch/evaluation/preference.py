"""Preference: which of two responses to a prompt a model finds likelier, token by token.

A pair counts 1 if the preferred response has the higher mean log likelihood per token given the
prompt, 0 if the dispreferred one has, and 0.5 if they are equal; two responses of the same tokens
are always equal. The *preference* of a set is the mean over its pairs. The *margin* is the mean
over pairs of the difference of the two mean log likelihoods, in nats per token: it moves before
any pair turns over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuropatch.data.batching import batches
from neuropatch.data.tokenize import Sample
from neuropatch.models.likelihood import sample_losses
from neuropatch.progress import Progress, Silent

Floats = NDArray[np.float64]


@torch.no_grad()
def margins(
    model: nn.Module,
    preferred: Sequence[Sample],
    dispreferred: Sequence[Sample],
    *,
    batch_tokens: int,
    progress: Progress | None = None,
) -> Floats:
    """Mean log likelihood per token of each preferred response minus that of its counterpart.

    Args:
        model: A causal language model of transformers.
        preferred: ``n`` prompts with the responses that should be preferred.
        dispreferred: The same prompts with those that should not.
        batch_tokens: Most positions of a batch.
        progress: Advanced by one for every sample, ``2n`` in all.

    Returns:
        ``[n]`` in nats per token.
    """
    progress = progress or Silent()
    device = next(model.parameters()).device
    samples = [*preferred, *dispreferred]
    losses = np.empty(len(samples))
    for batch in batches(samples, batch_tokens=batch_tokens):
        found = sample_losses(model, batch.to(device))
        losses[batch.index.numpy()] = found.double().cpu().numpy()
        progress.advance(len(batch.index))
    count = len(preferred)
    difference = losses[count:] - losses[:count]
    # The same tokens in two batches may differ in the last bit, which would be no tie.
    same = [
        (a.ids, a.label_start) == (b.ids, b.label_start)
        for a, b in zip(preferred, dispreferred, strict=True)
    ]
    return np.where(same, 0.0, difference)


def preferences(margin: Floats) -> Floats:
    """1 where a margin is positive, 0 where it is negative, 0.5 where it is 0; ``[n]``."""
    wins: Floats = (np.sign(margin) + 1) / 2
    return wins
