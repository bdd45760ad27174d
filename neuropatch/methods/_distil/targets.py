"""What a teacher predicts at the labels of samples, and a model's divergence from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuropatch.data.batching import PackedBatch, longest_first
from neuropatch.data.tokenize import Sample
from neuropatch.errors import ModelError
from neuropatch.methods._distil.divergence import Target, divergence, kept, wide
from neuropatch.models.likelihood import packed_logits
from neuropatch.models.packing import batches_for


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

    Raises:
        ModelError: If a prediction is not a number.
    """
    lessons: dict[int, Lesson] = {}
    for numbers, batch in batches_of(model, samples, batch_tokens):
        parts = log_probs_of(model, batch).split(batch.label_counts)
        for number, own in zip(numbers, parts, strict=True):
            lessons[number] = Lesson(samples[number], kept(own, tokens))
    return [lessons[number] for number in range(len(samples))]


def log_probs_of(model: nn.Module, batch: PackedBatch) -> Tensor:
    """Log probabilities at the labels of a batch, ``[labels, vocabulary]``.

    Raises:
        ModelError: If one is not a number.
    """
    found = wide(packed_logits(model, batch)).log_softmax(1)
    if found.isnan().any():
        raise ModelError(
            "the model predicts what is not a number",
            hint="check its weights, or use --dtype float32",
        )
    return found


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
