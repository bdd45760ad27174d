"""Perplexity of a plain text under a causal language model.

Every document (a ``.txt`` file, or a row of a table) is tokenised as a whole, without special
tokens, and cut into windows that do not overlap (:func:`neuropatch.data.tokenize.text_windows`).
What the tokenizer puts before every text, a BOS, is put before every window and is never
predicted. Without one, the first token of a window is context only. With ``S`` the sum of the
negative log likelihoods of all predicted tokens of all windows and ``N`` their number,

    perplexity = exp(S / N)

so every token counts the same, whichever window it is in. No token sees more than its own window,
which makes the value higher than that of a sliding window: compare values of equal window length.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuropatch.data.batching import IGNORE_INDEX, batches
from neuropatch.data.tokenize import Sample
from neuropatch.models.likelihood import logits_only_at

Floats = NDArray[np.float64]

_CHUNK_ELEMENTS = 1 << 22
"""Log probabilities that are held at once: 16 MiB in float32."""


@torch.no_grad()
def window_logits(model: nn.Module, window: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a window at the positions that predict a token.

    Args:
        model: A causal language model of transformers.
        window: Tokens of a window.

    Returns:
        Logits ``[N, V]`` in the model's dtype, and the ids ``[N]`` that are to be predicted.
    """
    batch = next(batches([window], batch_tokens=len(window.ids)))
    batch = batch.to(next(model.parameters()).device)
    wanted = batch.targets != IGNORE_INDEX
    with logits_only_at(model, wanted):
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).logits
    return logits[0], batch.targets[wanted]


def total_nll(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Sum of the negative log likelihoods of tokens, in nats.

    Args:
        logits: ``[N, V]``.
        targets: ``[N]``, the id that each row predicts.
    """
    total = 0.0
    for rows in position_chunks(logits):
        chosen = log_probabilities(logits[rows]).gather(1, targets[rows, None])
        total -= float(chosen.sum(dtype=torch.float64))
    return total


def perplexity(nll: Floats) -> Floats:
    """Perplexity of mean negative log likelihoods in nats; infinite beyond any float."""
    with np.errstate(over="ignore"):
        values: Floats = np.exp(nll)
    return values


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Log-softmax over the vocabulary, in float32 at least."""
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return torch.log_softmax(logits, dim=-1, dtype=wide)


def position_chunks(logits: torch.Tensor) -> Iterator[slice]:
    """Runs of positions of ``[N, V]`` logits that are small enough to widen and normalise."""
    positions, vocabulary = logits.shape
    step = max(1, _CHUNK_ELEMENTS // vocabulary)
    for start in range(0, positions, step):
        yield slice(start, min(start + step, positions))
