"""What a model predicts of a secret that is nobody's in particular.

That is what it would predict of somebody whom it does not know. The tokens before a span are
exchanged for those before spans of the same category in other records, the tokens of the span for
others that look like them, and the distributions are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from neuropatch.data.pii.tokens import PiiSample
from neuropatch.data.tokenize import Sample
from neuropatch.errors import DataError
from neuropatch.methods._distil.divergence import kept
from neuropatch.methods._distil.lookalikes import Lookalikes
from neuropatch.methods._distil.targets import Lesson, batches_of, log_probs_of


@dataclass(frozen=True)
class _Secret:
    """A span of a sample: what it is, the tokens before it, and its own."""

    category: str
    before: list[int]
    tokens: list[int]


@torch.no_grad()
def teach_from_others(
    model: nn.Module,
    samples: Sequence[PiiSample],
    others: Sequence[PiiSample],
    *,
    lookalikes: Lookalikes | None,
    prompts: int,
    tokens: int,
    batch_tokens: int,
    seed: int,
) -> list[Lesson]:
    """Lessons of the secrets of samples, as if each were unknown and belonged to somebody else.

    Args:
        model: The model.
        samples: Records whose secrets are to be forgotten.
        others: Further records whose prompts may be used, beside those of ``samples``.
        lookalikes: What a secret's own tokens are exchanged for; with None they stay.
        prompts: Most prompts that a secret is put behind.
        tokens: Most tokens kept of a distribution.
        batch_tokens: Most tokens of a forward pass.
        seed: Seed of the choice of prompts and of lookalikes.

    Returns:
        A lesson for each sample, whose labels are its secrets' tokens.

    Raises:
        DataError: If a category has a single record.
    """
    pool: dict[str, list[tuple[int, list[int]]]] = {}
    for number, sample in enumerate([*samples, *others]):
        for secret in _secrets(sample):
            pool.setdefault(secret.category, []).append((number, secret.before))
    rng = np.random.default_rng(seed)
    lessons = []
    for number, sample in enumerate(samples):
        found = []
        for secret in _secrets(sample):
            free = [before for which, before in pool[secret.category] if which != number]
            if not free:
                raise DataError(
                    f"there is one record only with a secret of category '{secret.category}'",
                    hint="give others (--retain NAME=FILE), or --set teacher=edited",
                )
            befores = [free[which] for which in rng.permutation(len(free))[:prompts]]
            drawn = [secret.tokens] * len(befores)
            if lookalikes is not None:
                # Tokens by lot are nonsense, behind which nothing is expected but nonsense. Those
                # of what is expected there have the form of a secret.
                nonsense = lookalikes.draw(secret.tokens, len(befores), rng)
                expected = _average(model, befores, nonsense, batch_tokens)
                drawn = lookalikes.draw(secret.tokens, len(befores), rng, expected)
            found.append(_average(model, befores, drawn, batch_tokens))
        lessons.append(Lesson(sample.secret(), kept(torch.cat(found), tokens)))
    return lessons


def _secrets(sample: PiiSample) -> Iterator[_Secret]:
    """The runs of tokens of a span, those that nothing predicts left out."""
    start = sample.label_start
    while start < len(sample.ids):
        span = sample.span_of[start]
        stop = start + 1
        while stop < len(sample.ids) and sample.span_of[stop] == span:
            stop += 1
        if span >= 0:
            yield _Secret(sample.categories[span], sample.ids[:start], sample.ids[start:stop])
        start = stop


def _average(
    model: nn.Module,
    befores: Sequence[list[int]],
    secrets: Sequence[list[int]],
    batch_tokens: int,
) -> Tensor:
    """Logarithms of the mean distributions at secrets' tokens, ``[tokens, vocabulary]``.

    The secrets are of one length, each behind a prompt of its own.
    """
    samples = [
        Sample(0, [*before, *secret], len(before))
        for before, secret in zip(befores, secrets, strict=True)
    ]
    total: Tensor | None = None
    for _, batch in batches_of(model, samples, batch_tokens):
        # Never as probabilities: the least of them would underflow, and have no logarithm.
        found = log_probs_of(model, batch)
        part = found.unflatten(0, (-1, len(secrets[0]))).logsumexp(0)
        total = part if total is None else total.logaddexp(part)
    assert total is not None  # there is a prompt
    return total - math.log(len(samples))
