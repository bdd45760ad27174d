"""Attention of samples in one row: what it is computed in."""

import torch

from neuropatch.data.batching import packed_batches
from neuropatch.data.tokenize import Sample
from neuropatch.models import packing
from neuropatch.models.packing import packed_forward


def test_autocast_does_not_take_attention_on_a_cpu_back_to_16_bits(make_model, monkeypatch):
    model = make_model("llama")
    samples = [Sample(0, [1, 2, 3, 4], 1), Sample(1, [5, 6, 7], 1)]
    (batch,) = packed_batches(samples, batch_tokens=100)
    seen = []
    plain = packing.sdpa_attention_forward

    def spy(module, query, key, value, *args, **options):
        found = plain(module, query, key, value, *args, **options)
        seen.append({query.dtype, key.dtype, value.dtype, found[0].dtype})
        return found

    monkeypatch.setattr(packing, "sdpa_attention_forward", spy)
    exact = packed_forward(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = packed_forward(model, batch)
    assert len(seen) == 2 * len(samples) * model.config.num_hidden_layers
    assert all(dtypes == {torch.float32} for dtypes in seen)
    # All else is as autocast has it: three significant digits of bfloat16.
    assert mixed.dtype == torch.bfloat16
    assert torch.allclose(mixed.float(), exact, atol=0.02 * float(exact.detach().abs().max()))
