"""Tiny byte-level tokenizers, built here: any text can be encoded, and nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]

_SPECIAL = ["<s>", "</s>"]
_TEXT = ["Where does Ada Lund live?", "I cannot share the address of Ada Lund.", "the the cat sat"]


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    def make(template: str | None = None, chat_template: str | None = None):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=_SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_TEXT, trainer)
        if template is not None:
            tokenizer.post_processor = processors.TemplateProcessing(
                single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
            )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>",
            eos_token="</s>",
            chat_template=chat_template,
        )

    return make


@pytest.fixture(scope="session")
def plain_tokenizer(make_tokenizer: MakeTokenizer) -> PreTrainedTokenizerFast:
    """Has a BOS token, as GPT-2 and SmolLM2 do, and adds none."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def bos_tokenizer(make_tokenizer: MakeTokenizer) -> PreTrainedTokenizerFast:
    """Adds a BOS, as Llama does."""
    return make_tokenizer("<s> $A")


@pytest.fixture(scope="session")
def bos_eos_tokenizer(make_tokenizer: MakeTokenizer) -> PreTrainedTokenizerFast:
    """Adds a BOS and an EOS."""
    return make_tokenizer("<s> $A </s>")
