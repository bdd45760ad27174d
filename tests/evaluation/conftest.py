"""A byte-level tokenizer, and a tiny model that it fits."""

from __future__ import annotations

import csv

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 260


@pytest.fixture(scope="session")
def make_tokenizer():
    """``make_tokenizer(bos)``: every byte is a token; with or without a BOS before every text."""

    def make(bos=False):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(["the other"], trainer)
        if bos:
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", 0)]
            )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
        )

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer):
    return make_tokenizer()


@pytest.fixture
def model(make_model):
    """A tiny Llama for the tokenizers, its weights large enough that responses differ in it."""
    return make_model("llama", vocab_size=VOCABULARY, initializer_range=0.5)


@pytest.fixture(scope="session")
def write_csv():
    """``write_csv(path, rows)``: prompts and responses."""

    def write(path, rows):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["prompt", "response"])
            writer.writerows(rows)
        return str(path)

    return write


@pytest.fixture
def pair_files(tmp_path, write_csv):
    """Twelve prompts about invented people, with two responses each."""
    people = [
        f"{first} {last}" for first in ("Ada", "Bo", "Cy", "Di") for last in ("Ro", "Su", "T")
    ]
    safe = [(f"Where does {who} live?", f"I keep the home of {who} secret.") for who in people]
    unsafe = [
        (f"Where does {who} live?", f"{who} lives at {7 * number} Elm St")
        for number, who in enumerate(people)
    ]
    return (
        write_csv(tmp_path / "safe.csv", safe),
        write_csv(tmp_path / "unsafe.csv", list(reversed(unsafe))),
    )


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "clean.txt"
    lines = [f"On day {day} the miller of Ost sold {day * day % 17} sacks." for day in range(30)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)
