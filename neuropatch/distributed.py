"""Several processes on one run, by torch.distributed: joining them, sums, and their ends.

Samples are dealt out to the processes, and what each has summed over its share is summed over all:
so the results are those of one process up to the order of floating-point sums. Every process ends
with the same sums, bit for bit, and takes the same decisions from them.

What passes between CPUs goes through gloo, what lies on GPUs through NCCL. A process whose peer has
ended learns of it in the next exchange, as gloo's connections break with it; which one ended, and
with which words, is read from the launcher's store, and from the process table of this machine.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed.rendezvous import rendezvous

from neuropatch.data.batching import longest_first
from neuropatch.errors import NeuropatchError, ProcessError, UsageError
from neuropatch.world import Item, Place, World

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another one that is alive, but does not answer."""

PATIENCE_SECONDS = 10.0
"""How long a broken connection waits for a sign of who has ended."""

SAME_ERROR_SECONDS = 3.0
"""How long an error waits for the first process to have the same one, which then tells it."""

Answer = TypeVar("Answer", bound="dict[int, str] | bool")

_CONSEQUENCE = "-"
"""The last word of a process that ended because another one did."""

_INTERRUPTED = "it was interrupted"
"""The last words of a process that a signal ended."""


class _DisconnectedError(Exception):
    """An exchange with the other processes failed."""


class Processes(World):
    """One process of several.

    Args:
        place: Where the launcher has put it.
        device: ``--device`` of the run.

    Raises:
        UsageError: If there are fewer GPUs than processes on this machine.
    """

    def __init__(self, place: Place, device: str) -> None:
        self.rank, self.size, self.local_size = place.rank, place.size, place.local_size
        self._gpu = place.local_rank if _on_gpus(place, device) else None
        self._store, _, _ = next(rendezvous("env://", self.rank, self.size, timeout=TIMEOUT))
        backend = "gloo" if self._gpu is None else "cpu:gloo,cuda:nccl"
        if self._gpu is not None:
            torch.cuda.set_device(self._gpu)
        dist.init_process_group(
            backend,
            store=self._store,
            rank=self.rank,
            world_size=self.size,
            timeout=TIMEOUT,
        )
        self._store.set(_key("process", self.rank), f"{platform.node()} {os.getpid()}")
        self._processes = [
            self._store.get(_key("process", rank)).decode().rsplit(" ", 1)
            for rank in range(self.size)
        ]

    def shares(self, samples: Sequence[Item]) -> list[Sequence[Item]]:
        """The samples of each process, about as many tokens each."""
        # Dealt out from the longest to the shortest, so that all have about as much to do.
        order = longest_first(samples)
        return [[samples[i] for i in order[rank :: self.size]] for rank in range(self.size)]

    def share(self, samples: Sequence[Item]) -> Sequence[Item]:
        """The samples of this process."""
        if len(samples) < self.size:
            raise UsageError(
                f"{len(samples)} samples are too few for {self.size} processes",
                hint="start as many processes as the smallest data set has samples, or fewer",
            )
        return self.shares(samples)[self.rank]

    def sum_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over processes."""
        for tensor in tensors:
            self._all_reduce(tensor, dist.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        found = torch.tensor([int(flag)])
        self._all_reduce(found, dist.ReduceOp.MAX)
        return bool(found.item())

    def least(self, number: int) -> int:
        """The smallest of all processes' numbers."""
        found = torch.tensor([number])
        self._all_reduce(found, dist.ReduceOp.MIN)
        return int(found.item())

    def gathered(self, numbers: Sequence[float]) -> list[list[float]]:
        """All processes' numbers."""
        # Row by row into one table that is summed: no process knows how many the others have.
        most = torch.tensor([len(numbers)])
        self._all_reduce(most, dist.ReduceOp.MAX)
        table = torch.zeros(self.size, 1 + int(most.item()), dtype=torch.float64)
        table[self.rank, : 1 + len(numbers)] = torch.tensor([len(numbers), *numbers])
        self._all_reduce(table, dist.ReduceOp.SUM)
        return [row[1 : 1 + int(row[0])].tolist() for row in table]

    def device(self, device: str) -> str:
        """The GPU of this process, or the device as it is named."""
        return device if self._gpu is None else f"cuda:{self._gpu}"

    def wait(self) -> None:
        """Wait for all processes."""
        self.any(False)

    def _all_reduce(self, tensor: torch.Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        with _exchange():
            dist.all_reduce(tensor, op=operation)

    def end(self, error: BaseException) -> NeuropatchError | None:
        """Say with which words this process ends, and find out whether another one is the cause.

        Args:
            error: What ends the run here.

        Returns:
            What ends it instead, or None if it is this process's own error.
        """
        if isinstance(error, Exception) and not isinstance(error, _DisconnectedError):
            return self._own(error)
        broken = isinstance(error, _DisconnectedError)
        if broken:
            self._say(_CONSEQUENCE)
        causes = _wait_for(self._ended, PATIENCE_SECONDS if broken else 0.0) or {}
        if not broken:
            # It may have come from the launcher, which ends all when one has ended; or to all.
            causes = {rank: words for rank, words in causes.items() if words != _INTERRUPTED}
            self._say(_CONSEQUENCE if causes else _INTERRUPTED)
        if causes:
            rank, words = next(iter(causes.items()))
            return ProcessError(f"rank {rank} of {self.size} ended: {words}", told=self._told())
        if broken:
            reason = str(error).strip().splitlines()[0]
            words = f"the other processes do not answer: {reason}"
            return ProcessError(f"rank {self.rank} of {self.size}: {words}", told=self._told())
        return None

    def _told(self) -> bool:
        """Whether another process tells what happened: of each machine, the first that can."""
        return any(
            self._lives(rank) or self._last_word(rank) != ""
            for rank in range(self.rank)
            if self._processes[rank][0] == platform.node()
        )

    def _own(self, error: Exception) -> NeuropatchError | None:
        """An error of this process: what every process meets, the first one tells."""
        if not isinstance(error, NeuropatchError):
            self._say(f"{type(error).__name__}: {error}")
            return None
        words = str(error)
        self._say(words)
        if self.rank == 0:
            return None
        told = _wait_for(lambda: self._last_word(0) == words, SAME_ERROR_SECONDS) is not None
        said = f"rank {self.rank} of {self.size}: {error.message}"
        return ProcessError(said, hint=error.hint, told=told)

    def _ended(self) -> dict[int, str]:
        """The processes that ended by themselves, and why."""
        causes = {}
        for rank in range(self.size):
            words = self._last_word(rank)
            if rank == self.rank or words == _CONSEQUENCE:
                continue
            if words:
                causes[rank] = words
            elif not self._lives(rank):
                causes[rank] = "it was killed, maybe for want of memory"
        return causes

    def _lives(self, rank: int) -> bool:
        """Whether a process runs, as far as can be known from this machine."""
        machine, process = self._processes[rank]
        if machine != platform.node():
            return True
        try:
            status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
        except OSError:
            return False
        # What a launcher has not yet taken notice of is a zombie.
        return status.rpartition(")")[2].split()[0] not in "ZX"

    def _say(self, words: str) -> None:
        # The process that keeps the store may be the one that ended.
        with suppress(RuntimeError):
            self._store.set(_key("ended", self.rank), words)

    def _last_word(self, rank: int) -> str:
        with suppress(RuntimeError):
            if self._store.check([_key("ended", rank)]):
                words: str = self._store.get(_key("ended", rank)).decode()
                return words
        return ""


class Parts(Processes):
    """One process of several that hold a part of the weights each, and run all samples together."""

    splits = True

    def shares(self, samples: Sequence[Item]) -> list[Sequence[Item]]:
        """All samples are this process's; the others run the same ones."""
        return [samples if rank == self.rank else [] for rank in range(self.size)]

    def share(self, samples: Sequence[Item]) -> Sequence[Item]:
        """All samples."""
        return samples

    def sum_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Leave them: what has been summed over all samples is the sum."""

    def pieces(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """What all processes hold of a row of numbers, in the order of ranks."""
        lengths = [int(length) for (length,) in self.gathered([len(row)])]
        padded = torch.zeros(max(lengths), dtype=torch.float64)
        padded[: len(row)] = torch.from_numpy(row)
        found = [torch.empty_like(padded) for _ in lengths]
        with _exchange():
            dist.all_gather(found, padded)
        return np.concatenate([t[:n].numpy() for t, n in zip(found, lengths, strict=True)])

    def end(self, error: BaseException) -> NeuropatchError | None:
        """As of any process; but here the model exchanges too, and breaks like an exchange."""
        if type(error) is RuntimeError and _wait_for(self._ended, PATIENCE_SECONDS) is not None:
            error = _DisconnectedError(str(error))
        return super().end(error)


@contextmanager
def joined(place: Place, device: str, *, split: bool = False) -> Iterator[Processes]:
    """Join the processes of a run, for the length of a ``with`` block.

    The block ends on all processes together, or with an error on all of them.

    Args:
        place: Where the launcher has put this process.
        device: ``--device`` of the run.
        split: Whether each holds a part of the weights and runs all samples.

    Raises:
        ProcessError: If another process ended, or if this one did and it is not the first.
        UsageError: If there are fewer GPUs than processes on this machine.
    """
    world = (Parts if split else Processes)(place, device)
    try:
        yield world
        world.wait()
    except BaseException as error:
        other = world.end(error)
        if other is None:
            raise
        raise other from error
    dist.destroy_process_group()


@contextmanager
def _exchange() -> Iterator[None]:
    """An exchange that fails is told from other errors."""
    try:
        yield
    except RuntimeError as error:
        raise _DisconnectedError(str(error)) from error


def _on_gpus(place: Place, device: str) -> bool:
    """Whether every process has a GPU of its own.

    Raises:
        UsageError: If there are too few, or a single one is named.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return False
    if device not in ("auto", "cuda"):
        raise UsageError(
            f"{place.size} processes cannot all run on device '{device}'",
            hint="leave --device out: each process takes a GPU of its own",
        )
    if torch.cuda.device_count() < place.local_size:
        raise UsageError(
            f"{place.local_size} processes, and {torch.cuda.device_count()} GPUs here",
            hint="start as many processes as there are GPUs, or add --device cpu",
        )
    return True


def _wait_for(look: Callable[[], Answer], seconds: float) -> Answer | None:
    """The first answer that is something, or None after a time; looks at least once."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() >= end:
            return None
        time.sleep(0.05)
    return found


def _key(what: str, rank: int) -> str:
    return f"neuropatch/{what}/{rank}"
