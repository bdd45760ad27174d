"""Saved state of learning, so that a run that was cut off can go on to the same patch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from neuropatch.attribution.state import StateFile
from neuropatch.methods._lpnl.learner import Position

_TENSORS = ("log_alpha", "momentum", "best")


class GateState:
    """The saved state of one run.

    Args:
        folder: Where it is kept; made when it is first saved.
        fingerprint: What the run is; a state with another one is refused.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._state = StateFile(folder, fingerprint)

    def load(self) -> Position | None:
        """Where the run was cut off; None if there is no state.

        Raises:
            OutputError: If the state belongs to another run.
        """
        found = self._state.read()
        if found is None:
            return None
        fields, arrays = found
        fields |= {name: torch.from_numpy(arrays[name]) for name in _TENSORS}
        return Position(**fields)

    def save(self, position: Position) -> None:
        """Write the state, replacing the one before only when it is complete."""
        fields = asdict(position)
        tensors = {name: fields.pop(name).numpy() for name in _TENSORS}
        self._state.write(fields, tensors)
