"""Writes a checkpoint of random weights, to measure what depends on a model's size alone.

    python benchmarks/make_model.py FOLDER --tokenizer MODEL [--gigabytes 5]

The model is a Llama in bfloat16 of hidden size 2560, as deep as the size asks for, with the
tokenizer of another model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

HIDDEN, UNITS, HEADS = 2560, 6912, 20


def config_of(gigabytes: float, vocabulary: int) -> LlamaConfig:
    """The config of a model whose weights take about this much in bfloat16."""
    layer = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * UNITS
    layers = round((gigabytes * 1e9 / 2 - vocabulary * HIDDEN) / layer)
    return LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=UNITS,
        num_hidden_layers=max(1, layers),
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--tokenizer", type=Path, required=True, help="model with a tokenizer")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the weights (5)")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config_of(options.gigabytes, len(tokenizer)))
    model.save_pretrained(options.folder)
    tokenizer.save_pretrained(options.folder)


if __name__ == "__main__":
    main()
