"""Saved state of a scoring run, so that a run that was cut off can go on.

The state is one file in a folder of its own beside the output. It is bound to the run by a
fingerprint of everything that decides the result: a state of another run is refused, never mixed
in. Whoever named the folder removes it once the result is safe. Sums are saved in the order in
which they were made, so a resumed run ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuropatch.attribution.selection import TopSelector
from neuropatch.errors import OutputError
from neuropatch.models.split import held
from neuropatch.storage.dtypes import Array
from neuropatch.storage.files import atomic_write
from neuropatch.storage.safetensors_file import read_array, read_header, serialize_parts
from neuropatch.world import ALONE, World

STATE_FILE = "state.safetensors"
"""Name of the file in a run's folder."""

_KEY = "neuropatch_state"


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        dataset: Position of the data set in work.
        window: Position of the window of layers in work.
        batches: Batches of that pass that are in the sums.
        samples: Samples that are in the sums.
    """

    dataset: int = 0
    window: int = 0
    batches: int = 0
    samples: int = 0


class StateFile:
    """The file of one run: a position, and tensors.

    Args:
        folder: Where it is kept; made when it is first saved.
        fingerprint: What the run is; a state with another one is refused.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._file = folder / STATE_FILE
        self._fingerprint = fingerprint

    def read(self) -> tuple[dict[str, Any], dict[str, Array]] | None:
        """The fields of the position and the tensors; None if there is no state.

        Raises:
            OutputError: If the state belongs to another run.
        """
        position = self.position()
        if position is None:
            return None
        header = read_header(self._file)
        arrays = {name: read_array(self._file, info) for name, info in header.tensors.items()}
        return position, arrays

    def position(self) -> dict[str, Any] | None:
        """The fields of the position; None if there is no state.

        Raises:
            OutputError: If the state belongs to another run.
        """
        if not self._file.exists():
            return None
        document = json.loads(read_header(self._file).metadata.get(_KEY, "{}"))
        if document.get("fingerprint") != self._fingerprint:
            raise OutputError(
                f"{self._folder} holds the state of a run with another model, data or options",
                hint="repeat that run's command, or delete the folder",
            )
        position: dict[str, Any] = document["position"]
        return position

    def write(self, position: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        """Write the state, replacing the one before only when it is complete."""
        # JSON keeps every digit of a float, as repr does.
        document = {"fingerprint": self._fingerprint, "position": position}
        self._folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self._file, serialize_parts(tensors, {_KEY: json.dumps(document)}))


class RunState:
    """The saved state of one scoring run.

    Several processes save at one point of the run, each its own sums. As they do not end at once,
    each keeps the state before as well, until all have the new one: so there is always a state
    that all have.

    Args:
        folder: Where it is kept; made when it is first saved.
        fingerprint: What the run is; a state with another one is refused.
        world: The processes of the run.
    """

    def __init__(self, folder: Path, fingerprint: str, world: World = ALONE) -> None:
        self._folder = folder
        self._world = world
        if world.size == 1:
            self._slots = [StateFile(folder, fingerprint)]
        else:
            own = folder / f"rank-{world.rank}-of-{world.size}"
            self._slots = [StateFile(own / slot, fingerprint) for slot in ("a", "b")]
        self._next = 0

    def load(self, selectors: Mapping[str, TopSelector]) -> tuple[Position, dict[str, Array]]:
        """Where the run was cut off, and its sums; fills the selectors. The start if no state.

        Raises:
            OutputError: If the state belongs to another run.
        """
        self._check_processes()
        chosen = self._newest()
        found = None if chosen is None else self._slots[chosen].read()
        if found is None:
            return Position(), {}
        position, arrays = found
        for name, selector in selectors.items():
            prefix = f"selected.{name}."
            selector.load(
                {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
            )
        sums = {
            name.removeprefix("sum."): array
            for name, array in arrays.items()
            if name.startswith("sum.")
        }
        return Position(**position), sums

    def save(
        self,
        position: Position,
        selectors: Mapping[str, TopSelector],
        sums: Mapping[str, torch.Tensor],
    ) -> None:
        """Write the state, replacing the one before only when it is complete."""
        tensors = {f"sum.{name}": _unsigned(t.cpu().numpy()) for name, t in sums.items()}
        for name, selector in selectors.items():
            for column, array in selector.state().items():
                tensors[f"selected.{name}.{column}"] = _unsigned(array)
        self._slots[self._next].write(asdict(position), tensors)
        # No process may write over the state before until all have this one.
        self._world.any(False)
        self._next = (self._next + 1) % len(self._slots)

    def _newest(self) -> int | None:
        """The slot with the newest state that all processes have; None if there is none."""
        mine: dict[tuple[float, ...], int] = {}
        for number, slot in enumerate(self._slots):
            fields = slot.position()
            if fields is not None:
                position = Position(**fields)
                mine[position.dataset, position.window, position.batches] = number
        common: set[tuple[float, ...]] | None = None
        for numbers in self._world.gathered([n for position in mine for n in position]):
            theirs = set(zip(*(numbers[i::3] for i in range(3)), strict=True))
            common = theirs if common is None else common & theirs
        if not common:
            return None
        newest = mine[max(common)]
        self._next = (newest + 1) % len(self._slots)
        return newest

    def _check_processes(self) -> None:
        """Refuse a state of another number of processes, whose shares were others.

        Raises:
            OutputError: If there is one.
        """
        sizes = {int(path.name.rpartition("-")[2]) for path in self._folder.glob("rank-*-of-*")}
        if (self._folder / STATE_FILE).exists():
            sizes.add(1)
        for size in sorted(sizes - {self._world.size}):
            processes = "one process" if size == 1 else f"{size} processes"
            raise OutputError(
                f"{self._folder} holds the state of a run on {processes}, and there "
                f"{'is one' if self._world.size == 1 else f'are {self._world.size}'} now",
                hint="start it as that run was started, or delete the folder",
            )


def to_sums(arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """Saved sums as tensors; wide unsigned integers were signed ones."""
    return {name: torch.from_numpy(_signed(array)) for name, array in arrays.items()}


def _unsigned(array: Array) -> Array:
    """Indices are never negative, and the format of patches has no signed integers."""
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "i" else array


def _signed(array: Array) -> Array:
    wide = array.dtype.kind == "u" and array.itemsize > 1
    return array.view(f"i{array.itemsize}") if wide else array


def fingerprint_of_weights(model: nn.Module) -> str:
    """A digest of a sample of every parameter: a name alone would not tell a retrained model.

    Reading up to 256 values of each parameter takes no time, and no training leaves them all. Of
    weights that are split among processes it is a digest of the parts of this one.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = held(parameter).reshape(-1)
        sample = flat[:: max(1, flat.numel() // 256)].double().cpu().numpy()
        digest.update(name.encode() + sample.tobytes())
    return digest.hexdigest()


def fingerprint_of(document: Mapping[str, Any]) -> str:
    """A canonical text of what decides a run's result."""
    return json.dumps(document, sort_keys=True)
