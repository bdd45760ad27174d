"""Samples to batches of tensors, padded or packed, under a token budget.

Attribution and evaluation share one form of targets, *aligned with the predicting position*: the
target of position ``t`` is the id of the token that it predicts, that is token ``t + 1`` of the
sample, where that token is a label, and -100 elsewhere. The loss of a batch is therefore
``cross_entropy(logits, targets)`` position by position, without a shift.

The last token of a sample predicts nothing and, in a causal model, changes nothing before it. With
``drop_last_token`` it is left out of the inputs, which saves a position and changes no target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch

from neuropatch.data.tokenize import Sample
from neuropatch.errors import UsageError

IGNORE_INDEX = -100
"""Target of a position whose prediction does not count: torch's ``ignore_index``."""


@dataclass(frozen=True)
class Batch:
    """``B`` samples, padded on the right to ``T`` positions. All tensors are int64.

    Attributes:
        input_ids: ``[B, T]``, padded with the pad id.
        attention_mask: ``[B, T]``, 1 for tokens and 0 for padding.
        targets: ``[B, T]``, the id that each position has to predict, or -100.
        lengths: ``[B]``, the number of input tokens of each sample.
        rows: ``[B]``, the row number of each sample in its data set, from 0.
        index: ``[B]``, the place of each sample in the sequence that was batched: results are put
            back into its order with ``results[batch.index] = ...``.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    targets: torch.Tensor
    lengths: torch.Tensor
    rows: torch.Tensor
    index: torch.Tensor

    @property
    def label_counts(self) -> torch.Tensor:
        """``[B]``, the number of targets of each sample that count; at least 1."""
        return (self.targets != IGNORE_INDEX).sum(dim=1)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class PackedBatch:
    """``B`` samples one behind the other in one row of ``N`` tokens. All tensors are int64.

    Attributes:
        input_ids: ``[1, N]``.
        position_ids: ``[1, N]``, counted from 0 in every sample.
        targets: ``[1, N]``, the id that each position has to predict, or -100.
        offsets: ``[B + 1]`` on the CPU; sample ``b`` is tokens ``offsets[b]`` to
            ``offsets[b + 1]``.
        label_counts: Number of targets of each sample that count; at least 1.
        rows: Row number of each sample in its data set, from 0.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    targets: torch.Tensor
    offsets: torch.Tensor
    label_counts: tuple[int, ...]
    rows: tuple[int, ...]

    @property
    def lengths(self) -> torch.Tensor:
        """``[B]``, the number of input tokens of each sample."""
        return self.offsets.diff()

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return the batch with its tokens on a device."""
        moved = {name: getattr(self, name).to(device) for name in _TOKENS}
        return replace(self, **moved)


_TOKENS = ("input_ids", "position_ids", "targets")


def packed_batches(samples: Sequence[Sample], *, batch_tokens: int) -> Iterator[PackedBatch]:
    """Batch samples without padding under a token budget, for causal models.

    The last token of each sample is left out of the inputs. Samples come in the order of
    :func:`batches`, which depends on nothing but their lengths and rows.

    Args:
        samples: Samples with at least one label each.
        batch_tokens: Most tokens of a batch. A sample that is longer is a batch of its own.

    Yields:
        Batches that hold every sample once; tensors are built one batch at a time.

    Raises:
        UsageError: ``batch_tokens`` is below 1.
    """
    for members in _packs(samples, batch_tokens):
        yield _pack(members)


def largest_batch(samples: Sequence[Sample], *, batch_tokens: int) -> tuple[int, int]:
    """Most input tokens, and most labels, of a batch of :func:`packed_batches`.

    Raises:
        UsageError: ``batch_tokens`` is below 1.
    """
    sizes = [
        (sum(len(one.ids) - 1 for one in members), sum(one.label_count for one in members))
        for members in _packs(samples, batch_tokens)
    ]
    return max(tokens for tokens, _ in sizes), max(labels for _, labels in sizes)


def _packs(samples: Sequence[Sample], batch_tokens: int) -> Iterator[list[Sample]]:
    """The samples of each packed batch."""
    _check_budget(batch_tokens)
    members: list[Sample] = []
    tokens = 0
    for i in longest_first(samples):
        length = len(samples[i].ids) - 1
        if members and tokens + length > batch_tokens:
            yield members
            members, tokens = [], 0
        members.append(samples[i])
        tokens += length
    if members:
        yield members


def batches(
    samples: Sequence[Sample],
    *,
    batch_tokens: int,
    pad_id: int = 0,
    drop_last_token: bool = True,
) -> Iterator[Batch]:
    """Batch samples of like length under a token budget.

    Longest samples come first (ties in the order of row, then place), so that the batch that needs
    the most memory is the first one: a run that does not fit fails at once. The order depends on
    nothing else.

    Args:
        samples: Samples with at least one label each.
        batch_tokens: Most positions of a batch, padding included: ``B * T <= batch_tokens``. A
            sample that is longer is a batch of its own.
        pad_id: Input id at padded positions; any valid id, as the attention mask hides it.
        drop_last_token: Leave the last token of each sample out of the inputs. Exact for causal
            models; keep it for a model that attends to both sides.

    Yields:
        Batches that hold every sample once; tensors are built one batch at a time.

    Raises:
        UsageError: ``batch_tokens`` is below 1.
    """
    for members in plan_batches(
        samples, batch_tokens=batch_tokens, drop_last_token=drop_last_token
    ):
        yield _collate(samples, members, pad_id=pad_id, drop=int(drop_last_token))


def plan_batches(
    samples: Sequence[Sample], *, batch_tokens: int, drop_last_token: bool = True
) -> list[list[int]]:
    """Return the places in ``samples`` that make up each batch of :func:`batches`."""
    _check_budget(batch_tokens)
    drop = int(drop_last_token)
    order = longest_first(samples)
    plan: list[list[int]] = []
    start = 0
    while start < len(order):
        # The first of a batch is its longest, so it sets the width of all.
        width = len(samples[order[start]].ids) - drop
        count = max(1, batch_tokens // width)
        plan.append(order[start : start + count])
        start += count
    return plan


def _check_budget(batch_tokens: int) -> None:
    if batch_tokens < 1:
        raise UsageError(f"--batch-tokens is {batch_tokens}", hint="ask for at least 1")


def longest_first(samples: Sequence[Sample]) -> list[int]:
    """Places in ``samples``, ordered by length (longest first), then row, then place."""
    return sorted(range(len(samples)), key=lambda i: (-len(samples[i].ids), samples[i].row, i))


def _pack(samples: Sequence[Sample]) -> PackedBatch:
    ids: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    offsets = [0]
    for sample in samples:
        length = len(sample.ids) - 1
        ids += sample.ids[:-1]
        positions += range(length)
        targets += sample.targets(IGNORE_INDEX)
        offsets.append(offsets[-1] + length)
    return PackedBatch(
        input_ids=torch.tensor([ids], dtype=torch.int64),
        position_ids=torch.tensor([positions], dtype=torch.int64),
        targets=torch.tensor([targets], dtype=torch.int64),
        offsets=torch.tensor(offsets, dtype=torch.int64),
        label_counts=tuple(sample.label_count for sample in samples),
        rows=tuple(sample.row for sample in samples),
    )


def _collate(samples: Sequence[Sample], members: list[int], *, pad_id: int, drop: int) -> Batch:
    lengths = [len(samples[i].ids) - drop for i in members]
    shape = (len(members), max(lengths))
    input_ids = torch.full(shape, pad_id, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    targets = torch.full(shape, IGNORE_INDEX, dtype=torch.int64)
    for b, (i, length) in enumerate(zip(members, lengths, strict=True)):
        sample = samples[i]
        ids = torch.tensor(sample.ids, dtype=torch.int64)
        input_ids[b, :length] = ids[:length]
        attention_mask[b, :length] = 1
        targets[b, : len(ids) - 1] = torch.tensor(sample.targets(IGNORE_INDEX), dtype=torch.int64)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        targets=targets,
        lengths=torch.tensor(lengths, dtype=torch.int64),
        rows=torch.tensor([samples[i].row for i in members], dtype=torch.int64),
        index=torch.tensor(members, dtype=torch.int64),
    )
