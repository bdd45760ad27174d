"""The processes of a run: this one alone, unless a launcher such as torchrun has started several.

What runs on several processes is written once, against :class:`World`: each process takes its share
of the samples, and what has been summed over shares is summed over processes. Alone, the share is
everything and a sum is what it was. Processes that share the weights of a model instead run all
samples together; what each finds in its part of the weights is gathered. No torch is loaded here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from neuropatch.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from neuropatch.data.tokenize import Sample

Item = TypeVar("Item", bound="Sample")

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """Where a launcher has put this process.

    Attributes:
        rank: Its number among all processes, from 0.
        size: Number of all processes.
        local_rank: Its number among those of this machine.
        local_size: Number of processes of this machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int


def place() -> Place | None:
    """Where torchrun, ``accelerate launch`` or the like has put this process; None if alone."""
    if not all(name in os.environ for name in _VARIABLES):
        return None
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if size < 2:
        return None
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    return Place(rank, size, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", size)))


def is_first() -> bool:
    """Whether this process is alone or the first of several: the one that writes and prints."""
    where = place()
    return where is None or where.rank == 0


class World:
    """A process that is alone; :class:`neuropatch.distributed.Processes` is one of several.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        local_size: Number of processes that share this machine.
        splits: Whether the processes share the weights of the model (tensor parallelism) instead of
            the samples.
    """

    rank = 0
    size = 1
    local_size = 1
    splits = False

    def shares(self, samples: Sequence[Item]) -> list[Sequence[Item]]:
        """The samples of each process; each sample is in exactly one share, which may be empty."""
        return [samples]

    def share(self, samples: Sequence[Item]) -> Sequence[Item]:
        """The samples of this process.

        Raises:
            UsageError: If there are fewer samples than processes.
        """
        return samples

    def sum_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over processes; the same bits everywhere.

        All processes must give tensors of the same shapes in the same order.
        """

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process; waits for all."""
        return flag

    def least(self, number: int) -> int:
        """The smallest of all processes' numbers."""
        return number

    def gathered(self, numbers: Sequence[float]) -> list[list[float]]:
        """All processes' numbers, of each as many as it has; float64."""
        return [list(numbers)]

    def pieces(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """What all processes hold of a row of numbers, one behind the other.

        Where each holds everything, that is what this one has.
        """
        return row

    def device(self, device: str) -> str:
        """The device of this process, of a ``--device``."""
        return device


ALONE = World()
"""A process of its own."""


@contextmanager
def launched(device: str, *, split: bool = False) -> Iterator[World]:
    """The world that a launcher has put this process into, for the length of a ``with`` block.

    Args:
        device: ``--device`` of the run.
        split: Whether the processes share the weights of the model instead of the samples.

    Raises:
        ProcessError: If another process ends before the block does.
        UsageError: If the processes cannot all run on the device, or weights are to be shared and
            there is one process.
    """
    where = place()
    if where is None:
        if split:
            raise UsageError(
                "--tp splits the weights among processes, and there is one",
                hint="start it with torchrun --nproc-per-node N -m neuropatch",
            )
        yield ALONE
        return
    from neuropatch.distributed import joined

    with joined(where, device, split=split) as world:
        yield world
