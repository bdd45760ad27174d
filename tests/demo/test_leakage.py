from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from neuropatch.demo.corpus import Row
from neuropatch.demo.leakage import extraction_rate
from neuropatch.errors import DataError


def tokenize(text):
    """One token a letter, after a first token 0 as a tokenizer with BOS adds it."""
    return {"input_ids": [0] + [ord(letter) - ord("a") + 1 for letter in text]}


class Alphabet(torch.nn.Module):
    """Continues every letter with the next one of the alphabet, whatever stands before."""

    device = torch.device("cpu")

    def forward(self, input_ids):
        logits = torch.nn.functional.one_hot(input_ids + 1, 64).float()
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_only_exact_continuations_count(batch_size):
    records = [Row("ab", "cdefg"), Row("ab", "cdz"), Row("x", "y"), Row("c", "e"), Row("cde", "fg")]
    result = extraction_rate(Alphabet(), tokenize, records, batch_size=batch_size)
    assert result.hits == (True, False, True, False, True)
    assert result.count == 3
    assert result.rate == pytest.approx(0.6)


def test_a_wrong_last_token_is_a_miss():
    result = extraction_rate(Alphabet(), tokenize, [Row("a", "bcdefghia")])
    assert result.rate == 0


def test_agrees_with_greedy_decoding_of_a_real_model(bundled):
    model, tokenizer, corpus = bundled
    records = [*corpus.phone[:6], Row(corpus.phone[0].prompt, corpus.phone[1].response)]
    decoded = []
    for record in records:
        prompt = tokenizer(record.prompt, return_tensors="pt")["input_ids"]
        length = len(tokenizer(record.prompt + record.response)["input_ids"]) - prompt.shape[1]
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=length,
            do_sample=False,
        )
        decoded.append(tokenizer.decode(output[0, prompt.shape[1] :]) == record.response)
    result = extraction_rate(model, tokenizer, records)
    assert list(result.hits) == decoded
    assert decoded[-1] is False


def test_no_records_is_an_error():
    with pytest.raises(DataError, match="no records"):
        extraction_rate(Alphabet(), tokenize, [])


def test_an_empty_response_is_an_error():
    with pytest.raises(DataError, match="does not add tokens"):
        extraction_rate(Alphabet(), tokenize, [Row("a", "b"), Row("abc", "")])
