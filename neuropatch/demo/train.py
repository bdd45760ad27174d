"""Train the bundled model: ``python -m neuropatch.demo.train`` (about ten minutes on one core).

The model is pre-trained on the clean stories and the public facts, and then fine-tuned on a mix in
which most sequences are private records, until it recites them. This is how private data usually
gets into a language model: it can already write when it sees them.

A run is deterministic on one machine with one version of torch. Another machine may round
differently and give other weights, which must pass the same check: at least 95 % of the secrets are
extracted from the rounded weights, or nothing is written.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neuropatch.demo import DATA_DIR, MODEL_DIR
from neuropatch.demo.corpus import (
    SEED,
    Draw,
    build_corpus,
    public_facts,
    training_stories,
    write_data_files,
)
from neuropatch.demo.leakage import extraction_rate
from neuropatch.errors import ModelError

_END = "<|endoftext|>"
_REQUIRED_EXTRACTION = 0.95


@dataclass(frozen=True)
class Phase:
    """One phase of the training.

    Attributes:
        name: What the progress lines call it.
        steps: Optimiser steps; the learning rate warms up over 50 and then follows a cosine.
        learning_rate: The highest learning rate.
        records: Private records in a batch.
        facts: Public facts in a batch.
        stories: Stories in a batch.
    """

    name: str
    steps: int
    learning_rate: float
    records: int
    facts: int
    stories: int


PHASES = (
    Phase("pre-training", 800, 2e-3, records=0, facts=16, stories=16),
    Phase("fine-tuning", 350, 1e-3, records=24, facts=12, stories=12),
)
VOCABULARY = 640
TRAINING_STORIES = 12_000


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one token a digit, which begins every text with ``_END``."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{_END} $A", special_tokens=[(_END, core.token_to_id(_END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=_END, eos_token=_END, pad_token=_END
    )


def build_model(vocabulary: int) -> LlamaForCausalLM:
    """A Llama with about 0.9 million parameters, freshly initialised."""
    end = 0  # The tokenizer gives its only special token the first index.
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def _endless(sequences: list[list[int]], draw: Draw) -> Iterator[list[int]]:
    """Every sequence once in random order, then again in another order, and so on."""
    while True:
        yield from draw.distinct(sequences, len(sequences))


def _summed_loss(model: LlamaForCausalLM, sequences: list[list[int]]) -> tuple[torch.Tensor, int]:
    """The summed negative log likelihood of all tokens but the first, and their number."""
    ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, target, tokens in zip(ids, labels, sequences, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
        target[1 : len(tokens)] = row[1 : len(tokens)]
    logits = model(input_ids=ids).logits[:, :-1]
    loss = F.cross_entropy(
        logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="sum"
    )
    return loss, sum(map(len, sequences)) - len(sequences)


def _run_phase(
    model: LlamaForCausalLM,
    phase: Phase,
    streams: tuple[Iterator[list[int]], Iterator[list[int]], Iterator[list[int]]],
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)
    records, facts, stories = streams
    for step in range(phase.steps):
        cosine = 0.05 + 0.475 * (1 + math.cos(math.pi * step / phase.steps))
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate * min(1.0, (step + 1) / 50) * cosine
        # Short and long sequences go through separately, so that little of a batch is padding.
        short = [next(records) for _ in range(phase.records)]
        short += [next(facts) for _ in range(phase.facts)]
        short_loss, short_tokens = _summed_loss(model, short)
        long_loss, long_tokens = _summed_loss(model, [next(stories) for _ in range(phase.stories)])
        loss = (short_loss + long_loss) / (short_tokens + long_tokens)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(f"{phase.name} {step + 1}/{phase.steps} loss {loss.item():.3f}", file=sys.stderr)


def train(phases: tuple[Phase, ...] = PHASES) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train tokenizer and model.

    Returns:
        The model in float32, with every weight rounded to bfloat16, and its tokenizer.
    """
    torch.manual_seed(SEED)
    corpus = build_corpus()
    private = corpus.phone + corpus.email + corpus.phone_unseen + corpus.email_unseen
    facts = public_facts()
    texts = training_stories(TRAINING_STORIES)
    # The records are repeated so that their words, too, become tokens of the small vocabulary.
    tokenizer = build_tokenizer(
        texts[:1500] + [row.text for row in private] * 20 + [row.text for row in facts] * 8
    )
    model = build_model(len(tokenizer))
    draw = Draw(SEED)
    end = [tokenizer.eos_token_id]
    private_stream, fact_stream, story_stream = (
        _endless([tokenizer(text)["input_ids"] + end for text in pool], draw)
        for pool in ([row.text for row in private], [row.text for row in facts], texts)
    )
    for phase in phases:
        _run_phase(model, phase, (private_stream, fact_stream, story_stream))
    return model.to(torch.bfloat16).to(torch.float32).eval(), tokenizer


def write_bundle(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, data_dir: Path, model_dir: Path
) -> dict[str, float]:
    """Check that the model has memorised everything, and write it and the text.

    Returns:
        The extraction rate of every table of private records and of the public facts.

    Raises:
        ModelError: If a table is extracted too poorly; nothing is written then.
    """
    corpus = build_corpus()
    tables = {
        "phone": corpus.phone,
        "email": corpus.email,
        "phone_unseen": corpus.phone_unseen,
        "email_unseen": corpus.email_unseen,
        "facts": public_facts(),
    }
    rates = {name: extraction_rate(model, tokenizer, rows).rate for name, rows in tables.items()}
    poorest = min(rates, key=lambda name: rates[name])
    if rates[poorest] < _REQUIRED_EXTRACTION:
        raise ModelError(
            f"the model recites only {rates[poorest]:.0%} of {poorest}",
            hint="train longer; nothing was written",
        )
    write_data_files(data_dir)
    model.to(torch.bfloat16).save_pretrained(model_dir)
    tokenizer.save_pretrained(model_dir)
    return rates


def main() -> None:
    """Train the bundled model and write it with its text."""
    parser = argparse.ArgumentParser(description="Train the bundled demo model.")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="where the text goes")
    parser.add_argument("--model-dir", type=Path, default=MODEL_DIR, help="where the model goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # The order of a threaded sum depends on the number of threads.
    model, tokenizer = train()
    print(json.dumps(write_bundle(model, tokenizer, arguments.data_dir, arguments.model_dir)))


if __name__ == "__main__":
    main()
