"""Which units' weights can learn what is wanted at the least cost for what is kept.

A step of the size ``e`` along the gradient ``g`` of a unit's vector takes about ``e |g|`` from the
divergence that training is to lower. What is kept diverges by about ``e^2 / 2`` times the mean of
its Fisher information ``F`` over the unit's weights, which is the curvature of a divergence where
it is 0. So units are taken by

    score_k = sum over gate, up and down of |g_k|^2 / (1 + F_k / mean F)

with the mean over all units of the model. ``F`` is estimated by squared gradients of the likelihood
of small batches of what is kept (the empirical Fisher information; Kirkpatrick et al., arXiv
1612.00796, protect weights by it).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neuropatch.attribution.gates import UnitValues
from neuropatch.attribution.unit_weights import squared_unit_gradients
from neuropatch.data.tokenize import Sample
from neuropatch.methods._base import Inputs
from neuropatch.methods._distil.config import DistilConfig
from neuropatch.methods._distil.course import Subject, precision
from neuropatch.methods._distil.targets import batches_of, divergences
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.likelihood import packed_losses

_BATCH_TOKENS = 256
"""Tokens of a batch whose gradient is squared: few, so that those of samples do not cancel."""

_MOST_BATCHES = 32
"""Batches of a data set, drawn by lot if it has more."""

Squares = dict[MatrixId, Tensor]


def fisher_scores(inputs: Inputs, config: DistilConfig, course: tuple[Subject, ...]) -> UnitValues:
    """The score of every unit.

    Args:
        inputs: The model, and the seed of the lot.
        config: Parameters.
        course: What is to be forgotten, and then what is kept.

    Returns:
        ``[units]`` of each block.
    """
    forget, *kept = course
    with precision(inputs, config):
        gains = _gains(inputs, forget)
        costs = {matrix: torch.zeros_like(one) for matrix, one in gains.items()}
        for subject in kept:
            if subject.weight > 0:
                for matrix, found in _information(inputs, subject).items():
                    costs[matrix] += subject.weight * found
    means = _means(costs)
    scores: UnitValues = {}
    for matrix, gain in gains.items():
        cost = costs[matrix] / means[matrix.role] if means[matrix.role] else 0.0
        score = (gain / (1 + cost)).cpu().numpy()
        scores[matrix.block] = scores.get(matrix.block, 0.0) + score
    return scores


def _gains(inputs: Inputs, forget: Subject) -> Squares:
    """Squared norms of the gradients of the mean divergence from what is to be learned."""
    inputs.progress.start("units", len(forget.lessons))
    with squared_unit_gradients(inputs.model, inputs.layout) as sums:
        batches = divergences(inputs.model, forget.lessons, batch_tokens=inputs.limits.batch_tokens)
        for numbers, values in batches:
            (values.sum() / len(forget.lessons)).backward()
            inputs.progress.advance(len(numbers))
    return sums


def _information(inputs: Inputs, subject: Subject) -> Squares:
    """The empirical Fisher information, summed over each unit's weights."""
    samples: list[Sample] = [lesson.sample for lesson in subject.lessons]
    order = np.random.default_rng(inputs.seed).permutation(len(samples))
    chosen: list[Sample] = []
    tokens = 0
    for number in order:
        if tokens >= _MOST_BATCHES * _BATCH_TOKENS:
            break
        chosen.append(samples[number])
        tokens += len(samples[number].ids)
    inputs.progress.start(f"units, {subject.name}", len(chosen))
    count = 0
    with squared_unit_gradients(inputs.model, inputs.layout) as sums:
        for numbers, batch in batches_of(inputs.model, chosen, _BATCH_TOKENS):
            packed_losses(inputs.model, batch).mean().backward()
            inputs.progress.advance(len(numbers))
            count += 1
    return {matrix: total / count for matrix, total in sums.items()}


def _means(costs: Squares) -> dict[str, float]:
    """The mean over all units of a role."""
    by_role: dict[str, list[Tensor]] = {}
    for matrix, one in costs.items():
        by_role.setdefault(matrix.role, []).append(one.cpu())
    return {role: float(torch.cat(many).mean()) for role, many in by_role.items()}
