"""Exposure: how far a secret stands out among others of its format.

Source: Carlini et al., "The Secret Sharer" (2019, arXiv 1802.08232). With ``R`` the space of all
values of the format, and the rank of the secret by its likelihood under the model,

    exposure = log2 |R| - log2 rank

which is ``log2 |R|`` bits for a secret that the model prefers to all others. Three ways:

* *exact*, where all of ``R`` can be scored (definition 5);
* *sampled*: the rank among ``n`` candidates drawn from ``R`` (section 5.2), which is exact in what
  it says but cannot exceed ``log2 (n + 1)`` bits;
* *extrapolated* (section 5.3): ``-log2 P[a candidate's loss <= the secret's]`` under a skew-normal
  distribution fitted to the losses of the candidates. Its standard error here is that of the fit,
  by the bootstrap; that losses are skew-normal is an assumption which no error covers.

Candidates share the prompt, whose keys and values are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuropatch.errors import DataError
from neuropatch.evaluation.leakage.scores import BATCH_TOKENS, EncodedProbe, Probe, encode_probes
from neuropatch.models.token_nll import token_nll

Floats = NDArray[np.float64]

_LARGEST_SKEWNESS = 0.99
"""No skew-normal distribution is more skewed than 0.9953 (Azzalini 1985)."""

_RESAMPLES = 200


@dataclass(frozen=True)
class Exposure:
    """Exposure of one secret.

    Attributes:
        rank: Its rank among itself and the candidates, 1 for the most likely; candidates that are
            as likely as the secret stand behind it.
        candidates: Number of candidates.
        bits: ``log2 (candidates + 1) - log2 rank``: exact if the candidates are all other values
            of the format, else the sampled estimate.
        extrapolated: The extrapolated estimate in bits, None for a complete list of candidates,
            or for candidates that are all equally likely.
        error: Standard error of the fit behind it, in bits.
    """

    rank: int
    candidates: int
    bits: float
    extrapolated: float | None = None
    error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The numbers, in types that JSON knows."""
        return asdict(self)


@dataclass(frozen=True)
class ExposureSummary:
    """Exposure of a group of secrets: means over them.

    Attributes:
        count: Number of secrets.
        bits: Mean exposure, exact or sampled.
        chance: What it is on average for secrets that the model does not know.
        extrapolated: Mean extrapolated estimate, None where a secret has none.
        reciprocal_rank: Mean reciprocal rank among the candidates.
    """

    count: int
    bits: float
    chance: float
    extrapolated: float | None
    reciprocal_rank: float

    @classmethod
    def of(cls, exposures: Sequence[Exposure]) -> ExposureSummary:
        """Summarise at least one exposure.

        Raises:
            DataError: There is none.
        """
        if not exposures:
            raise DataError("no exposure to average", hint="measure at least one secret")
        estimates = [one.extrapolated for one in exposures if one.extrapolated is not None]
        return cls(
            count=len(exposures),
            bits=float(np.mean([one.bits for one in exposures])),
            chance=float(np.mean([chance_exposure(one.candidates) for one in exposures])),
            extrapolated=float(np.mean(estimates)) if len(estimates) == len(exposures) else None,
            reciprocal_rank=float(np.mean([1 / one.rank for one in exposures])),
        )

    def to_json(self) -> dict[str, Any]:
        """The numbers, in types that JSON knows."""
        return asdict(self)


def chance_exposure(candidates: int) -> float:
    """Expected ``bits`` of a secret that the model does not know: every rank is as likely.

    With ``N = candidates + 1`` this is ``log2 N - log2(N!) / N``, which tends to ``log2 e``, 1.44
    bits: the same is expected of the extrapolated estimate.
    """
    total = candidates + 1
    return math.log2(total) - math.lgamma(total + 1) / math.log(2) / total


def measure_exposure(
    model: nn.Module,
    tokenizer: Any,
    probe: Probe,
    candidates: Sequence[str],
    *,
    complete: bool = False,
    space_bits: float = math.inf,
    batch_tokens: int = BATCH_TOKENS,
    seed: int = 0,
) -> Exposure:
    """Exposure of a secret among candidates.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        tokenizer: Its fast tokenizer.
        probe: The secret with its prompt.
        candidates: Other values of the same format, drawn at random; or all of them.
        complete: Whether they are all other values of the format.
        space_bits: ``log2 |R|``, where known: no estimate exceeds it.
        batch_tokens: Most tokens of a batch.
        seed: Seed of the bootstrap behind the error.

    Raises:
        DataError: There are no candidates.
    """
    if not candidates:
        raise DataError("no candidates to compare a secret with", hint="draw some of its format")
    losses = candidate_losses(
        model, tokenizer, probe.prompt, [probe.secret, *candidates], batch_tokens=batch_tokens
    )
    return exposure_among(
        losses[0], losses[1:], complete=complete, space_bits=space_bits, seed=seed
    )


def exposure_among(
    secret: float,
    candidates: Floats,
    *,
    complete: bool = False,
    space_bits: float = math.inf,
    seed: int = 0,
) -> Exposure:
    """Exposure of a secret of a loss among candidates of the given losses ``[n]``, in nats."""
    rank = 1 + int((candidates < secret).sum())
    found = Exposure(rank, len(candidates), math.log2(len(candidates) + 1) - math.log2(rank))
    if complete or float(np.ptp(candidates)) == 0:
        return found
    rng = np.random.default_rng(seed)
    draws = candidates[rng.integers(len(candidates), size=(_RESAMPLES, len(candidates)))]
    # A draw of one value, again and again, has no spread to fit.
    draws = np.vstack([candidates, draws[np.ptp(draws, axis=1) > 0]])
    bits = np.minimum(_tail_bits(secret, draws), space_bits)
    return replace(found, extrapolated=float(bits[0]), error=float(bits[1:].std()))


@torch.no_grad()
def candidate_losses(
    model: nn.Module,
    tokenizer: Any,
    prompt: str,
    candidates: Sequence[str],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> Floats:
    """Negative log likelihood of each text after a prompt, in nats, summed over its tokens.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        tokenizer: Its fast tokenizer.
        prompt: What stands before all of them.
        candidates: The texts.
        batch_tokens: Most tokens of a batch, padding included.

    Returns:
        ``[candidates]``.
    """
    encoded = encode_probes([Probe(prompt, text) for text in candidates], tokenizer)
    # What all share is read once. The last shared token is read again, as it predicts the next.
    shared = min(
        _common(one.ids, encoded[0].ids, min(one.start, encoded[0].start)) for one in encoded
    )
    device = next(model.parameters()).device
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].ids))
    losses = np.empty(len(encoded))
    prefix = torch.tensor([encoded[0].ids[: shared - 1]], dtype=torch.int64, device=device)
    first = 0
    while first < len(order):
        width = len(encoded[order[first]].ids) - shared
        members = order[first : first + max(1, batch_tokens // max(1, width))]
        losses[members] = _batch_losses(model, [encoded[i] for i in members], prefix)
        first += len(members)
    return losses


def _common(one: tuple[int, ...], other: tuple[int, ...], limit: int) -> int:
    """Number of leading tokens that two texts share, ``limit`` at most."""
    length = 0
    while length < limit and one[length] == other[length]:
        length += 1
    return length


def _batch_losses(
    model: nn.Module, members: Sequence[EncodedProbe], prefix: torch.Tensor
) -> Floats:
    skipped = prefix.shape[1]
    width = max(len(one.ids) for one in members) - skipped
    ids = torch.zeros(len(members), width, dtype=torch.int64)
    wanted = torch.zeros(len(members), width - 1, dtype=torch.bool)
    for row, one in enumerate(members):
        ids[row, : len(one.ids) - skipped] = torch.tensor(one.ids[skipped:])
        wanted[row, one.start - skipped - 1 : len(one.ids) - skipped - 1] = True
    ids, wanted = ids.to(prefix.device), wanted.to(prefix.device)
    cache = None
    if skipped:
        cache = model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(members))
    # Padding stands behind everything that counts, where a causal model does not see it.
    logits = model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True).logits
    nll = logits.new_zeros(wanted.shape, dtype=torch.float64)
    nll[wanted] = token_nll(logits[wanted], ids[:, 1:][wanted]).double()
    losses: Floats = nll.sum(dim=1).cpu().numpy()
    return losses


def _tail_bits(secret: float, candidates: Floats) -> Floats:
    """``-log2 P[X <= secret]``, ``X`` skew-normal with the first three moments of candidates.

    Args:
        secret: Loss of the secret.
        candidates: ``[R, n]``, losses of ``R`` groups of candidates.

    Returns:
        ``[R]``.
    """
    mean, spread = candidates.mean(axis=1), candidates.std(axis=1)
    skewness = np.mean(((candidates - mean[:, None]) / spread[:, None]) ** 3, axis=1)
    skewness = skewness.clip(-_LARGEST_SKEWNESS, _LARGEST_SKEWNESS)
    # Azzalini's moments, solved for the parameters.
    power = np.abs(skewness) ** (2 / 3)
    delta = np.sqrt(math.pi / 2 * power / (power + ((4 - math.pi) / 2) ** (2 / 3)))
    delta = np.copysign(delta, skewness)
    scale = spread / np.sqrt(1 - 2 * delta**2 / math.pi)
    location = mean - scale * delta * math.sqrt(2 / math.pi)
    shape = delta / np.sqrt(1 - delta**2)
    bits: Floats = -_log_cdf((secret - location) / scale, shape) / math.log(2)
    return bits


def _log_cdf(z: Floats, shape: Floats) -> Floats:
    """Logarithm of standard skew-normal distribution functions, also far out in their tails.

    The density ``2 phi(t) Phi(shape t)`` falls towards the left at least as fast as ``phi`` does,
    and with a large shape far faster; the points of the trapezoid rule crowd towards ``z``.

    Args:
        z: ``[R]``.
        shape: ``[R]``, one for each ``z``.

    Returns:
        ``[R]``.
    """
    end, slant = torch.from_numpy(z)[:, None], torch.from_numpy(shape)[:, None]
    reach = torch.where(end < 0, 40 / end.abs().clamp(min=1), 40 + end)
    grid = end - reach * torch.linspace(1, 0, 2001, dtype=torch.float64) ** 3
    log_density = (
        math.log(2)
        - 0.5 * grid**2
        - 0.5 * math.log(2 * math.pi)
        + torch.special.log_ndtr(slant * grid)
    )
    half = 0.5 * grid.diff(dim=1)
    weights = nn.functional.pad(half, (0, 1)) + nn.functional.pad(half, (1, 0))
    logs: Floats = torch.logsumexp(log_density + weights.log(), dim=1).clamp(max=0).numpy()
    return logs
