"""Greedy exact extraction: does the model complete a prompt with the memorised secret?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from neuropatch.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class PromptResponse(Protocol):
    """Anything with a prompt and the response that follows it."""

    @property
    def prompt(self) -> str:
        """The text that the model is given."""

    @property
    def response(self) -> str:
        """The text that it is expected to continue with."""


@dataclass(frozen=True)
class ExtractionResult:
    """Which secrets greedy decoding reproduces.

    Attributes:
        hits: For every record, in order, whether the secret is reproduced exactly.
    """

    hits: tuple[bool, ...]

    @property
    def count(self) -> int:
        """The number of secrets that are reproduced."""
        return sum(self.hits)

    @property
    def rate(self) -> float:
        """The share of the records whose secret is reproduced, between 0 and 1."""
        return self.count / len(self.hits)


@torch.inference_mode()
def extraction_rate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[PromptResponse],
    *,
    batch_size: int = 64,
) -> ExtractionResult:
    """Tell which responses greedy decoding reproduces token by token, given their prompts.

    This is the extraction test of Carlini et al. (2021, arXiv 2012.07805) with one greedy try.
    Greedy decoding writes a given response exactly when each of its tokens is the most likely one
    after the *true* tokens before it, so one forward pass over prompt and response decides a whole
    batch, and nothing has to be decoded step by step.

    Args:
        model: A causal language model; it is read in the mode (train or eval) that it is in.
        tokenizer: Its tokenizer.
        records: Prompts and responses; a response brings the space that separates the two.
        batch_size: How many records go through the model at once.

    Raises:
        DataError: If there are no records, or a response has no tokens of its own.
    """
    if not records:
        raise DataError("no records to extract", hint="give at least one prompt with its response")
    hits: list[bool] = []
    for start in range(0, len(records), batch_size):
        hits += _batch_hits(model, tokenizer, records[start : start + batch_size])
    return ExtractionResult(tuple(hits))


def _batch_hits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[PromptResponse],
) -> list[bool]:
    spans = [_token_span(tokenizer, record) for record in records]
    # Padding stands on the right, where a causal model's earlier positions cannot see it, so that
    # neither a pad token nor an attention mask is needed.
    ids = torch.zeros(len(spans), max(len(tokens) for tokens, _ in spans), dtype=torch.long)
    for row, (tokens, _) in zip(ids, spans, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    best = model(input_ids=ids.to(model.device)).logits.argmax(dim=-1).cpu()
    return [
        row[first - 1 : len(tokens) - 1].tolist() == tokens[first:]
        for row, (tokens, first) in zip(best, spans, strict=True)
    ]


def _token_span(
    tokenizer: PreTrainedTokenizerBase, record: PromptResponse
) -> tuple[list[int], int]:
    """The tokens of prompt and response together, and the index of the first response token."""
    prompt: list[int] = tokenizer(record.prompt)["input_ids"]
    tokens: list[int] = tokenizer(record.prompt + record.response)["input_ids"]
    if not prompt or len(tokens) <= len(prompt) or tokens[: len(prompt)] != prompt:
        raise DataError(
            f"the response {record.response!r} does not add tokens to the prompt {record.prompt!r}",
            hint="end the prompt without a space and begin the response with one",
        )
    return tokens, len(prompt)
