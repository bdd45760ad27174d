"""What a language model predicts, as its ``config.json`` says it; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KINDS: tuple[str, ...] = ("causal", "masked")
"""Kinds of language models: those that predict the next token, and those that fill in masks."""


def model_kind(config: Mapping[str, Any]) -> str:
    """The kind of a model's language modelling head, one of :data:`KINDS`.

    Args:
        config: A ``config.json`` document. A config that names no class of a masked language model
            is taken for that of a causal one.
    """
    architectures = config.get("architectures") or ()
    # BERT's class for pre-training has the head of a masked language model, and one beside it.
    masked = any(name.endswith(("ForMaskedLM", "BertForPreTraining")) for name in architectures)
    return "masked" if masked else "causal"
