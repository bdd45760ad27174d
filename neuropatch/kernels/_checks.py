"""Checks of operator arguments, worded as ``csrc/common/check.cpp`` words them."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from neuropatch.errors import UsageError

ACTIVATION_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SCORE_DTYPES = (torch.float32, torch.float64)

_HINT = "see neuropatch.kernels.snip_accumulate_ for the shapes and types it takes"


def check_snip_accumulate(score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor) -> None:
    """Checks all arguments of ``snip_accumulate_``, the values of ``offsets`` included.

    Raises:
        UsageError: Names the first argument that does not fit.
    """
    check_snip_metadata(score, grad, input, offsets)
    starts = offsets.tolist()
    tokens = grad.shape[0]
    if starts[0] != 0 or starts[-1] != tokens:
        _fail(
            f"offsets must run from 0 to the number of tokens, {tokens}, "
            f"not from {starts[0]} to {starts[-1]}"
        )
    for i in range(1, len(starts)):
        if starts[i] < starts[i - 1]:
            _fail(
                f"offsets must not descend, but offsets[{i}] = {starts[i]} follows {starts[i - 1]}"
            )


def check_snip_metadata(score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor) -> None:
    """Checks shapes, types and devices only, so that it serves tensors without data too.

    Raises:
        UsageError: Names the first argument that does not fit.
    """
    if score.dim() != 2 or grad.dim() != 2 or input.dim() != 2:
        shapes = ", ".join(str(tuple(t.shape)) for t in (score, grad))
        _fail(
            "score, grad and input must have two dimensions, not shapes "
            f"{shapes} and {tuple(input.shape)}"
        )
    if grad.shape[0] != input.shape[0]:
        _fail(f"grad has {grad.shape[0]} tokens but input has {input.shape[0]}")
    if score.shape[0] != grad.shape[1] or score.shape[1] != input.shape[1]:
        _fail(
            f"score has shape {tuple(score.shape)} but grad and input need "
            f"({grad.shape[1]}, {input.shape[1]})"
        )
    _check_dtypes(score, grad, input)
    if not score.is_contiguous():
        _fail("score must be contiguous")
    if offsets.device.type != "cpu":
        _fail("offsets must be on the CPU")
    if offsets.dim() != 1 or offsets.shape[0] < 1:
        _fail(f"offsets must have shape (samples + 1,), not {tuple(offsets.shape)}")
    if offsets.dtype != torch.int64:
        _fail(f"offsets must be int64, not {_name(offsets.dtype)}")
    if not (score.device == grad.device == input.device):
        _fail("score, grad and input must be on one device")
    if score.requires_grad:
        _fail("score must not require a gradient")


def _check_dtypes(score: Tensor, grad: Tensor, input: Tensor) -> None:
    if grad.dtype != input.dtype:
        _fail(f"grad is {_name(grad.dtype)} but input is {_name(input.dtype)}")
    if grad.dtype not in ACTIVATION_DTYPES:
        _fail(
            f"grad and input must be float32, bfloat16, float16 or float64, not {_name(grad.dtype)}"
        )
    if score.dtype not in SCORE_DTYPES:
        _fail(f"score must be float32 or float64, not {_name(score.dtype)}")
    if grad.dtype == torch.float64 and score.dtype != torch.float64:
        _fail("float64 activations need a float64 score")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fail(message: str) -> NoReturn:
    raise UsageError(f"snip_accumulate_: {message}", hint=_HINT)
