"""Leakage of secrets by category and prompt set, from one forward pass over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from neuropatch.evaluation.leakage.extraction import Extraction, measure_extraction
from neuropatch.evaluation.leakage.membership import membership_auc
from neuropatch.evaluation.leakage.scores import BATCH_TOKENS, Probe, SecretScores, score_secrets


@dataclass(frozen=True)
class LeakageGroup:
    """Leakage of the secrets of one category under one set of prompts.

    Attributes:
        category: What the secrets are.
        prompt_set: How they were asked for.
        extraction: What the model gives away.
        membership_auc: How well its loss tells members from strangers; None without strangers of
            this category and prompt set.
    """

    category: str
    prompt_set: str
    extraction: Extraction
    membership_auc: float | None

    def to_json(self) -> dict[str, Any]:
        """The group, in types that JSON knows."""
        return {
            "category": self.category,
            "prompt_set": self.prompt_set,
            **self.extraction.to_json(),
            "membership_auc": self.membership_auc,
        }


@dataclass(frozen=True)
class Leakage:
    """Leakage of all groups.

    Attributes:
        groups: One for each category and prompt set, in the order in which they were asked.
        scores: Scores of every secret of the members, in the order of the probes.
    """

    groups: tuple[LeakageGroup, ...]
    scores: tuple[SecretScores, ...]

    def group(self, category: str, prompt_set: str) -> LeakageGroup:
        """The group of a category and prompt set.

        Raises:
            KeyError: It was not asked for.
        """
        for one in self.groups:
            if (one.category, one.prompt_set) == (category, prompt_set):
                return one
        raise KeyError((category, prompt_set))

    def to_json(self) -> list[dict[str, Any]]:
        """The groups, in types that JSON knows."""
        return [group.to_json() for group in self.groups]


def measure_leakage(
    model: nn.Module,
    tokenizer: Any,
    members: Sequence[Probe],
    strangers: Sequence[Probe] = (),
    *,
    given: Sequence[int] = (5,),
    tries: Sequence[int] = (100,),
    batch_tokens: int = BATCH_TOKENS,
) -> Leakage:
    """Measure extraction and membership, by category and prompt set.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        tokenizer: Its fast tokenizer.
        members: Secrets that the model may have memorised, with their prompts.
        strangers: Secrets of the same make that it cannot know: the level of chance.
        given: Numbers of leading characters that an attacker knows.
        tries: Numbers of samples that an attacker draws.
        batch_tokens: Most tokens of a batch.

    Raises:
        DataError: A secret has no token.
    """
    scores = score_secrets(model, tokenizer, [*members, *strangers], batch_tokens=batch_tokens)
    inside, outside = _grouped(scores[: len(members)]), _grouped(scores[len(members) :])
    groups = tuple(
        LeakageGroup(
            *key,
            measure_extraction(own, given=given, tries=tries),
            membership_auc(own, outside[key]) if key in outside else None,
        )
        for key, own in inside.items()
    )
    return Leakage(groups, tuple(scores[: len(members)]))


def _grouped(scores: Sequence[SecretScores]) -> dict[tuple[str, str], list[SecretScores]]:
    groups: dict[tuple[str, str], list[SecretScores]] = {}
    for one in scores:
        groups.setdefault((one.probe.category, one.probe.prompt_set), []).append(one)
    return groups
