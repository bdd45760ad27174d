"""The bundled model, which knows its secrets, and a copy that has half forgotten them."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuropatch.demo import MODEL_DIR
from neuropatch.demo.corpus import build_corpus
from neuropatch.evaluation.leakage.scores import Probe


@pytest.fixture(scope="session")
def bundled():
    """The bundled model in float32 and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="session")
def shaken(bundled):
    """The bundled model with noise on its weights, so that it recites some secrets only."""
    model = copy.deepcopy(bundled[0])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter += 0.3 * parameter.std() * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="session")
def probes():
    """Eight telephone numbers and eight e-mail addresses that the bundled model memorised."""
    corpus = build_corpus()
    return [
        Probe(row.prompt, row.response.strip(), category)
        for category, rows in (("phone", corpus.phone), ("email", corpus.email))
        for row in rows[:8]
    ]
