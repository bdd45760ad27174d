"""What the passes of the certified mode have in common: their samples, and what they take in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import nn

from neuropatch.attribution.bounds import Bound, Rounding
from neuropatch.attribution.candidates import Candidates
from neuropatch.attribution.seen import Seen
from neuropatch.attribution.tap import LinearTap
from neuropatch.data.batching import PackedBatch
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.modules import ParameterSlot
from neuropatch.world import World

LOOKS = 8
"""How often a pass looks for weights that should join."""


@dataclass(frozen=True)
class Samples:
    """What a pass over a data set consists of.

    Attributes:
        batches: Samples of each batch, or of each round of batches, in order.
        slack: Rounding of scores over all of them.
    """

    batches: tuple[int, ...]
    slack: Rounding

    @classmethod
    def of(cls, batches: Sequence[Sequence[int]], processes: int = 1) -> Samples:
        """From the number of tokens of each sample of each batch of all processes."""
        lengths = [length for batch in batches for length in batch]
        # The sums of the processes are one more sum.
        return cls(tuple(map(len, batches)), Rounding.of(lengths, len(batches) + processes - 1))

    @property
    def total(self) -> int:
        """The number of samples."""
        return sum(self.batches)

    def looks(self) -> dict[int, int]:
        """After how many batches to look for weights that join: samples seen at the next look."""
        seen = list(accumulate(self.batches))
        after: list[int] = []
        wanted = 0.0
        for number, count in enumerate(seen[:-1], start=1):
            if count >= wanted:
                after.append(number)
                wanted = count + self.total / LOOKS
        return {number: seen[then - 1] for number, then in pairwise([*after, len(self.batches)])}


class Watcher:
    """What a pass over batches has to do for each matrix; the base of two kinds of passes."""

    def __init__(self, model: nn.Module, slots: Sequence[ParameterSlot], world: World) -> None:
        self._world = world
        self._slots = {slot.matrix: slot for slot in slots}
        self._by_layer: dict[tuple[str, int | None], list[ParameterSlot]] = {}
        for slot in slots:
            self._by_layer.setdefault((slot.name, slot.slot.expert), []).append(slot)
        self._tap = LinearTap(model, slots)
        self.samples = 0
        self.batches = 0
        device = slots[0].parameter.device
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        self.candidates = {slot.matrix: Candidates.at(nothing, 1) for slot in slots}
        self.bounds = {slot.matrix: Bound.none(slot.slot.shape, device) for slot in slots}

    @contextmanager
    def recording(self, batch: PackedBatch) -> Iterator[None]:
        """Take in the forward and backward pass of one batch inside the block."""
        with self._tap.watching(batch, self._take):
            yield
        self.samples += len(batch.rows)
        self.idle()

    def idle(self) -> None:
        """Count a batch, of this process or only of others."""
        self.batches += 1
        self._after_batch()

    def _take(self, seen: Seen) -> None:
        for slot in self._by_layer[seen.layer]:
            grad = slot.rows_of(seen.grad.T).T
            self.bounds[slot.matrix].now.add(grad, seen.input)
            self.candidates[slot.matrix].add(grad, seen.input, seen.offsets)

    def _after_batch(self) -> None:
        """What to do between batches."""

    def _into(self, matrix: MatrixId) -> int:
        return self._slots[matrix].slot.shape[1]

    def state(self) -> dict[str, torch.Tensor]:
        """Candidates and bounds by name, for saving."""
        return {
            f"{matrix}/{name}": values
            for matrix, candidates in self.candidates.items()
            for name, values in {
                **candidates.state(),
                **self.bounds[matrix].state(),
            }.items()
        }

    @property
    def bytes(self) -> int:
        """Bytes that candidates and bounds take now."""
        return sum(t.numel() * t.element_size() for t in self.state().values())

    def load(self, state: Mapping[str, torch.Tensor], samples: int, batches: int) -> None:
        """Continue from a saved state after so many samples and batches."""
        self.samples, self.batches = samples, batches
        for matrix, slot in self._slots.items():
            mine = {
                name.removeprefix(f"{matrix}/"): values.to(slot.parameter.device)
                for name, values in state.items()
                if name.startswith(f"{matrix}/")
            }
            self.candidates[matrix] = Candidates.loaded(mine)
            self.bounds[matrix] = Bound.loaded(mine)
