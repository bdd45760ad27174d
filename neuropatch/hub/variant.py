"""A patched model on its way to the Hub, one weight file at a time.

The whole checkpoint is never here: the plan needs headers only, the Hub copies what no patch
edits, and of the edited weight files one at a time is fetched, edited, uploaded and removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neuropatch.checkpoint.edit import Values, verify_shard, write_shard
from neuropatch.checkpoint.index import INDEX
from neuropatch.checkpoint.plan import EditPlan, make_plan
from neuropatch.checkpoint.rounding import Rounding
from neuropatch.checkpoint.staging import check_space, writing
from neuropatch.checkpoint.undo import FOLDER, is_undo_name
from neuropatch.errors import CheckpointError, ResourceError
from neuropatch.hub.branch import Branch
from neuropatch.hub.commit import Commit, PushedFile, Way
from neuropatch.hub.model import VariantBase
from neuropatch.patch.algebra import compose
from neuropatch.patch.drift import Drift
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.format import encode
from neuropatch.patch.patch import NeuronPatch
from neuropatch.progress import Progress

_AT_ONCE = 16 << 20
"""Bytes of small files that are uploaded together."""


@dataclass(frozen=True)
class VariantPlan:
    """What a variant needs, known from headers.

    Attributes:
        model: The model.
        parts: The part of the patches in each weight file that they edit, by its name.
    """

    model: VariantBase
    parts: dict[str, NeuronPatch]

    def way(self, path: str) -> Way:
        """How a file of the model gets to the variant's repo, if that has not got it yet."""
        copied = path not in self.parts and self.model.copyable(path) is not None
        return "copy" if copied else "upload"

    def stale(self, branch: Branch) -> list[str]:
        """Weight files of a branch that the variant does not have: loaders might take them."""
        return [
            path
            for path in sorted(branch.tree)
            if "/" not in path
            and (path.endswith(".safetensors") or path == INDEX)
            and path not in self.model.files
        ]

    def planned(self, branch: Branch | None) -> list[PushedFile]:
        """Every file and how it would get there; edited files are told to be uploaded."""
        files = []
        for path, size in self.model.files.items():
            way = self.way(path)
            source = self.model.copyable(path) if way == "copy" else None
            if branch is not None and source is not None:
                there = branch.tree.get(path)
                if there is not None and there.blob_id == source.entry.blob_id:
                    way = "keep"
            files.append(PushedFile(path, size, way, path in self.parts))
        if branch is not None:
            files += [
                PushedFile(path, branch.tree[path].size, "delete") for path in self.stale(branch)
            ]
        return files


@dataclass(frozen=True)
class Filled:
    """What became of the patches while a commit was filled.

    Attributes:
        drift: How far the model is from what the patches were made for.
        changed: Number of weights that got another value.
        undo: Path in the repo of the patch that gives this model's bytes back, if it is not the
            base that the patches were made from.
        rounding: How far weights in quantised tensors are from what the patches asked for.
    """

    drift: Drift
    changed: int
    undo: str | None
    rounding: Rounding


def plan_variant(model: VariantBase, patches: Sequence[NeuronPatch]) -> VariantPlan:
    """Check patches against a model's headers, and find the weight files that they edit.

    Args:
        model: The model.
        patches: Several are done as one; none for a model that is pushed as it is.

    Raises:
        PatchMismatchError: If a patch is for another architecture, or steers units.
        PatchConflictError: If patches disagree.
        CheckpointError: If a tensor cannot take the edit.
    """
    if not patches:
        return VariantPlan(model, {})
    for patch in patches:
        patch.check_fits(model.checkpoint.layout.signature, what=model.name)
    whole = (patches[0] if len(patches) == 1 else compose(*patches)).compiled()
    # Without weights, what is left to refuse is steering.
    make_plan(model.checkpoint, [replace(whole, weights=())])
    parts: dict[str, list[WeightEdit]] = {}
    for edit in whole.weights:
        location = model.checkpoint.locate(edit.matrix)
        if location.scaled is not None and location.scaled.path.name != location.shard:
            raise CheckpointError(
                f"'{location.info.name}' and its scales are in two weight files, "
                f"{location.shard} and {location.scaled.path.name}, and one is edited at a time",
                hint="apply the patch to a local copy (-o), and push that",
            )
        parts.setdefault(location.shard, []).append(edit)
    return VariantPlan(
        model,
        {shard: replace(whole, weights=tuple(edits)) for shard, edits in sorted(parts.items())},
    )


def fill(commit: Commit, plan: VariantPlan, scratch: Path, progress: Progress) -> Filled:
    """Put every file of a variant into a commit.

    Args:
        commit: The commit.
        plan: The plan.
        scratch: A folder for one weight file at a time.
        progress: Told how far it is.

    Raises:
        NeuropatchError: If a download, an edit or an upload fails; nothing is committed.
    """
    model = plan.model
    drift, changed = Drift(), 0
    undo: list[NeuronPatch] = []
    rounding = []
    unchanged = []
    progress.start("edit and upload weight files", len(plan.parts))
    for shard, part in plan.parts.items():
        _check_room(scratch, model.files[shard])
        with writing(scratch):
            path = model.take(shard, scratch)
            edit = _edit(plan, shard, part, scratch)
        for write in edit.writes:
            drift.add(write.location.matrix.role, write.expected, write.old)
        rounding.append(edit.rounding)
        if edit.changed:
            changed += edit.changed
            undo.append(edit.undo_patch())
            commit.put({shard: path}, edited=True)
        else:
            unchanged.append(shard)
        path.unlink()
        progress.advance()
    _put_rest(commit, plan, unchanged, scratch, progress)
    path_of_undo = _put_undo(commit, model, undo) if drift.unequal and undo else None
    return Filled(drift, changed, path_of_undo, Rounding.total(rounding))


def _edit(plan: VariantPlan, shard: str, part: NeuronPatch, scratch: Path) -> EditPlan:
    """Edit one weight file in the scratch folder."""
    checkpoint = replace(plan.model.checkpoint, folder=scratch)
    edit = make_plan(checkpoint, [part])
    values: list[Values] = [(write.location, write.offsets, write.new) for write in edit.writes]
    write_shard(scratch / shard, values)
    verify_shard(scratch / shard, values)
    return edit


def _put_rest(
    commit: Commit, plan: VariantPlan, unchanged: list[str], scratch: Path, progress: Progress
) -> None:
    """Everything that no patch changes: copied by the Hub, or else uploaded."""
    model = plan.model
    rest = [path for path in model.files if path not in plan.parts or path in unchanged]
    progress.start("other files", len(rest))
    here: dict[str, bytes | Path] = {}
    waiting = 0
    for number, path in enumerate(rest, start=1):
        source = model.copyable(path)
        if source is not None:
            commit.copy(source.entry, source.repo, source.commit)
        else:
            _check_room(scratch, model.files[path])
            with writing(scratch):
                here[path] = model.take(path, scratch)
            waiting += model.files[path]
        if here and (waiting >= _AT_ONCE or number == len(rest)):
            commit.put(here)
            for local in here:
                (scratch / local).unlink()
            here, waiting = {}, 0
        progress.advance()


def _put_undo(commit: Commit, model: VariantBase, parts: Sequence[NeuronPatch]) -> str:
    """Add the patch that takes the edits back, numbered after those that the model has."""
    names = [Path(path).name for path in model.files if path.startswith(f"{FOLDER}/")]
    number = max((int(name[5:-12]) for name in names if is_undo_name(name)), default=0) + 1
    path = f"{FOLDER}/undo-{number:04d}.safetensors"
    metadata = replace(parts[0].metadata, base_model=model.base)
    weights = tuple(edit for part in parts for edit in part.weights)
    commit.put({path: encode(NeuronPatch(metadata, weights))})
    return path


def _check_room(scratch: Path, needed: int) -> None:
    try:
        check_space(scratch, needed, output=scratch)
    except ResourceError as error:
        raise ResourceError(
            f"a weight file of {needed:,} bytes does not fit: {error.message}",
            hint="free some space, or let TMPDIR name a folder on another disk",
        ) from None
