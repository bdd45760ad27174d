"""LPNL's parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

from neuropatch.errors import UsageError
from neuropatch.methods._lpnl.hard_concrete import MOST_LOG_ALPHA
from neuropatch.methods._lpnl.objective import ADVERSARIES
from neuropatch.methods._units import UnitConfig
from neuropatch.models.coordinates import parse_target

UNITS = "units"
"""The target that stands for MLP units."""


@dataclass(frozen=True)
class LpnlConfig(UnitConfig):
    """LPNL's parameters; what the paper leaves open is ours.

    Attributes:
        target: What gates are put on: ``units`` of MLPs, or the outputs of ``mlp``, ``attn``,
            ``all`` or role names.
        steps: Most steps of learning.
        learning_rate: How far a step moves ``log_alpha`` of the gate with the largest gradient.
        temperature: ``beta`` of the HardConcrete distribution.
        init: ``log_alpha`` of all gates at the start.
        batch_size: Records of a step; about as many tokens come of every other data set.
        draws: How often the gates are drawn in a step, each time for a share of the samples.
        adversary: Loss of the personal data, see :mod:`neuropatch.methods._lpnl.objective`.
        cap: Of ``capped``: nats per token beyond which nothing is gained; None for the loss of a
            uniform guess.
        keep: Weight of the loss of the texts' other tokens, and of the general data set.
        retain: Weight of the loss of each data set to retain.
        price: Weight of the L0 term at the start, and at least: what a gate must gain, in nats of
            the objective, to be worth closing.
        price_rate: How fast that weight follows the difference of closed and wanted gates.
        leakage: Share of recited records at which learning may stop.
        patience: Measurements in a row at that share, and within the budget, before it stops.
        measure_every: Steps between measurements.

    Raises:
        UsageError: If a parameter is out of range.
    """

    target: str = UNITS
    steps: int = 200
    learning_rate: float = 2.0
    temperature: float = 2 / 3
    init: float = 3.0
    batch_size: int = 16
    draws: int = 4
    adversary: str = "unlikelihood"
    cap: float | None = None
    keep: float = 1.0
    retain: float = 1.0
    price: float = 1e-3
    price_rate: float = 0.2
    leakage: float = 0.0
    patience: int = 2
    measure_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target != UNITS:
            parse_target(self.target)
        for name in ("steps", "batch_size", "draws", "patience", "measure_every"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("learning_rate", "temperature", "price"):
            value = getattr(self, name)
            _check(name, value, 0 < value < math.inf, "a number above 0")
        for name in ("keep", "retain", "price_rate"):
            value = getattr(self, name)
            _check(name, value, 0 <= value < math.inf, "a number from 0")
        most = MOST_LOG_ALPHA
        _check("init", self.init, abs(self.init) <= most, f"a number within {most:.1f} of 0")
        _check("leakage", self.leakage, 0 <= self.leakage < 1, "a share from 0, below 1")
        if self.adversary not in ADVERSARIES:
            raise UsageError(
                f"unknown adversary '{self.adversary}'", hint=f"choose {' or '.join(ADVERSARIES)}"
            )
        if self.cap is not None:
            _check("cap", self.cap, 0 < self.cap < math.inf, "a number above 0")
            _check("cap", self.cap, self.adversary == "capped", "it with adversary=capped only")

    def roles(self) -> tuple[str, ...]:
        """Roles whose outputs are gated; none for units."""
        return () if self.target == UNITS else parse_target(self.target)


def _check(name: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise UsageError(f"{name} is {value}", hint=f"give {wanted}")
