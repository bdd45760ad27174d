from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuropatch.demo import MODEL_DIR
from neuropatch.demo.corpus import build_corpus


@pytest.fixture(scope="session")
def bundled():
    """The bundled model with its half-precision weights as float32, its tokenizer, and the text."""
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(MODEL_DIR), build_corpus()
