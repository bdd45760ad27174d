from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from neuropatch.data.tokenize import Sample
from neuropatch.evaluation.preference import margins, preferences


class Unigram(nn.Module):
    """Gives every token the same probability whatever came before: likelihoods by hand."""

    def __init__(self, probabilities):
        super().__init__()
        self.head = nn.Linear(1, len(probabilities), bias=False)
        self.head.weight.data = torch.tensor(probabilities).log()[:, None]

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask, use_cache):
        return SimpleNamespace(logits=self.head(torch.ones(*input_ids.shape, 1)))


PROBABILITIES = [0.5, 0.25, 0.125, 0.0625, 0.0625]
LIKELY, UNLIKELY = [0, 0, 1], [3, 2]


def sample(row, response):
    return Sample(row, [4, 4, *response], 2)


def test_mean_log_likelihood_per_token_of_the_response_decides():
    preferred = [sample(0, LIKELY), sample(1, UNLIKELY), sample(2, [1]), sample(3, [0, 2])]
    dispreferred = [sample(0, UNLIKELY), sample(1, LIKELY), sample(2, [1]), sample(3, [1, 1])]
    found = margins(Unigram(PROBABILITIES), preferred, dispreferred, batch_tokens=8)
    bit = np.log(2)
    apart = (4 + 3) / 2 - (1 + 1 + 2) / 3
    # The last two responses differ, but (1 + 3) / 2 bits are (2 + 2) / 2 bits.
    np.testing.assert_allclose(found, [apart * bit, -apart * bit, 0, 0], atol=1e-6)
    assert preferences(found[:3]).tolist() == [1.0, 0.0, 0.5]


def test_the_same_tokens_are_a_tie_whatever_batch_they_are_in(model):
    # A budget of one sample a batch pads nothing; of many, the shorter ones.
    rng = np.random.default_rng(0)
    samples = [Sample(n, rng.integers(2, 200, size=5 + n).tolist(), 3) for n in range(9)]
    found = margins(model, samples, [*samples[:8], Sample(8, samples[8].ids, 4)], batch_tokens=40)
    assert (found[:8] == 0).all()
    assert found[8] != 0


@pytest.mark.parametrize("batch_tokens", [1, 64])
def test_results_stand_in_the_order_of_the_pairs(batch_tokens):
    lengths = [1, 4, 2, 3]
    preferred = [sample(n, [0] * length) for n, length in enumerate(lengths)]
    dispreferred = [sample(n, [0] * n + [3]) for n in range(4)]
    found = margins(Unigram(PROBABILITIES), preferred, dispreferred, batch_tokens=batch_tokens)
    expected = [(n + 4) / (n + 1) - 1 for n in range(4)]
    np.testing.assert_allclose(found / np.log(2), expected, atol=1e-6)
