"""What a causal model thinks of every token of a secret, from one forward pass.

The model reads prompt and true secret together (teacher forcing). That is enough for every
measurement that asks whether the model *would* write the secret, token by token: greedy decoding
writes it exactly when each of its tokens is the most likely one after the true tokens before it,
and sampling writes it with the product of their probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuropatch.data.batching import IGNORE_INDEX, PackedBatch
from neuropatch.data.tokenize import Sample, special_prefix
from neuropatch.errors import DataError
from neuropatch.models.likelihood import logits_only_at
from neuropatch.models.packing import batches_for, packed_forward
from neuropatch.models.token_nll import token_nll

BATCH_TOKENS = 1024
"""Tokens that pass the model at once, if not said otherwise."""


@dataclass(frozen=True)
class Probe:
    """A prompt, and the secret that the model may know.

    Attributes:
        prompt: The text that is given.
        secret: The text that would give the secret away if it followed. A blank is put between
            the two unless the prompt ends, or the secret begins, with one.
        category: What the secret is, such as ``phone``.
        prompt_set: What kind of prompt it is, such as ``verbatim`` or ``low-cue``.
    """

    prompt: str
    secret: str
    category: str = "secret"
    prompt_set: str = "verbatim"


@dataclass(frozen=True)
class EncodedProbe:
    """The tokens of a probe.

    Attributes:
        probe: What is asked.
        ids: All token ids, those of the prompt first.
        start: Index of the first token of the secret.
        ends: For each token of the secret the number of the secret's characters up to its end,
            the blank before the secret not counted.
    """

    probe: Probe
    ids: tuple[int, ...]
    start: int
    ends: tuple[int, ...]


@dataclass(frozen=True)
class SecretScores:
    """What the model thinks of the tokens of one secret.

    Attributes:
        probe: The secret with its prompt.
        nll: Negative log likelihood of each token given the true tokens before it, in nats.
        ranks: Rank of each token in the vocabulary, 1 for the one that greedy decoding takes.
        ends: Number of characters of the secret up to the end of each token.
    """

    probe: Probe
    nll: tuple[float, ...]
    ranks: tuple[int, ...]
    ends: tuple[int, ...]

    def given(self, characters: int) -> int:
        """Number of tokens that lie within the first characters of the secret.

        At least one token is left to be found: the last one.
        """
        return min(sum(end <= characters for end in self.ends), len(self.ends) - 1)


def encode_probes(probes: Sequence[Probe], tokenizer: Any) -> list[EncodedProbe]:
    """Tokenise prompts together with their secrets.

    A token that holds characters of both counts as the secret's, and so does a blank that was put
    between them. The model reads the prompt exactly as it would have within the whole text.

    Args:
        probes: What is asked.
        tokenizer: A fast ``transformers`` tokenizer.

    Raises:
        DataError: A secret has no token, or no token stands before it.
    """
    prefix = special_prefix(tokenizer)
    texts = [_joined(probe) for probe in probes]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    found = []
    for probe, text, ids, offsets in zip(
        probes, texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        # The blank between the two is the secret's: byte-level tokenizers put it in front of it.
        inside = [end > len(probe.prompt) for _, end in offsets]
        if not probe.secret.strip() or not any(inside) or prefix + ids == ids[inside.index(True) :]:
            raise DataError(
                f"the secret {probe.secret!r} has no token that something stands before",
                hint="give a secret that is not blank, and a prompt",
            )
        first = inside.index(True)
        begin = len(text) - len(probe.secret.lstrip())
        ends = tuple(max(0, end - begin) for _, end in offsets[first:])
        found.append(EncodedProbe(probe, (*prefix, *ids), len(prefix) + first, ends))
    return found


def _joined(probe: Probe) -> str:
    apart = not probe.prompt or probe.prompt[-1].isspace() or probe.secret[:1].isspace()
    return probe.prompt + ("" if apart else " ") + probe.secret


@torch.no_grad()
def score_secrets(
    model: nn.Module,
    tokenizer: Any,
    probes: Sequence[Probe],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> list[SecretScores]:
    """Score the tokens of secrets, in the order of the probes.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        tokenizer: Its fast tokenizer.
        probes: What is asked.
        batch_tokens: Most tokens of a batch.

    Raises:
        DataError: A secret has no token.
        ModelError: The model does not let its attention be exchanged.
    """
    encoded = encode_probes(probes, tokenizer)
    samples = [Sample(row, list(one.ids), one.start) for row, one in enumerate(encoded)]
    nll: dict[int, NDArray[np.float64]] = {}
    ranks: dict[int, NDArray[np.int64]] = {}
    device = next(model.parameters()).device
    for batch in batches_for(model, samples, batch_tokens=batch_tokens):
        logits, targets = label_logits(model, batch.to(device))
        wanted = logits.gather(1, targets[:, None])
        # Of equals, argmax takes the first: a token behind an equal one is not the greedy choice.
        earlier = torch.arange(logits.shape[1], device=device) < targets[:, None]
        above = (logits > wanted) | ((logits == wanted) & earlier)
        bounds = np.cumsum(batch.label_counts)[:-1]
        parts = zip(
            batch.rows,
            np.split(token_nll(logits, targets).double().cpu().numpy(), bounds),
            np.split(1 + above.sum(dim=1).cpu().numpy(), bounds),
            strict=True,
        )
        for row, losses, places in parts:
            nll[row], ranks[row] = losses, places
    return [
        SecretScores(one.probe, tuple(nll[row].tolist()), tuple(ranks[row].tolist()), one.ends)
        for row, one in enumerate(encoded)
    ]


def label_logits(model: nn.Module, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``[N, V]`` at the positions that predict a label, and the ids ``[N]`` of the labels.

    Args:
        model: A causal language model of transformers.
        batch: Samples on the model's device.
    """
    wanted = batch.targets != IGNORE_INDEX
    with logits_only_at(model, wanted):
        logits = packed_forward(model, batch)
    return logits[0], batch.targets[wanted]
