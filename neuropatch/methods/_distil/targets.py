"""What a teacher predicts at the labels of samples, kept small, and the divergence from it.

Of each distribution the ``k`` most likely tokens are kept with their log probabilities, and all
others together count as one more outcome. Merging outcomes can only lower a divergence (data
processing inequality), so what is measured is a lower bound of the divergence over the whole
vocabulary, and exact where ``k`` is the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuropatch.data.batching import PackedBatch, longest_first
from neuropatch.data.tokenize import Sample
from neuropatch.models.likelihood import packed_logits
from neuropatch.models.packing import batches_for

_LEAST = 1e-7
"""Least probability of the merged outcome: below it float32 sums of the others are 1 anyway."""


@dataclass(frozen=True)
class Target:
    """A teacher's predictions of a sample's ``N`` labels.

    Attributes:
        tokens: The most likely tokens, int64 ``[N, k]``.
        log_probs: Their log probabilities, ``[N, k]``.
    """

    tokens: Tensor
    log_probs: Tensor


@dataclass(frozen=True)
class Lesson:
    """A sample, and what is to be predicted at its labels."""

    sample: Sample
    target: Target


@torch.no_grad()
def teach(
    model: nn.Module, samples: Sequence[Sample], *, tokens: int, batch_tokens: int
) -> list[Lesson]:
    """Keep what a model predicts now.

    Args:
        model: The teacher.
        samples: What it is asked.
        tokens: Most tokens kept of a distribution.
        batch_tokens: Most tokens of a forward pass.

    Returns:
        A lesson for each sample, in their order.
    """
    lessons: dict[int, Lesson] = {}
    for numbers, batch in batches_of(model, samples, batch_tokens):
        log_probs = wide(packed_logits(model, batch)).log_softmax(1)
        parts = log_probs.split(batch.label_counts)
        for number, own in zip(numbers, parts, strict=True):
            lessons[number] = Lesson(samples[number], kept(own, tokens))
    return [lessons[number] for number in range(len(samples))]


def kept(log_probs: Tensor, tokens: int) -> Target:
    """The most likely tokens of distributions ``[N, vocabulary]``."""
    best = log_probs.topk(min(tokens, log_probs.shape[1]), dim=1)
    return Target(best.indices, best.values)


def divergences(
    model: nn.Module, lessons: Sequence[Lesson], *, batch_tokens: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Mean divergence of the model's predictions from each lesson's, in nats a label.

    Args:
        model: A model whose predictions are differentiable in something.
        lessons: What it is to predict.
        batch_tokens: Most tokens of a forward pass.

    Yields:
        For each forward pass the numbers of its lessons, and their divergences ``[lessons]``.
    """
    samples = [lesson.sample for lesson in lessons]
    for numbers, batch in batches_of(model, samples, batch_tokens):
        targets = [lessons[number].target for number in numbers]
        found = divergence(
            packed_logits(model, batch),
            Target(
                torch.cat([one.tokens for one in targets]),
                torch.cat([one.log_probs for one in targets]),
            ),
        )
        yield numbers, torch.stack([part.mean() for part in found.split(batch.label_counts)])


def divergence(logits: Tensor, target: Target) -> Tensor:
    """``KL(teacher || model)`` over the teacher's tokens and all others as one: ``[N]``, in nats.

    Args:
        logits: The model's, ``[N, vocabulary]``.
        target: The teacher's.
    """
    mine = wide(logits).log_softmax(1).gather(1, target.tokens)
    theirs = target.log_probs
    told = (theirs.exp() * (theirs - mine)).sum(1)
    if target.tokens.shape[1] == logits.shape[1]:
        return told
    my_rest = (1 - mine.exp().sum(1)).clamp(min=_LEAST)
    their_rest = (1 - theirs.exp().sum(1)).clamp(min=_LEAST)
    return told + their_rest * (their_rest.log() - my_rest.log())


def batches_of(
    model: nn.Module, samples: Sequence[Sample], batch_tokens: int
) -> Iterator[tuple[list[int], PackedBatch]]:
    """Packed batches on the model's device, with the numbers of their samples."""
    # Packing keeps the order of samples that are ordered already.
    order = longest_first(samples)
    device = next(model.parameters()).device
    start = 0
    for batch in batches_for(model, [samples[i] for i in order], batch_tokens=batch_tokens):
        numbers = order[start : start + len(batch.label_counts)]
        start += len(numbers)
        yield numbers, batch.to(device)


def wide(logits: Tensor) -> Tensor:
    """Logits in float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()
