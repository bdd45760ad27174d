from __future__ import annotations

import pytest
import torch

from neuropatch.demo.train import Phase, train, write_bundle
from neuropatch.errors import ModelError

SHORT = (Phase("short", 2, 1e-3, records=2, facts=2, stories=2),)


@pytest.fixture(scope="module")
def short_run():
    return train(SHORT)


def test_a_run_is_deterministic(short_run):
    first, second = short_run[0].state_dict(), train(SHORT)[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_come_back_rounded_to_half_precision(short_run):
    for weight in short_run[0].state_dict().values():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weight.to(torch.bfloat16).to(torch.float32))


def test_digits_are_tokens_of_their_own(short_run):
    tokenizer = short_run[1]
    text = "+1-915-555-0142"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert tokens[0] == tokenizer.bos_token
    digits = [character for character in text if character.isdigit()]
    assert [token for token in tokens if token.strip("Ġ").isdigit()] == digits


def test_a_model_that_memorised_nothing_is_not_written(short_run, tmp_path):
    with pytest.raises(ModelError, match="recites only 0%"):
        write_bundle(*short_run, tmp_path / "data", tmp_path / "model")
    assert not any(tmp_path.iterdir())
