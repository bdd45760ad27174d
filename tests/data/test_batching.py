from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropatch.data.batching import (
    IGNORE_INDEX,
    batches,
    largest_batch,
    packed_batches,
    plan_batches,
)
from neuropatch.data.tokenize import Sample
from neuropatch.errors import UsageError

# Machines under load are slow; the tests make no claim about time.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def sample_lists(draw: st.DrawFn) -> list[Sample]:
    lengths = draw(st.lists(st.integers(2, 20), max_size=12))
    starts = [draw(st.integers(1, length - 1)) for length in lengths]
    rows = draw(st.permutations(range(len(lengths))))
    return [
        Sample(row, list(range(10 * row + 1, 10 * row + 1 + length)), start)
        for row, length, start in zip(rows, lengths, starts, strict=True)
    ]


@relaxed
@given(sample_lists(), st.integers(1, 60), st.booleans())
def test_batches_hold_every_sample_once_within_the_budget(samples, budget, drop):
    seen = []
    for batch in batches(samples, batch_tokens=budget, pad_id=999, drop_last_token=drop):
        count, width = batch.input_ids.shape
        assert count * width <= budget or count == 1
        assert batch.attention_mask.sum(1).tolist() == batch.lengths.tolist()
        for b in range(count):
            sample = samples[int(batch.index[b])]
            length = int(batch.lengths[b])
            assert length == len(sample.ids) - drop
            assert int(batch.rows[b]) == sample.row
            assert batch.input_ids[b].tolist() == sample.ids[:length] + [999] * (width - length)
            assert batch.attention_mask[b].tolist() == [1] * length + [0] * (width - length)
            expected = [
                sample.ids[t + 1] if sample.label_start <= t + 1 < len(sample.ids) else IGNORE_INDEX
                for t in range(width)
            ]
            assert batch.targets[b].tolist() == expected
            assert int(batch.label_counts[b]) == sample.label_count
            seen.append(int(batch.index[b]))
    assert sorted(seen) == list(range(len(samples)))


@relaxed
@given(sample_lists(), st.integers(1, 60))
def test_packed_batches_hold_the_same_samples_one_behind_the_other(samples, budget):
    by_row = {sample.row: sample for sample in samples}
    order = []
    for batch in packed_batches(samples, batch_tokens=budget):
        tokens = batch.input_ids.shape[1]
        assert tokens <= budget or len(batch.rows) == 1
        assert batch.offsets.tolist()[-1] == tokens
        for b, row in enumerate(batch.rows):
            ids, start = by_row[row].ids, by_row[row].label_start
            span = slice(*batch.offsets.tolist()[b : b + 2])
            assert batch.input_ids[0, span].tolist() == ids[:-1]
            assert batch.lengths[b] == len(ids) - 1
            assert batch.position_ids[0, span].tolist() == list(range(len(ids) - 1))
            targets = [ids[t] if t >= start else IGNORE_INDEX for t in range(1, len(ids))]
            assert batch.targets[0, span].tolist() == targets
            assert batch.label_counts[b] == by_row[row].label_count
        order += batch.rows
    assert order == [s.row for s in sorted(samples, key=lambda s: (-len(s.ids), s.row))]


@relaxed
@given(sample_lists(), st.integers(1, 60))
def test_order_is_by_length_then_row(samples, budget):
    plan = plan_batches(samples, batch_tokens=budget)
    flat = [samples[i] for members in plan for i in members]
    assert flat == sorted(samples, key=lambda s: (-len(s.ids), s.row))


def test_dtypes_and_device():
    (batch,) = batches([Sample(0, [1, 2, 3], 1)], batch_tokens=8)
    moved = batch.to("cpu")
    for name in ("input_ids", "attention_mask", "targets", "lengths", "rows", "index"):
        assert getattr(moved, name).dtype == torch.int64
    assert moved.input_ids.tolist() == [[1, 2]]
    assert moved.targets.tolist() == [[2, 3]]


def test_dropping_the_last_token_changes_no_target():
    samples = [Sample(0, [5, 6, 7, 8], 2), Sample(1, [5, 6, 7], 1)]
    (kept,) = batches(samples, batch_tokens=100, drop_last_token=False)
    (dropped,) = batches(samples, batch_tokens=100)
    assert kept.targets[:, :-1].equal(dropped.targets)
    assert kept.targets[:, -1].tolist() == [IGNORE_INDEX] * 2


def test_loss_of_a_causal_model_is_that_of_transformers():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).eval()
    samples = [Sample(0, [1, 5, 9, 7, 3], 2), Sample(1, [1, 4, 8], 1)]
    (batch,) = batches(samples, batch_tokens=64)
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), batch.targets, ignore_index=IGNORE_INDEX, reduction="none"
        )
        means = losses.sum(1) / batch.label_counts
        for b, i in enumerate(batch.index.tolist()):
            ids = torch.tensor([samples[i].ids])
            labels = ids.clone()
            labels[:, : samples[i].label_start] = IGNORE_INDEX
            expected = model(input_ids=ids, labels=labels).loss
            torch.testing.assert_close(means[b], expected)


def test_budget_out_of_range():
    with pytest.raises(UsageError):
        plan_batches([], batch_tokens=0)
    with pytest.raises(UsageError):
        next(packed_batches([], batch_tokens=0))


def test_the_largest_batch_may_be_a_single_long_sample():
    short = [Sample(row, [1] * 5, 4) for row in range(10)]
    # Two batches of four, and one of two: 16 tokens, of which each sample predicts one.
    assert largest_batch(short, batch_tokens=16) == (16, 4)
    long = Sample(10, [1] * 31, 30)
    assert largest_batch([*short, long], batch_tokens=16) == (30, 4)
    for budget in (1, 16, 100):
        packed = list(packed_batches([*short, long], batch_tokens=budget))
        assert largest_batch([*short, long], batch_tokens=budget) == (
            max(batch.input_ids.numel() for batch in packed),
            max(sum(batch.label_counts) for batch in packed),
        )
