"""Likelihood of responses under a causal language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from neuropatch.data.batching import IGNORE_INDEX, Batch, PackedBatch
from neuropatch.models.packing import packed_forward
from neuropatch.models.token_nll import token_nll

TokenLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From logits ``[N, V]`` and targets ``[N]`` to the loss of each target, ``[N]``."""


@contextmanager
def logits_only_at(model: nn.Module, wanted: torch.Tensor) -> Iterator[None]:
    """Compute logits at some positions only, for the length of a ``with`` block.

    The output embedding is the widest layer of a small model; positions whose prediction does
    not count need not pass it. Inside the block the model's logits have shape ``[1, N, V]``.

    Args:
        model: A transformers model with an output embedding.
        wanted: ``[B, T]`` bool with ``N`` true positions.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[operator]

    def pick(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        # The last layer of a model that is spread over devices may be on another one.
        return (args[0][wanted.to(args[0].device)].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def sample_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Mean negative log likelihood of each sample's labels, in nats per token.

    This is ``L(x)`` of SPIN (arXiv 2410.16672, section 3): the mean over the response tokens of
    one sample, given its prompt.

    Args:
        model: A causal language model of transformers.
        batch: Samples on the model's device.

    Returns:
        ``[B]`` in float32 (float64 for a float64 model), differentiable.
    """
    wanted = batch.targets != IGNORE_INDEX
    with logits_only_at(model, wanted):
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).logits
    nll = token_nll(logits[0], batch.targets[wanted])
    # Spread back over [B, T] and summed by row: unlike index_add, the same on every run.
    spread = nll.new_zeros(wanted.shape)
    spread[wanted] = nll
    return spread.sum(dim=1) / wanted.sum(dim=1)


def packed_logits(model: nn.Module, batch: PackedBatch) -> torch.Tensor:
    """Logits at the label positions of samples that are packed into one row, without padding.

    Args:
        model: A causal language model of transformers.
        batch: Samples on the model's device.

    Returns:
        ``[N, V]``, differentiable; row ``n`` predicts the ``n``-th target that counts.

    Raises:
        ModelError: The model does not let its attention be exchanged.
    """
    with logits_only_at(model, batch.targets != IGNORE_INDEX):
        logits: torch.Tensor = packed_forward(model, batch)
    return logits[0]


def packed_losses(
    model: nn.Module, batch: PackedBatch, token_loss: TokenLoss = token_nll
) -> torch.Tensor:
    """:func:`sample_losses` of samples that are packed into one row, without padding.

    Args:
        model: A causal language model of transformers.
        batch: Samples on the model's device.
        token_loss: Loss of each label.

    Returns:
        ``[B]`` in float32 (float64 for a float64 model), differentiable.

    Raises:
        ModelError: The model does not let its attention be exchanged.
    """
    losses = token_loss(packed_logits(model, batch), batch.targets[batch.targets != IGNORE_INDEX])
    return torch.stack([part.mean() for part in losses.split(batch.label_counts)])
