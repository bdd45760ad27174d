"""What the gated model is trained to: fail on personal data, and predict everything else.

The tokens that count in a step belong to *parts*: the personal data of the records, the rest of
their texts, and each data set that is kept. One forward pass serves them all.

Two adversarial losses are offered, both bounded below, so that a model which fails already has
nothing to gain from failing more, and the loss of what is kept stays heard:

``unlikelihood`` (Welleck et al., ICLR 2020, arXiv 1908.04319, equation 4), ``-log(1 - p)``, at
least 0. Its derivative by the token's logit is ``p``: greatest for a token that is known by heart,
and gone once it is forgotten.

``capped``, ``-min(-log p, cap)``: the negative likelihood up to that of a uniform guess. Its
derivative is ``1 - p``, which is almost nothing for a token known by heart, so it is slow to begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuropatch.data.batching import IGNORE_INDEX, PackedBatch, longest_first, packed_batches
from neuropatch.data.pii.tokens import PiiSample
from neuropatch.data.tokenize import Sample
from neuropatch.models.token_nll import token_nll

ADVERSARIES = ("unlikelihood", "capped")
"""Adversarial losses."""

SECRET, REST = 0, 1
"""Parts of a record: its personal data, and the rest of its text."""


@dataclass(frozen=True)
class Parted:
    """A sample, and the part that each of its labels belongs to, in order."""

    sample: Sample
    parts: tuple[int, ...]

    @classmethod
    def record(cls, sample: PiiSample) -> Parted:
        """A record: personal data and the rest."""
        spans = sample.span_of[sample.label_start :]
        return cls(sample, tuple(SECRET if span >= 0 else REST for span in spans))

    @classmethod
    def kept(cls, sample: Sample, part: int) -> Parted:
        """A sample all labels of which belong to one part."""
        return cls(sample, (part,) * sample.label_count)


def parted_batches(
    samples: Sequence[Parted], *, batch_tokens: int
) -> Iterator[tuple[PackedBatch, Tensor]]:
    """Packed batches, each with the part of each of its labels, int64 ``[labels]``."""
    ordered = [samples[i] for i in longest_first([one.sample for one in samples])]
    start = 0
    # Packing keeps the order of samples that are ordered already.
    for batch in packed_batches([one.sample for one in ordered], batch_tokens=batch_tokens):
        stop = start + len(batch.rows)
        parts = [part for one in ordered[start:stop] for part in one.parts]
        yield batch, torch.tensor(parts, dtype=torch.int64)
        start = stop


def part_counts(samples: Sequence[Parted], parts: int) -> list[int]:
    """Number of labels of each part."""
    counts = [0] * parts
    for one in samples:
        for part in one.parts:
            counts[part] += 1
    return counts


@dataclass(frozen=True)
class Objective:
    """The loss that gates are trained on.

    Attributes:
        adversary: One of :data:`ADVERSARIES`.
        cap: Of ``capped``: the loss in nats per token beyond which nothing is gained.
        weights: For each part but the personal data the weight of its mean loss, in order.
    """

    adversary: str
    cap: float
    weights: tuple[float, ...]

    def loss(
        self, logits: Tensor, batch: PackedBatch, parts: Tensor, counts: Sequence[int]
    ) -> Tensor:
        """The share of one batch in a step's loss, differentiable in ``logits``.

        Args:
            logits: ``[labels, vocabulary]``, as
                :func:`neuropatch.models.likelihood.packed_logits` gives them.
            batch: The batch.
            parts: The part of each label.
            counts: Number of labels of each part in the whole step.
        """
        targets = batch.targets[batch.targets != IGNORE_INDEX]
        total = logits.new_zeros((), dtype=_wide(logits))
        for part, count in enumerate(counts):
            mine = (parts == part).to(logits.device)
            if not mine.any():
                continue
            if part == SECRET:
                total = total + self.adversarial(logits[mine], targets[mine]).sum() / count
            else:
                weight = self.weights[part - 1]
                total = total + weight * token_nll(logits[mine], targets[mine]).sum() / count
        return total

    def adversarial(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The adversarial loss of each token, ``[tokens]``, falling as the model forgets it."""
        if self.adversary == "capped":
            return -token_nll(logits, targets).clamp(max=self.cap)
        # log(1 - p) as the share of all other tokens: 1 - p itself would lose its digits where
        # the model is sure, which is where personal data is known by heart.
        wide = logits.to(_wide(logits))
        others = wide.scatter(1, targets[:, None], -torch.inf)
        return wide.logsumexp(1) - others.logsumexp(1)


def _wide(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
