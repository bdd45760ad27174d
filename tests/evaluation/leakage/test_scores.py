from __future__ import annotations

import pytest
import torch

from neuropatch.errors import DataError
from neuropatch.evaluation.leakage.scores import Probe, encode_probes, score_secrets


def test_a_secret_starts_with_its_blank_and_its_characters_are_counted_without_it(tokenizer):
    (one,) = encode_probes([Probe("Call", "+1-23")], tokenizer)
    assert tokenizer.decode(one.ids) == "Call +1-23"
    assert tokenizer.decode(one.ids[one.start :]) == " +1-23"
    assert one.ends == (0, 1, 2, 3, 4, 5)


def test_a_prompt_that_ends_with_a_blank_keeps_it(tokenizer):
    (one,) = encode_probes([Probe("Tel:\n", "12")], tokenizer)
    assert tokenizer.decode(one.ids) == "Tel:\n12"
    assert tokenizer.decode(one.ids[one.start :]) == "12"


def test_a_bos_stands_before_the_prompt(make_tokenizer):
    tokenizer = make_tokenizer(bos=True)
    (one,) = encode_probes([Probe("", "12")], tokenizer)
    assert one.ids[0] == tokenizer.bos_token_id
    assert one.start == 1


@pytest.mark.parametrize("probe", [Probe("Call", "  "), Probe("", "12")])
def test_a_secret_that_nothing_can_predict_is_refused(tokenizer, probe):
    with pytest.raises(DataError, match="no token that something stands before"):
        encode_probes([probe], tokenizer)


def test_losses_and_ranks_are_those_of_each_text_alone(bundled, shaken, probes):
    _, tokenizer = bundled
    scores = score_secrets(shaken, tokenizer, probes, batch_tokens=90)
    for probe, one in zip(probes, scores, strict=True):
        prompt = tokenizer(probe.prompt)["input_ids"]
        ids = torch.tensor([tokenizer(f"{probe.prompt} {probe.secret}")["input_ids"]])
        with torch.no_grad():
            logits = shaken(ids).logits[0, len(prompt) - 1 : -1].double()
        targets = ids[0, len(prompt) :]
        nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        order = logits.argsort(dim=1, descending=True)
        ranks = 1 + (order == targets[:, None]).int().argmax(dim=1)
        # Packed and single float32 products round differently, at losses of up to about 10.
        torch.testing.assert_close(torch.tensor(one.nll).double(), nll, rtol=1e-4, atol=1e-4)
        assert list(one.ranks) == ranks.tolist()


def test_whole_tokens_are_given_and_never_the_last_one(bundled, probes):
    model, tokenizer = bundled
    (one,) = score_secrets(model, tokenizer, probes[:1])
    assert one.given(0) == sum(end == 0 for end in one.ends)
    five = one.given(5)
    assert one.ends[five - 1] <= 5 < one.ends[five]
    assert one.given(1000) == len(one.nll) - 1
