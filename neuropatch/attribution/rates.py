"""How long a run takes, from what it computes and how fast this machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from neuropatch.attribution.footprint import Footprint

PROBE_SECONDS = 0.15
"""How long each rate is measured."""

_ROWS, _INNER, _COLUMNS = 256, 1024, 2048
_ELEMENTS = 1 << 23

MOVES = 6
"""How often each byte that is kept passes memory.

It is written and read in the forward pass; in the backward pass it is read, its gradient is written
and read, and the result written.
"""

LOGIT_MOVES = 8
"""The same of the bytes of logits: the loss goes over a row eight times."""

CERTIFIED_PASSES = 2
"""Passes of the certified mode, at the most: a pilot, the pass, and what its second look needs."""


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second.

    Attributes:
        flops: Floating-point operations of a matrix product.
        bytes: Bytes read and written in elementwise operations; None counts no time for them.
        measured: Whether they were measured here, or given.
    """

    flops: float
    bytes: float | None
    measured: bool = True

    def to_json(self) -> dict[str, Any]:
        """The rates in types that JSON knows."""
        return {
            "flops_per_s": self.flops,
            "bytes_per_s": self.bytes,
            "measured": self.measured,
        }


def measure_rates(dtype: torch.dtype, device: torch.device) -> Rates:
    """Measure with a product of 1 GFLOP and a sum of 100 MB, in a third of a second.

    Args:
        dtype: Type of the model.
        device: Where it will run.
    """
    left = torch.ones(_ROWS, _INNER, dtype=dtype, device=device)
    right = torch.ones(_INNER, _COLUMNS, dtype=dtype, device=device)
    product = torch.empty(_ROWS, _COLUMNS, dtype=dtype, device=device)
    values, more, total = (torch.ones(_ELEMENTS, device=device) for _ in range(3))
    return Rates(
        2 * _ROWS * _INNER * _COLUMNS / _best(lambda: torch.mm(left, right, out=product), device),
        3 * values.nbytes / _best(lambda: torch.add(values, more, out=total), device),
    )


def _best(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the quickest call: other programs only ever slow one down."""
    call()
    best, spent = float("inf"), 0.0
    while spent < PROBE_SECONDS:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        best, spent = min(best, seconds), spent + seconds
    return best


@dataclass(frozen=True)
class Work:
    """What all data sets together are.

    Attributes:
        tokens: Their input tokens.
        labels: Those that are predicted.
        length: Input tokens of a sample.
    """

    tokens: int
    labels: int
    length: int


def estimate_seconds(
    cost: Footprint, work: Work, rates: Rates, *, windows: int = 1, certified: bool = False
) -> float:
    """Seconds that scores take; of the certified mode at the most.

    A product with a weight takes two operations in the forward pass, and two for the gradient of
    its input; with frozen weights there are no others. The scores take two for each weight that is
    scored. Attention within samples of ``length`` tokens takes two operations for each pair of
    tokens and value in the forward pass, half of the pairs being masked, and 2.5 times as many in
    the backward pass. Below the lowest layer of a window nothing is differentiated.

    Args:
        cost: What a token takes.
        work: How many there are.
        rates: What the machine does in a second.
        windows: Windows of layers, each a pass over all data.
        certified: Whether the scores of candidates stand for those of all weights.
    """
    forward = 2.0 * (cost.linear + work.length * cost.attended) * work.tokens
    forward += 2.0 * cost.head * work.labels
    backward = 2.0 * (cost.linear + 2.5 * work.length * cost.attended) * work.tokens
    backward += 2.0 * cost.head * work.labels
    moved = MOVES * float(cost.saved) * work.tokens + LOGIT_MOVES * float(cost.logits) * work.labels
    if certified:
        operations = CERTIFIED_PASSES * (forward + backward)
        moved *= CERTIFIED_PASSES
    else:
        # From the lowest layer of each window up: all of it, ..., 1 / windows of it.
        differentiated = (windows + 1) / 2
        operations = windows * forward + differentiated * backward
        operations += 2.0 * cost.scored * work.tokens
        moved *= (windows + differentiated) / 2
    seconds = operations / rates.flops
    return seconds if rates.bytes is None else seconds + moved / rates.bytes
