"""Differentiable penalties on what the adversary of distribution inference sees.

``yhat`` is a step function of the log odds ``z``, so rates are made soft: ``P(yhat=1|A=a,Y=y)`` is
the mean of ``sigmoid(z / temperature)`` over the rows of that group and label. At temperature 1
that is the mean probability. The lower the temperature, the nearer to the rate, and the fewer the
rows that have a gradient: in small data sets it is then brought down on the training rows alone.
"""

from __future__ import annotations

import torch


def soft_rates(
    log_odds: torch.Tensor,
    labels: torch.Tensor,
    groups: torch.Tensor,
    count: int,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft rates of every group and label.

    Args:
        log_odds: ``[b]``.
        labels: ``[b]``, 0 or 1.
        groups: int64 ``[b]``, below ``count``.
        count: Number of groups.
        temperature: See the module.

    Returns:
        The rates ``[count, 2]``, 0 where a cell has no row, and the number of rows of each cell.
    """
    cell = groups * 2 + labels.long()
    soft = torch.sigmoid(log_odds / temperature)
    total = torch.zeros(2 * count, dtype=soft.dtype, device=soft.device)
    rows = torch.zeros_like(total).index_add(0, cell, torch.ones_like(soft))
    rates = total.index_add(0, cell, soft) / rows.clamp(min=1)
    return rates.reshape(count, 2), rows.reshape(count, 2)


def equalized_odds_penalty(
    log_odds: torch.Tensor,
    labels: torch.Tensor,
    groups: torch.Tensor,
    count: int,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Sum over labels of the mean squared difference of the soft rates of two groups.

    A group without rows of a label has no rate there and is left out; a label with fewer than two
    groups adds nothing. So a batch that lacks cells has a smaller penalty, never an undefined one,
    and a batch of one group has none.

    Args:
        log_odds: ``[b]``.
        labels: ``[b]``, 0 or 1.
        groups: int64 ``[b]``, below ``count``.
        count: Number of groups.
        temperature: Of the soft rates.

    Returns:
        A scalar of at least 0 with a graph to ``log_odds``.
    """
    rates, rows = soft_rates(log_odds, labels, groups, count, temperature)
    pair = torch.triu(torch.ones(count, count, device=rates.device), diagonal=1)
    present = (rows > 0).to(rates.dtype)
    # [a, a', y]: 1 where both groups have a rate for the label.
    both = present[:, None] * present[None] * pair[..., None]
    squares = (rates[:, None] - rates[None]) ** 2 * both
    return (squares.sum((0, 1)) / both.sum((0, 1)).clamp(min=1)).sum()


def accuracy_gap_penalty(
    log_odds: torch.Tensor, labels: torch.Tensor, sides: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Squared difference of the soft accuracies on the rows of ``G0`` and of ``G1``.

    Equal rates leave the accuracies apart where the label shares differ: the gap is then the
    difference of the shares times the difference of the accuracies on both labels.

    Args:
        log_odds: ``[b]``.
        labels: ``[b]``, 0 or 1.
        sides: int64 ``[b]``, 0 for a row of ``G0`` and 1 for one of ``G1``.
        temperature: Of the soft accuracies.

    Returns:
        A scalar of at least 0 with a graph to ``log_odds``; 0 where a side has no row.
    """
    signs = 2 * labels.to(log_odds.dtype) - 1
    right = torch.sigmoid(signs * log_odds / temperature)
    zeros = torch.zeros(2, dtype=right.dtype, device=right.device)
    rows = zeros.index_add(0, sides, torch.ones_like(right))
    accuracy = zeros.index_add(0, sides, right) / rows.clamp(min=1)
    return (accuracy[0] - accuracy[1]) ** 2 * (rows > 0).all()
