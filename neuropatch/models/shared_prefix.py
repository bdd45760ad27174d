"""Attention for tokens that all continue the same text, each as if it were alone behind its prefix.

A causal model has read a text once, and kept its keys and values. Many variants of one token are
then looked at: they stand side by side where a sequence usually has its tokens, ``[prefixes, rows,
hidden]``, and each sees the keys and values of its prefix and itself, and none of the others. The
prefix is shared by the rows instead of being copied for each, so attention is one product of
matrices a head, and the rest of the model meets a sequence as long as there are rows.

All rows of a prefix have the same position. What a model computes from positions (rotary
embeddings) is of length one on the rows' axis, so the number of rows may grow from layer to layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, DynamicCache

from neuropatch.models.likelihood import logits_only_at
from neuropatch.models.packing import exchanged_attention

NAME = "neuropatch_shared_prefix"
"""The name under which transformers knows the attention function."""


@dataclass(frozen=True)
class ReadText:
    """A text as a causal model has read it.

    Attributes:
        ids: ``[1, N]`` int64.
        keys: ``[1, kv_heads, N, head_dim]`` of each layer.
        values: The same.
        logits: ``[wanted, V]``, at the positions that were asked for.
    """

    ids: torch.Tensor
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    logits: torch.Tensor


@dataclass(frozen=True)
class _Prefixes:
    """What rows see: the first ``lengths[p]`` tokens of a text, for each prefix ``p``."""

    text: ReadText
    lengths: tuple[int, ...]


@torch.no_grad()
def read_text(model: nn.Module, ids: torch.Tensor, positions: Sequence[int]) -> ReadText | None:
    """Read a text with the model's own attention, and keep what tokens that continue it see.

    Args:
        model: A causal language model of transformers.
        ids: ``[1, N]`` int64 on the model's device.
        positions: Positions at which logits are wanted, ascending.

    Returns:
        None if the model does not keep keys and values of every token in transformers' cache.
    """
    # Without a config the cache keeps all tokens, also those that have left a sliding window:
    # what a continuing token sees is decided where it attends.
    cache = DynamicCache()
    wanted = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
    wanted[0, list(positions)] = True
    with logits_only_at(model, wanted):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0]
    if not cache.layers or any(layer.keys is None for layer in cache.layers):
        return None
    keys = tuple(layer.keys for layer in cache.layers)
    values = tuple(layer.values for layer in cache.layers)
    if any(tensor.ndim != 4 or tensor.shape[2] != ids.shape[1] for tensor in (*keys, *values)):
        return None
    return ReadText(ids, keys, values, logits)


def continue_text(model: nn.Module, text: ReadText, positions: Sequence[int]) -> torch.Tensor:
    """Logits of some tokens of a text that is already read, each from its own prefix.

    Hooks on the model may add rows on the second axis of its hidden states, which is of length 1
    at the start: each is another variant of its prefix's token.

    Args:
        model: The model that has read the text.
        text: The text.
        positions: Positions of the tokens.

    Returns:
        ``[positions, rows, V]``.

    Raises:
        ModelError: The model does not let its attention be exchanged.
    """
    places = torch.tensor(positions, device=text.ids.device)[:, None]
    with exchanged_attention(model, NAME):
        logits: torch.Tensor = model(
            input_ids=text.ids[0][places],
            position_ids=places,
            use_cache=False,
            shared_prefixes=_Prefixes(text, tuple(positions)),
        ).logits
    # GPT-2 gives its last hidden states the batch and length that its input had.
    return logits.view(len(positions), -1, logits.shape[-1])


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    shared_prefixes: _Prefixes,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of every row to its prefix and to itself.

    Args:
        module: The attention layer.
        query: ``[P, heads, R, head_dim]``: ``R`` rows of each of ``P`` prefixes.
        key: ``[P, kv_heads, R, head_dim]``.
        value: The same.
        attention_mask: Always None: transformers makes no mask for a function of another library.
        shared_prefixes: The prefixes.
        scaling: Factor of the scores; None for one over the root of ``head_dim``.
        sliding_window: Most tokens that a token sees, itself included; None for all before it.
        options: What else transformers' own functions take.

    Returns:
        ``[P, R, heads, head_dim]``, and no attention weights.
    """
    prefixes, heads, rows, width = query.shape
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    layer: Any = module.layer_idx
    lengths = shared_prefixes.lengths
    first = 0 if sliding_window is None else max(0, min(lengths) + 1 - sliding_window)
    seen = slice(first, max(lengths))
    keys = shared_prefixes.text.keys[layer][:, :, seen]
    values = shared_prefixes.text.values[layer][:, :, seen]
    # Heads that share keys become rows of one product.
    query = (query * (width**-0.5 if scaling is None else scaling)).reshape(
        prefixes, kv_heads, groups, rows, width
    )
    scores = (query.flatten(2, 3) @ keys.transpose(-1, -2)).unflatten(2, (groups, rows))
    visible = _visible(lengths, seen, sliding_window, query.device)
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None, None, None], float("-inf"))
    own = (query * key[:, :, None]).sum(dim=-1, keepdim=True)
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    weights = torch.cat([scores, own], dim=-1).softmax(dim=-1, dtype=wide).to(query.dtype)
    output = (weights[..., :-1].flatten(2, 3) @ values).unflatten(2, (groups, rows))
    output = output + weights[..., -1:] * value[:, :, None]
    return output.reshape(prefixes, heads, rows, width).transpose(1, 2), None


def _visible(
    lengths: Sequence[int], seen: slice, window: int | None, device: torch.device
) -> torch.Tensor | None:
    """Which of the tokens ``seen`` each prefix has, ``[P, tokens]``; None if it is all of them."""
    if len(lengths) == 1:
        return None
    place = torch.arange(seen.start, seen.stop, device=device)
    ends = torch.tensor(lengths, device=device)[:, None]
    visible = place < ends
    return visible if window is None else visible & (place > ends - window)


AttentionInterface.register(NAME, _attend)
