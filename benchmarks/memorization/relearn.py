"""Relearning: how many steps of fine-tuning on other people bring the erased secrets back.

What comes back without being shown again was hidden, not gone. The patched model is trained on the
records of strangers, in the same sentences, and asked for the erased secrets after every few steps.
The same is done with the memorised model's answer as the level that there was to reach.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from corpus import Question
from torch import nn
from torch.nn import functional as F

from neuropatch.evaluation.leakage.extraction import measure_extraction
from neuropatch.evaluation.leakage.scores import Probe, encode_probes, score_secrets


def relearn(
    model: nn.Module,
    tokenizer: Any,
    others: Sequence[Question],
    erased: Sequence[Question],
    *,
    steps: int = 40,
    every: int = 10,
    learning_rate: float = 5e-5,
    batch: int = 8,
) -> list[dict[str, float]]:
    """Fine-tune a copy of a model on other people's records, and ask for the erased ones.

    Args:
        model: The patched model; it stays as it is.
        tokenizer: Its tokenizer.
        others: What it is trained on; nothing of ``erased``.
        erased: What it is asked.
        steps: Optimiser steps.
        every: Steps between two measurements.
        learning_rate: Of AdamW, constant.
        batch: Records of a step.

    Returns:
        Step, exact extraction, extraction with 5 characters given, best of 100, and perplexity.
    """
    student = copy.deepcopy(model).requires_grad_(True).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=0.0)
    lessons = encode_probes([Probe(one.prompt, one.secret) for one in others], tokenizer)
    questions = [Probe(one.prompt, one.secret, one.category) for one in erased]
    curve = []
    for step in range(steps + 1):
        if step % every == 0:
            found = measure_extraction(score_secrets(student, tokenizer, questions))
            curve.append(
                {
                    "step": step,
                    "exact": found.exact,
                    "given": found.given[5],
                    "best_of": found.best_of[100],
                    "perplexity": found.perplexity,
                }
            )
        chosen = [lessons[(step * batch + place) % len(lessons)] for place in range(batch)]
        ids = torch.zeros(batch, max(len(one.ids) for one in chosen), dtype=torch.int64)
        labels = torch.full_like(ids, -100)
        for row, target, one in zip(ids, labels, chosen, strict=True):
            row[: len(one.ids)] = torch.tensor(one.ids)
            target[1 : len(one.ids)] = row[1 : len(one.ids)]
        logits = student(input_ids=ids, use_cache=False).logits[:, :-1]
        torch.autograd.backward(F.cross_entropy(logits.transpose(1, 2), labels[:, 1:]))
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return curve
