"""HardConcrete gates: a stretched binary Concrete variable, clipped to [0, 1].

Source: Louizos, Welling and Kingma, "Learning sparse neural networks through L0 regularization",
ICLR 2018 (arXiv 1712.01312), equations 10 to 13. With ``u`` uniform on (0, 1),

    s = sigmoid((log u - log(1 - u) + log_alpha) / beta),   m = clip(s (zeta - gamma) + gamma, 0, 1)

The clipping puts mass on exactly 0 and exactly 1, and the probability of being off is
differentiable in ``log_alpha``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neuropatch.errors import UsageError

MOST_LOG_ALPHA = math.log(100)
"""Locations are kept within this on both sides of 0, as in the paper's code: a gate farther out is
hardly ever drawn anywhere but at its end, and would never be heard again."""


@dataclass(frozen=True)
class HardConcrete:
    """The distribution of a gate, but for its location ``log_alpha``.

    Attributes:
        beta: Temperature: the lower, the closer a gate is to a coin.
        gamma: Lower end of the stretched interval, below 0.
        zeta: Its upper end, above 1.

    Raises:
        UsageError: If a parameter is out of range.
    """

    beta: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise UsageError(f"temperature is {self.beta:g}", hint="give a number above 0")
        if not self.gamma < 0 < 1 < self.zeta:
            raise UsageError(
                f"the interval from {self.gamma:g} to {self.zeta:g} does not hold 0 and 1 inside",
                hint="use -0.1 and 1.1",
            )

    def sample(self, log_alpha: Tensor, uniform: Tensor) -> Tensor:
        """Gates drawn with given noise (equations 10 and 11), differentiable in ``log_alpha``.

        Args:
            log_alpha: Locations, any shape.
            uniform: Numbers between 0 and 1, both exclusive, of that shape.
        """
        noise = uniform.log() - torch.log1p(-uniform)
        return self._stretch(torch.sigmoid((noise + log_alpha) / self.beta))

    def mode(self, log_alpha: Tensor) -> Tensor:
        """The gates at evaluation, without noise (equation 13)."""
        return self._stretch(torch.sigmoid(log_alpha))

    def open_probability(self, log_alpha: Tensor) -> Tensor:
        """``P(m != 0)`` of each gate (equation 12)."""
        return torch.sigmoid(log_alpha - self.beta * math.log(-self.gamma / self.zeta))

    def closed_probability(self, log_alpha: Tensor) -> Tensor:
        """``P(m = 0)`` of each gate; unlike ``1 - P(m != 0)`` it keeps its digits near 0."""
        return torch.sigmoid(self.beta * math.log(-self.gamma / self.zeta) - log_alpha)

    def _stretch(self, s: Tensor) -> Tensor:
        return (s * (self.zeta - self.gamma) + self.gamma).clamp(0, 1)
