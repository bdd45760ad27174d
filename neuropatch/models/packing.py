"""Attention for samples that follow each other in one row of tokens, without padding.

Every layer of a transformer but attention treats each token alone, so a row of many samples is as
good as a batch of them, and none of its positions is wasted. Attention then has to keep the samples
apart. A mask of blocks would do that at the price of all the pairs of tokens that it hides; here
each sample's part of the row goes through attention by itself.

transformers hands a model's attention function the keyword arguments of the call: the samples'
bounds travel as ``cu_seq_lens_q``, the name that its own functions for packed rows use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from neuropatch.data.batching import PackedBatch, packed_batches
from neuropatch.data.tokenize import Sample
from neuropatch.errors import ModelError
from neuropatch.models.modules import model_layout

NAME = "neuropatch_packed"
"""The name under which transformers knows the attention function."""


def can_pack(model: nn.Module) -> bool:
    """Whether samples may follow each other in one row of a model.

    Not so where attention is the model's own code, or adds to the scores what
    :func:`packed_attention` does not know of (ALiBi, sinks, chunks): the architecture says so.
    """
    layout = model_layout(model)
    return layout.signature.model_type not in layout.definition.unpacked


def batches_for(
    model: nn.Module, samples: Sequence[Sample], *, batch_tokens: int
) -> Iterator[PackedBatch]:
    """Batches of samples as a model takes them: packed under a token budget, or one by one.

    Args:
        model: A causal language model of transformers.
        samples: Samples with at least one label each.
        batch_tokens: Most tokens of a batch; see :func:`neuropatch.data.batching.packed_batches`.

    Raises:
        UsageError: ``batch_tokens`` is below 1.
    """
    # A budget of one token makes every sample a batch of its own.
    yield from packed_batches(
        samples, batch_tokens=batch_tokens if can_pack(model) else min(1, batch_tokens)
    )


def packed_forward(model: nn.Module, batch: PackedBatch) -> torch.Tensor:
    """Logits of samples in one row, each of which sees itself only.

    Args:
        model: A causal language model of transformers.
        batch: Samples on the model's device; a single one if the model cannot pack.

    Returns:
        Logits ``[1, N, V]``.

    Raises:
        ModelError: The model does not let its attention be exchanged.
    """
    if not can_pack(model):
        if len(batch.rows) > 1:
            raise ModelError(
                f"samples in one row of {type(model).__name__} would see each other",
                hint="give it one sample at a time",
            )
        alone: torch.Tensor = model(input_ids=batch.input_ids, use_cache=False).logits
        return alone
    with packed_attention(model):
        logits: torch.Tensor = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            cu_seq_lens_q=batch.offsets,
            use_cache=False,
        ).logits
    return logits


@contextmanager
def packed_attention(model: nn.Module) -> Iterator[None]:
    """Let a model of transformers attend within samples only, for the length of a ``with`` block.

    Inside the block the model is called with ``cu_seq_lens_q``, int64 ``[samples + 1]`` on the
    CPU: sample ``b`` is tokens ``cu_seq_lens_q[b]`` to ``cu_seq_lens_q[b + 1]`` of a single row.

    Raises:
        ModelError: The model does not let its attention be exchanged.
    """
    with exchanged_attention(model, NAME):
        yield


@contextmanager
def exchanged_attention(model: nn.Module, name: str) -> Iterator[None]:
    """Use another attention function in a model of transformers, for a ``with`` block.

    Args:
        model: The model.
        name: The name under which transformers knows the function.

    Raises:
        ModelError: The model does not let its attention be exchanged.
    """
    config: Any = model.config
    before = config._attn_implementation
    set_implementation: Any = model.set_attn_implementation
    set_implementation(name)
    # transformers only warns about a model that cannot, and keeps the attention it has.
    if config._attn_implementation != name:
        raise ModelError(
            f"{type(model).__name__} does not let its attention be exchanged",
            hint="use a model whose class is part of transformers 5",
        )
    try:
        yield
    finally:
        set_implementation(before)


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sample.

    Args:
        module: The attention layer.
        query: ``[1, heads, tokens, head_dim]``.
        key: ``[1, kv_heads, tokens, head_dim]``.
        value: The same.
        attention_mask: Always None: transformers makes no mask for a function of another library.
        cu_seq_lens_q: Bounds of the samples.
        sliding_window: Most tokens that a token sees, itself included; None for all before it.
        options: What else transformers' own function takes.

    Returns:
        ``[1, tokens, heads, head_dim]``, and no attention weights.
    """
    lengths = cu_seq_lens_q.diff().tolist()
    dtype, device = query.dtype, query.device.type
    # torch's backward pass of 16-bit attention on a CPU takes four times as long as that of 32-bit
    # attention (samples of 65 tokens, heads of 64), which autocast would make 16-bit again.
    inside = torch.float32 if device == "cpu" and dtype.itemsize == 2 else dtype
    as_given = torch.autocast(device, enabled=False) if device == "cpu" else nullcontext()
    parts = zip(
        *(tensor.to(inside).split(lengths, dim=2) for tensor in (query, key, value)), strict=True
    )
    with as_given:
        outputs = [
            sdpa_attention_forward(module, *part, _window(part[0], sliding_window), **options)[0]
            for part in parts
        ]
    return torch.cat(outputs, dim=1).to(dtype), None


def _window(query: torch.Tensor, size: int | None) -> torch.Tensor | None:
    """The mask of a sliding window, or None for a sample that it holds as a whole."""
    length = query.shape[2]
    if size is None or length <= size:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return seen.tril().triu(1 - size)[None, None]


AttentionInterface.register(NAME, _attend)
