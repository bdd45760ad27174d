"""What an apply or a revert did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neuropatch.checkpoint.rounding import Rounding
from neuropatch.patch.drift import Drift


@dataclass(frozen=True)
class ApplyResult:
    """What was done, or with ``dry_run`` what would be.

    Attributes:
        action: ``apply`` or ``revert``.
        model: The checkpoint that was read.
        output: The folder that holds the result; the model's own for an edit in place.
        in_place: Whether the model itself was edited.
        dry_run: Whether nothing was written.
        weights: Number of weights that were written.
        changed: How many of them got another value.
        tensors: Number of tensors that were written to.
        shards_edited: Names of the weight files that were written to.
        shards: Number of weight files.
        bytes_edited: Bytes of the values that were written.
        files: Number of files in a new folder by how they came there: ``reflinked``, ``copied``,
            ``hard-linked``; empty for an edit in place or a dry run.
        bytes_total: Bytes of the files of the checkpoint.
        left_out: Names in the model's folder that the new folder does not have.
        drift: How far the model was from what the patch was made for.
        rounding: What was lost where a quantised tensor cannot hold a new value.
        undo: The undo patch, if one was written.
        notes: Sentences that a user should read.
    """

    action: Literal["apply", "revert"]
    model: Path
    output: Path
    in_place: bool
    dry_run: bool
    weights: int
    changed: int
    tensors: int
    shards_edited: tuple[str, ...]
    shards: int
    bytes_edited: int
    bytes_total: int
    drift: Drift
    rounding: Rounding = field(default_factory=Rounding)
    files: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    undo: Path | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON document."""
        return {
            "action": self.action,
            "model": str(self.model),
            "output": str(self.output),
            "in_place": self.in_place,
            "dry_run": self.dry_run,
            "weights": self.weights,
            "changed": self.changed,
            "tensors": self.tensors,
            "shards_edited": list(self.shards_edited),
            "shards": self.shards,
            "bytes_edited": self.bytes_edited,
            "bytes_total": self.bytes_total,
            "files": dict(self.files),
            "left_out": list(self.left_out),
            "drift": self.drift.to_json(),
            "rounding": self.rounding.to_json(),
            "undo": None if self.undo is None else str(self.undo),
            "notes": list(self.notes),
        }
