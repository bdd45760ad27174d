"""One scoring run: the top weights of several data sets, in as few passes as memory allows."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Protocol

import torch
from torch import nn

from neuropatch.attribution.accumulator import GradientAccumulator
from neuropatch.attribution.memory import release_free_memory, resident_memory
from neuropatch.attribution.plan import ScorePlan
from neuropatch.attribution.selection import IndexSets, TopSelector
from neuropatch.attribution.state import Position, RunState, to_sums
from neuropatch.data.batching import PackedBatch
from neuropatch.data.tokenize import Sample
from neuropatch.errors import ModelError
from neuropatch.models.layout import Layout
from neuropatch.models.likelihood import TokenLoss, packed_losses
from neuropatch.models.modules import ParameterSlot, resolve_parameters
from neuropatch.models.packing import batches_for
from neuropatch.models.token_nll import token_nll
from neuropatch.progress import Progress, Silent
from neuropatch.world import ALONE, World

SAVE_EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Wanted:
    """What to take of one data set: its samples, and the amount of top weights."""

    samples: Sequence[Sample]
    amount: float


class Recorder(Protocol):
    """What a run feeds with batches, and what is saved of it."""

    samples: int

    def idle(self) -> None:
        """Let a round pass in which only other processes have a batch."""

    def recording(self, batch: PackedBatch) -> AbstractContextManager[None]:
        """Take in the forward and backward pass of one batch inside the block."""

    def state(self) -> dict[str, torch.Tensor]:
        """What to save."""


@dataclass(frozen=True)
class Round:
    """A batch of each process.

    Attributes:
        batch: That of this process; None if it has no more.
        lengths: Number of tokens of each sample of all processes.
    """

    batch: PackedBatch | None
    lengths: tuple[int, ...]


class TopWeightsRun:
    """Finds, for every data set, the weights with the largest ``mean |W * dL/dW|``.

    Args:
        model: A causal language model in evaluation mode.
        layout: Its layout.
        wanted: Data sets by name, in the order in which they are run.
        scope: Within what the top weights are taken: ``matrix``, ``layer`` or ``model``.
        plan: Windows of layers.
        batch_tokens: Most tokens of a batch.
        state: Where to save the run's state, or None.
        progress: Told of every batch.
        world: The processes that share the samples, or the weights. They keep step batch by batch,
            so that all can save a state at one point, and none works on long after another one has
            ended.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        wanted: Mapping[str, Wanted],
        *,
        scope: str,
        plan: ScorePlan,
        batch_tokens: int,
        state: RunState | None = None,
        progress: Progress | None = None,
        world: World = ALONE,
    ) -> None:
        self._model = model
        self._world = world
        self._layout = layout
        self._wanted = wanted
        self._scope = scope
        self._plan = plan
        self._state = state
        self._progress = progress or Silent()
        self._batch_tokens = batch_tokens
        self._matrices = [matrix for window in plan.windows for matrix in window]
        self.selectors = {
            name: TopSelector(layout, self._matrices, scope, one.amount)
            for name, one in wanted.items()
        }
        self._saved_at = time.monotonic()

    def run(self) -> dict[str, IndexSets]:
        """Score every data set; a saved state is continued.

        An interrupted run with a state saves it before the interruption goes on.

        Raises:
            ModelError: If a loss or score is not finite.
            OutputError: If the saved state belongs to another run.
        """
        start = Position()
        saved: dict[str, torch.Tensor] = {}
        if self._state is not None:
            start, arrays = self._state.load(self.selectors)
            saved = to_sums(arrays)
        with frozen(self._model):
            for dataset in range(start.dataset, len(self._wanted)):
                here = dataset == start.dataset
                self._score_dataset(start if here else Position(dataset), saved if here else {})
        return {name: selector.result() for name, selector in self.selectors.items()}

    def _name(self, position: Position) -> str:
        return list(self._wanted)[position.dataset]

    def _rounds(self, samples: Sequence[Sample]) -> list[Round]:
        shares = [
            batches_for(self._model, share, batch_tokens=self._batch_tokens)
            for share in self._world.shares(samples)
        ]
        rounds = []
        for batches in zip_longest(*shares):
            lengths = [n for batch in batches if batch for n in batch.lengths.tolist()]
            rounds.append(Round(batches[self._world.rank], tuple(lengths)))
        return rounds

    def _score_dataset(self, start: Position, saved: dict[str, torch.Tensor]) -> None:
        """Fill one data set's selector, from a position on."""
        for window in range(start.window, len(self._plan.windows)):
            here = window == start.window
            position = start if here else Position(start.dataset, window)
            self._score_window(position, saved if here else {})
        self.selectors[self._name(start)].unite(self._world)

    def _score_window(self, position: Position, sums: dict[str, torch.Tensor]) -> None:
        name = self._name(position)
        matrices = self._plan.windows[position.window]
        slots = resolve_parameters(
            self._model, self._layout, list(matrices), split=self._world.splits
        )
        accumulator = GradientAccumulator(self._model, slots)
        if sums:
            accumulator.load(sums, position.samples)
        label = name
        if len(self._plan.windows) > 1:
            label += f", layers {position.window + 1}/{len(self._plan.windows)}"
        samples = self._wanted[name].samples
        self._pass(accumulator, self._rounds(samples), slots, position, label)
        accumulator.reduce(self._world, len(samples))
        for slot in slots:
            row, column = slot.first
            factors = accumulator.factors(slot.matrix)
            selector = self.selectors[name]
            selector.add(slot.matrix, *factors, first_row=row, first_column=column)

    def _pass(
        self,
        recorder: Recorder,
        todo: Sequence[Round],
        slots: Sequence[ParameterSlot],
        position: Position,
        label: str,
        *,
        done: Callable[[], bool] = lambda: False,
        pilot: bool = False,
    ) -> None:
        """Run batches from a position on, until there are no more or ``done`` says so.

        What is saved of a pilot is where it began.
        """
        self._progress.start(label, sum(len(one.lengths) for one in todo))
        self._progress.advance(position.samples)
        seen = position.samples
        for number, one in enumerate(todo[position.batches :], start=position.batches + 1):
            if done():
                break
            with whole() as interrupted:
                if one.batch is None:
                    recorder.idle()
                else:
                    score_batch(self._model, recorder, one.batch.to(slots[0].parameter.device))
                seen += len(one.lengths)
                if resident_memory() > self._plan.total:
                    release_free_memory()
                self._progress.advance(len(one.lengths))
                late = time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS
                if self._world.any(late or interrupted()) and self._state is not None:
                    now = replace(position, batches=number, samples=seen)
                    if pilot:
                        self._state.save(position, self.selectors, {})
                    else:
                        self._state.save(now, self.selectors, recorder.state())
                    self._saved_at = time.monotonic()


def score_batch(
    model: nn.Module, recorder: Recorder, batch: PackedBatch, token_loss: TokenLoss = token_nll
) -> None:
    """Feed a recorder with the forward and backward pass of one batch.

    Args:
        model: A causal language model in evaluation mode, its parameters frozen.
        recorder: What takes it in, such as a :class:`GradientAccumulator`.
        batch: Samples on the model's device.
        token_loss: Loss of each label.

    Raises:
        ModelError: If a loss is not finite.
    """
    with recorder.recording(batch):
        losses = packed_losses(model, batch, token_loss)
        finite = torch.isfinite(losses).tolist()
        if not all(finite):
            raise ModelError(
                f"the loss of row {batch.rows[finite.index(False)] + 1} is not finite",
                hint="the model overflows in this dtype; use --dtype float32",
            )
        losses.sum().backward()


@contextmanager
def whole() -> Iterator[Callable[[], bool]]:
    """Let an interrupt (Ctrl-C) wait for the end of the block.

    In the middle of a batch some layers have its gradients and others not: such sums must not
    be saved. Yields a function that says whether an interrupt is waiting.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    waiting: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield lambda: bool(waiting)
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        raise KeyboardInterrupt


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter takes a gradient inside the block; afterwards each is as it was."""
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
