"""Saved state of learning, so that a run that was cut off can go on to the same patch.

One file in a folder of its own, replaced as a whole, and bound to the run by a fingerprint of
everything that decides the result, as :mod:`neuropatch.attribution.state` has it for scores.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from neuropatch.attribution.state import STATE_FILE
from neuropatch.errors import OutputError
from neuropatch.methods._lpnl.learner import Position
from neuropatch.storage.files import atomic_write
from neuropatch.storage.safetensors_file import read_array, read_header, serialize_parts

_KEY = "neuropatch_lpnl"
_TENSORS = ("log_alpha", "momentum", "best")


class GateState:
    """The saved state of one run.

    Args:
        folder: Where it is kept; made when it is first saved.
        fingerprint: What the run is; a state with another one is refused.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._file = folder / STATE_FILE
        self._fingerprint = fingerprint

    def load(self) -> Position | None:
        """Where the run was cut off; None if there is no state.

        Raises:
            OutputError: If the state belongs to another run.
        """
        if not self._file.exists():
            return None
        header = read_header(self._file)
        document = json.loads(header.metadata.get(_KEY, "{}"))
        if document.get("fingerprint") != self._fingerprint:
            raise OutputError(
                f"{self._folder} holds the state of a run with another model, data or options",
                hint="repeat that run's command, or delete the folder",
            )
        fields = document["position"]
        for name in _TENSORS:
            fields[name] = torch.from_numpy(read_array(self._file, header.tensors[name]))
        return Position(**fields)

    def save(self, position: Position) -> None:
        """Write the state, replacing the one before only when it is complete."""
        fields = asdict(position)
        tensors = {name: fields.pop(name).numpy() for name in _TENSORS}
        # JSON keeps every digit of a float, as repr does.
        document = {"fingerprint": self._fingerprint, "position": fields}
        self._folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self._file, serialize_parts(tensors, {_KEY: json.dumps(document)}))
