"""The neuron patch: edits at coordinates, the values from before, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuropatch.errors import (
    ArchitectureError,
    OutputError,
    PatchFormatError,
    PatchMismatchError,
)
from neuropatch.models.coordinates import ROLES, STACKS, BlockId, MatrixId
from neuropatch.models.definition import definitions
from neuropatch.models.layout import Layout, Signature
from neuropatch.patch.edits import UNIT_KINDS, WEIGHT_KINDS, Change, UnitEdit, WeightEdit
from neuropatch.patch.joining import concatenate_weights
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.storage.files import atomic_write

if TYPE_CHECKING:
    from torch import nn

    from neuropatch.patch.drift import Drift

PATCH_FILE = "neuron_patch.safetensors"
"""Name of the patch file in a folder or Hub repo."""


def _block_key(block: BlockId) -> tuple[int, int, int]:
    return STACKS.index(block.stack), block.layer, block.expert


@dataclass(frozen=True)
class NeuronPatch:
    """A small, portable, reversible edit of a model.

    Edits are held in canonical order, so two patches are equal exactly when they do the same
    to the same weights for the same recorded reasons, and equal patches have equal bytes.

    Attributes:
        metadata: Architecture, base model, method, data sets, versions.
        weights: Edits of weights, at most one for each matrix and kind.
        units: Edits of MLP units, at most one for each block and kind.
        inverted: Whether applying the patch undoes its edits (see :meth:`invert`).
    """

    metadata: PatchMetadata
    weights: tuple[WeightEdit, ...] = ()
    units: tuple[UnitEdit, ...] = ()
    inverted: bool = False

    def __post_init__(self) -> None:
        def weight_key(edit: WeightEdit) -> tuple[Any, int]:
            return edit.matrix.sort_key, WEIGHT_KINDS.index(edit.kind)

        def unit_key(edit: UnitEdit) -> tuple[Any, int]:
            return _block_key(edit.block), UNIT_KINDS.index(edit.kind)

        object.__setattr__(self, "weights", tuple(sorted(self.weights, key=weight_key)))
        object.__setattr__(self, "units", tuple(sorted(self.units, key=unit_key)))
        self._check_overlap()
        if self.metadata.architecture.model_type in definitions():
            self._check_bounds(Layout.from_signature(self.metadata.architecture))

    def _check_overlap(self) -> None:
        """No weight may be edited twice, neither by two kinds nor through a unit."""
        units = {
            MatrixId(*edit.block, "down"): edit.units for edit in self.units if edit.kind == "scale"
        }
        for matrix, group in groupby(self.weights, key=lambda edit: edit.matrix):
            edits = list(group)
            # An edit's own coordinates are unique, so only several edits can meet.
            pairs = np.concatenate([edit.keys for edit in edits])
            twice = len(edits) > 1 and len(np.unique(pairs)) < len(pairs)
            columns = np.concatenate([edit.columns for edit in edits])
            if twice or (matrix in units and np.isin(columns, units[matrix]).any()):
                raise PatchFormatError(
                    f"{matrix}: a weight is edited twice", hint="the patch is damaged"
                )
        keys = [(e.matrix, e.kind) for e in self.weights] + [(e.block, e.kind) for e in self.units]
        if len(set(keys)) != len(keys):
            raise PatchFormatError("two edits of one kind on one matrix or block")

    def _check_bounds(self, layout: Layout) -> None:
        """Every coordinate must exist in the architecture the patch names."""
        for edit in self.weights:
            rows, columns = _shape(layout, edit.matrix)
            if edit.rows.max() >= rows or edit.columns.max() >= columns:
                raise PatchFormatError(
                    f"{edit.kind} edit of {edit.matrix}: an index lies outside {rows} x {columns}",
                    hint="the patch is damaged",
                )
        for unit_edit in self.units:
            hidden, width = _shape(layout, MatrixId(*unit_edit.block, "down"))
            before = unit_edit.before
            if unit_edit.units[-1] >= width or (before is not None and before.shape[1] != hidden):
                raise PatchFormatError(
                    f"{unit_edit.kind} edit of {unit_edit.block}: a unit lies outside {width}, "
                    f"or its weights are not {hidden} long",
                    hint="the patch is damaged",
                )

    def __len__(self) -> int:
        """Number of edited weights and units."""
        return sum(map(len, self.weights)) + sum(map(len, self.units))

    def check_fits(self, target: Signature, *, what: str) -> None:
        """Refuse a target in which the patch's coordinates mean something else.

        Args:
            target: The target's architecture.
            what: The target, in words, for the message.

        Raises:
            PatchMismatchError: Naming what differs.
        """
        differences = self.metadata.architecture.differences(target)
        if differences:
            raise PatchMismatchError(
                f"the patch is for another architecture than {what}: {'; '.join(differences)}",
                hint="apply it to the model it was made from, or to a fine-tune of that model",
            )

    def changes(self) -> list[Change]:
        """Every change of weights, unit edits compiled, in canonical order of matrices.

        Raises:
            PatchFormatError: If the patch steers units, which no edit of weights can express.
        """
        edits = [*self.weights, *(w for unit in self.units for w in unit.compiled())]
        edits.sort(key=lambda edit: edit.matrix.sort_key)
        return [Change(edit, self.inverted) for edit in edits]

    def compiled(self) -> NeuronPatch:
        """The same patch with unit edits written as edits of weights; steering stays as it is."""
        steering = tuple(edit for edit in self.units if edit.kind == "steer")
        units = [edit for edit in self.units if edit.kind != "steer"]
        merged: dict[tuple[MatrixId, str], list[WeightEdit]] = {}
        for edit in [*self.weights, *(w for unit in units for w in unit.compiled())]:
            merged.setdefault((edit.matrix, edit.kind), []).append(edit)
        return replace(
            self, weights=tuple(map(concatenate_weights, merged.values())), units=steering
        )

    def invert(self) -> NeuronPatch:
        """The patch that takes this one back; inverting twice gives the same patch.

        Applied to a model that holds the edits, the inverse writes back the ``before`` values,
        bit for bit.
        """
        return replace(self, inverted=not self.inverted)

    # Files and the Hub -----------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> NeuronPatch:
        """Read a patch from a file, a folder, or a Hub repo.

        Args:
            pretrained_model_name_or_path: A ``.safetensors`` file, a folder that holds
                ``neuron_patch.safetensors``, or a Hub repo id.
            revision: Branch, tag or commit of the Hub repo.
            token: Hub token; None takes the one that is logged in, False sends none.
            cache_dir: Where the Hub client keeps its files.
            local_files_only: Look in the cache only.

        Raises:
            PatchFormatError: If the file is not a valid patch.
            HubError: If the repo cannot be reached or has no patch.
        """
        from neuropatch.hub.resolve import resolve_patch
        from neuropatch.patch.format import read_patch

        return read_patch(
            resolve_patch(
                str(pretrained_model_name_or_path),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        )

    def save(self, path: str | Path) -> Path:
        """Write the patch to one file, atomically; returns the path."""
        from neuropatch.patch.format import encode

        path = Path(path)
        if path.suffix != ".safetensors":
            raise OutputError(
                f"{path}: a patch file is named *.safetensors", hint=f"try {path}.safetensors"
            )
        atomic_write(path, [encode(self)])
        return path

    def save_pretrained(self, save_directory: str | Path) -> Path:
        """Write the patch into a folder as ``neuron_patch.safetensors``; returns that path."""
        return self.save(Path(save_directory) / PATCH_FILE)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        license: str | None = None,
        accept_license: bool = False,
    ) -> str:
        """Upload the patch and its card to a Hub repo, which is created if need be.

        The card takes the licence of the base model. Pushing again what is there makes no second
        commit, and a card that somebody wrote is kept.

        Args:
            repo_id: ``user/name``.
            commit_message: Title of the commit.
            private: Whether a new repo is private; None takes the account's default.
            token: Hub token; None takes the one that is logged in.
            revision: Branch to commit to.
            create_pr: Open a pull request instead of committing.
            license: Licence of the base model, where the Hub does not tell it.
            accept_license: Publish though the base's licence is not known or forbids changed
                versions, or its files are gated: its terms allow it.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            HubError: If the Hub refuses or cannot be reached, or the licence needs a decision.
        """
        from neuropatch.hub.push import push_patch

        return push_patch(
            self,
            repo_id,
            commit_message=commit_message,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            license=license,
            accept_license=accept_license,
        )

    # Models in memory ------------------------------------------------------------------------

    def apply(self, model: nn.Module) -> Drift:
        """Edit a transformers model in memory.

        Args:
            model: A model of the patch's architecture, on any device.

        Returns:
            How far the model's weights were from the values the patch was made for; empty for
            the base model itself.

        Raises:
            PatchMismatchError: If the model is of another architecture.
        """
        from neuropatch.patch.runtime import apply

        return apply(self, model)

    def revert(self, model: nn.Module) -> None:
        """Take the patch back from a model that holds it, bit for bit.

        Raises:
            PatchMismatchError: If the model does not hold the patch's edits.
        """
        from neuropatch.patch.runtime import revert

        revert(self, model)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Hold the patch on a model for the length of a ``with`` block.

        Afterwards the model has exactly the values it had before, drifted from the base or not.
        """
        from neuropatch.patch.runtime import applied

        with applied(self, model):
            yield model


def _shape(layout: Layout, matrix: MatrixId) -> tuple[int, int]:
    try:
        return layout.shape(matrix)
    except ArchitectureError as error:
        raise PatchFormatError(error.message, hint="the patch is damaged") from None


def roles_of(patch: NeuronPatch) -> tuple[str, ...]:
    """Roles whose weights a patch edits, in canonical order."""
    present = {edit.matrix.role for edit in patch.weights} | ({"down"} if patch.units else set())
    return tuple(role for role in ROLES if role in present)
