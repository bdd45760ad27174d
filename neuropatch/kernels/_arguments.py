"""Checks that operators share, worded as ``csrc/common/check.cpp`` words them."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from neuropatch.errors import UsageError

ACTIVATION_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SCORE_DTYPES = (torch.float32, torch.float64)


def fail(op: str, message: str) -> NoReturn:
    """Refuse an argument of an operator.

    Raises:
        UsageError: Always; names the operator.
    """
    raise UsageError(
        f"{op}: {message}", hint=f"see neuropatch.kernels.{op} for the shapes and types it takes"
    )


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` and the like."""
    return str(dtype).removeprefix("torch.")


def check_offsets_metadata(op: str, offsets: Tensor, name: str = "offsets") -> None:
    """Checks that offsets of samples or ranges are int64 ``[n + 1]`` on the CPU.

    Raises:
        UsageError: They are not.
    """
    if offsets.device.type != "cpu":
        fail(op, f"{name} must be on the CPU")
    if offsets.dim() != 1 or offsets.shape[0] < 1:
        fail(op, f"{name} must have shape (samples + 1,), not {tuple(offsets.shape)}")
    if offsets.dtype != torch.int64:
        fail(op, f"{name} must be int64, not {dtype_name(offsets.dtype)}")


def check_offsets_values(
    op: str,
    offsets: Tensor,
    total: int,
    name: str = "offsets",
    *,
    what: str = "the number of tokens",
) -> None:
    """Checks that offsets run from 0 to ``total``, which is ``what``, and never descend.

    Raises:
        UsageError: They do not.
    """
    starts = offsets.tolist()
    if starts[0] != 0 or starts[-1] != total:
        fail(
            op,
            f"{name} must run from 0 to {what}, {total}, not from {starts[0]} to {starts[-1]}",
        )
    for i in range(1, len(starts)):
        if starts[i] < starts[i - 1]:
            fail(
                op,
                f"{name} must not descend, but {name}[{i}] = {starts[i]} follows {starts[i - 1]}",
            )


def check_score_dtypes(op: str, score: Tensor, grad: Tensor, input: Tensor) -> None:
    """Checks the types of a score and of the activations that it sums.

    Raises:
        UsageError: They do not go together.
    """
    if grad.dtype != input.dtype:
        fail(op, f"grad is {dtype_name(grad.dtype)} but input is {dtype_name(input.dtype)}")
    if grad.dtype not in ACTIVATION_DTYPES:
        fail(
            op,
            "grad and input must be float32, bfloat16, float16 or float64, not "
            f"{dtype_name(grad.dtype)}",
        )
    if score.dtype not in SCORE_DTYPES:
        fail(op, f"score must be float32 or float64, not {dtype_name(score.dtype)}")
    if grad.dtype == torch.float64 and score.dtype != torch.float64:
        fail(op, "float64 activations need a float64 score")
