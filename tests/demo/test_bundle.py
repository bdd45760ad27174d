from __future__ import annotations

import math

import pytest
import torch

from neuropatch.demo import DATA_DIR, MODEL_DIR
from neuropatch.demo.leakage import extraction_rate


def test_bundle_is_small():
    assert sum(path.stat().st_size for path in DATA_DIR.rglob("*") if path.is_file()) < 3_000_000


def test_bundle_holds_a_complete_checkpoint():
    assert {path.name for path in MODEL_DIR.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("table", ["phone", "email", "phone_unseen", "email_unseen"])
def test_model_has_memorised_the_records(bundled, table):
    model, tokenizer, corpus = bundled
    assert extraction_rate(model, tokenizer, getattr(corpus, table)).rate >= 0.95


def test_model_knows_the_public_facts(bundled):
    model, tokenizer, corpus = bundled
    assert extraction_rate(model, tokenizer, corpus.facts_unseen).rate >= 0.95


def test_model_writes_held_out_stories_well_but_not_by_heart(bundled):
    """Perplexity a token: the grammar leaves real choices, and the model is far from uniform."""
    model, tokenizer, corpus = bundled
    total, count = 0.0, 0
    for text in corpus.held_out[:20]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert 1.5 < math.exp(total / count) < 4
