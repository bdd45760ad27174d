"""A scoring run in the certified mode: see :mod:`neuropatch.attribution.certified`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuropatch.attribution.certified import (
    PILOT_SAMPLES,
    CertifiedPass,
    first_count,
)
from neuropatch.attribution.memory import format_size
from neuropatch.attribution.run import Round, TopWeightsRun
from neuropatch.attribution.second_look import SecondLook
from neuropatch.attribution.selection import TopSelector, amount_of
from neuropatch.attribution.state import Position
from neuropatch.attribution.watching import Samples
from neuropatch.data.batching import longest_first
from neuropatch.data.tokenize import Sample
from neuropatch.models.modules import ParameterSlot, resolve_parameters

_FIRST, _SECOND = 0, 1
"""Values of :attr:`Position.window`: the pass over all batches, and that of undecided weights."""


@dataclass
class Cost:
    """What one data set took.

    Attributes:
        tokens: Tokens of one pass.
        run: Tokens that were run, pilot and second look included.
        bytes: Most bytes of candidates and bounds at a time.
        undecided: Weights that a second look had to decide.
    """

    tokens: int
    run: int = 0
    bytes: int = 0
    undecided: int = 0

    def sentence(self) -> str:
        """The cost in words."""
        return (
            f"{self.run / self.tokens:.2f} passes, {format_size(self.bytes)} of candidates and "
            f"bounds, {self.undecided:,} weights decided by a second look"
        )


class CertifiedRun(TopWeightsRun):
    """Finds the sets of :class:`TopWeightsRun` without buffers of scores.

    Takes the same arguments; the plan has one window of all matrices, and a number of candidates.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.costs: dict[str, Cost] = {}
        """Of the data sets that this process has scored from their beginning."""

    def _score_dataset(self, start: Position, saved: dict[str, torch.Tensor]) -> None:
        name = self._name(start)
        slots = resolve_parameters(self._model, self._layout, self._matrices)
        todo = self._rounds(self._wanted[name].samples)
        lengths = [one.lengths for one in todo]
        samples = Samples.of(lengths, self._world.size)
        cost = Cost(sum(map(sum, lengths)))
        if start == Position(start.dataset):
            self.costs[name] = cost
        if start.window == _FIRST:
            first = self._first_look(start, saved, slots, todo, samples, cost)
            undecided = first.undecided()
            cost.undecided = sum(map(len, undecided.values()))
            if not undecided:
                return
            slots = [slot for slot in slots if slot.matrix in undecided]
            second = SecondLook(self._model, slots, self.selectors[name], samples, self._world)
            second.start(undecided, first.bounds)
            del first, undecided
            start = Position(start.dataset, _SECOND)
        else:
            slots = [slot for slot in slots if f"{slot.matrix}/sums" in saved]
            second = SecondLook(self._model, slots, self.selectors[name], samples, self._world)
            second.load(saved, start.samples, start.batches)
        self._pass(second, todo, slots, start, f"{name}, second look", done=lambda: second.done)
        second.finish()
        cost.run += sum(map(sum, lengths[: second.batches]))
        self.selectors[name] = second.select(self._selector(name))

    def _first_look(
        self,
        start: Position,
        saved: dict[str, torch.Tensor],
        slots: Sequence[ParameterSlot],
        todo: Sequence[Round],
        samples: Samples,
        cost: Cost,
    ) -> CertifiedPass:
        name = self._name(start)
        selector = self.selectors[name]
        capacity = self._plan.candidates
        first = CertifiedPass(self._model, slots, selector, samples, capacity, self._world)
        if saved:
            first.load(saved, start.samples, start.batches)
        else:
            pilot = self._rounds(_spread(self._wanted[name].samples))
            self._pass(first, pilot, slots, start, f"{name}, pilot", pilot=True)
            first.start(self._chooser(name))
            cost.run += sum(sum(one.lengths) for one in pilot)
        self._pass(first, todo, slots, start, name)
        first.finish()
        first.select()
        cost.run += cost.tokens
        cost.bytes = first.most_bytes
        return first

    def _selector(self, name: str) -> TopSelector:
        return TopSelector(self._layout, self._matrices, self._scope, self._wanted[name].amount)

    def _chooser(self, name: str) -> TopSelector:
        """An empty selector of as many weights as are candidates from the start."""
        amount = self._wanted[name].amount
        weights = sum(math.prod(self._layout.shape(matrix)) for matrix in self._matrices)
        room = self._plan.candidates / weights
        return TopSelector(
            self._layout,
            self._matrices,
            self._scope,
            lambda size: first_count(amount_of(amount, size), size, room),
        )


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """The pilot: a few samples of all lengths."""
    order = longest_first(samples)
    count = max(1, min(PILOT_SAMPLES, len(samples) // 8))
    return [samples[order[(2 * i + 1) * len(order) // (2 * count)]] for i in range(count)]
