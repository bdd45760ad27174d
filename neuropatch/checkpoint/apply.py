"""Applying patches to a checkpoint on disk, and taking them back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from neuropatch.checkpoint.clone import bytes_to_copy, can_reflink, clone, hard_link
from neuropatch.checkpoint.edit import Values, verify_shard, write_shard
from neuropatch.checkpoint.index import INDEX, Checkpoint, stamp
from neuropatch.checkpoint.journal import (
    check_editable,
    check_not_interrupted,
    edit_in_place,
    sole_editor,
)
from neuropatch.checkpoint.plan import EditPlan, make_plan
from neuropatch.checkpoint.result import ApplyResult
from neuropatch.checkpoint.staging import check_output, check_space, staged_folder
from neuropatch.checkpoint.undo import FOLDER, check_gives_back, next_undo, undo_files
from neuropatch.errors import CheckpointError, UsageError
from neuropatch.patch.patch import NeuronPatch

Action = Literal["apply", "revert"]

_WEIGHTS = {
    ".bin", ".ckpt", ".ggml", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".pt",
    ".pth", ".safetensors", ".tflite",
}  # fmt: skip


def apply_patches(
    model_dir: str | Path,
    patches: Sequence[NeuronPatch],
    output: str | Path | None = None,
    *,
    in_place: bool = False,
    dry_run: bool = False,
    hard_link: bool = False,
) -> ApplyResult:
    """Write a checkpoint that has the patches in it.

    Everything is checked before the first byte is written. A new folder appears whole or not at
    all. It holds the weights and the files beside them; subfolders and weights in other formats
    are left out and named in the result. If the model is not the base that the patches were made
    from, the new folder also gets ``neuropatch/undo-0001.safetensors``, whose revert gives this
    model's own bytes back.

    An edit in place writes such an undo patch first, numbered, into the model's folder. If it is
    interrupted, the next edit in place rolls back first.

    Args:
        model_dir: Folder of the checkpoint.
        patches: At least one; several must not disagree, and their order does not matter.
        output: Folder to create; None with ``in_place``.
        in_place: Edit the model's own files. Files that are links, or have several names, or lie
            in the Hub cache are refused.
        dry_run: Check and count only.
        hard_link: Let unedited weight files of the new folder be the same files as the model's,
            under a second name, where they lie on one disk. It saves space, but a program that
            later edits one of the two in place changes both. Files that are symbolic links or in
            the Hub cache are copied all the same.

    Raises:
        UsageError: If the arguments do not go together.
        CheckpointError: If the model is no valid checkpoint, or cannot take the edit.
        PatchMismatchError: If a patch is for another architecture, or steers units.
        PatchConflictError: If patches disagree.
        OutputError: If the output exists, is being written by another process, lies inside the
            model's folder, or cannot be written.
        ResourceError: If the disk is too small.
    """
    return _run("apply", Path(model_dir), patches, output, in_place, dry_run, hard_link)


def revert_patches(
    model_dir: str | Path,
    patches: Sequence[NeuronPatch],
    output: str | Path | None = None,
    *,
    in_place: bool = False,
    dry_run: bool = False,
    hard_link: bool = False,
) -> ApplyResult:
    """Write a checkpoint that has the patches taken back: the bytes from before.

    An edit in place leaves no undo patch: the model held the patches exactly, so applying them
    again gives its bytes.

    Args:
        model_dir: Folder of a checkpoint that holds the patches.
        patches: The patches, in any order.
        output: See :func:`apply_patches`.
        in_place: See :func:`apply_patches`.
        dry_run: See :func:`apply_patches`.
        hard_link: See :func:`apply_patches`.

    Raises:
        PatchMismatchError: If the checkpoint does not hold the patches, with the number of
            weights that differ and where they are.
        NeuropatchError: As :func:`apply_patches`.
    """
    return _run("revert", Path(model_dir), patches, output, in_place, dry_run, hard_link)


def _run(
    action: Action,
    model: Path,
    patches: Sequence[NeuronPatch],
    output: str | Path | None,
    in_place: bool,
    dry_run: bool,
    hard_link: bool,
) -> ApplyResult:
    if in_place == (output is not None):
        raise UsageError(
            "name either an output folder or --in-place", hint="for example -o patched-model"
        )
    if in_place and hard_link:
        raise UsageError("--hard-link needs an output folder", hint="drop it, or name one with -o")
    if output is not None:
        return _to_folder(action, model, patches, Path(output), dry_run, hard_link)
    if dry_run:
        check_not_interrupted(model)
        plan = _plan(action, Checkpoint.open(model), patches)
        check_editable(plan)
        return _result(action, plan, model, in_place=True, dry_run=True)
    return _in_place(action, model, patches)


def _to_folder(
    action: Action,
    model: Path,
    patches: Sequence[NeuronPatch],
    output: Path,
    dry_run: bool,
    hard_link: bool,
) -> ApplyResult:
    check_not_interrupted(model)
    checkpoint = Checkpoint.open(model)
    check_output(output, model)
    plan = _plan(action, checkpoint, patches)
    files, left_out = _files(checkpoint)
    result = replace(
        _result(action, plan, output, in_place=False, dry_run=dry_run), left_out=tuple(left_out)
    )
    if dry_run:
        return result
    with staged_folder(output) as folder:
        ways = _fill(plan, files, folder, output, hard_link)
        for shard, writes in plan.by_shard().items():
            values: list[Values] = [(w.location, w.offsets, w.new) for w in writes]
            write_shard(folder / shard, values)
            verify_shard(folder / shard, values)
        undo = _write_undo(plan, folder) if plan.drift.unequal else None
    if undo is None:
        return replace(result, files=ways)
    note = f"to get this model's own bytes back, revert {output / undo}"
    return replace(result, files=ways, undo=output / undo, notes=(*result.notes, note))


def _write_undo(plan: EditPlan, folder: Path) -> Path:
    """Write the undo patch into a new folder; returns its path below it."""
    path = next_undo(folder)
    path.parent.mkdir(exist_ok=True)
    return plan.undo_patch().save(path).relative_to(folder)


def _in_place(action: Action, model: Path, patches: Sequence[NeuronPatch]) -> ApplyResult:
    # Opened once before the lock, so that a mistyped folder is not written to at all.
    Checkpoint.open(model)
    with sole_editor(model) as rolled_back:
        checkpoint = Checkpoint.open(model)
        undone = action == "revert" and rolled_back is not None and list(patches) == [rolled_back]
        # Undone already: what is left is to check the patch, which finds its values unchanged.
        plan = _plan("apply" if undone else action, checkpoint, patches)
        check_editable(plan)
        result = _result(action, plan, model, in_place=True, dry_run=False)
        if rolled_back is not None:
            note = "an in-place edit that had been interrupted was rolled back first"
            result = replace(result, notes=(*result.notes, note))
        if undone or not plan.changed:
            return result
        undo = edit_in_place(plan)
        if action == "revert":
            undo.unlink()
            return result
    note = f"to undo it, run neuropatch revert {model} {undo} --in-place"
    return replace(result, undo=undo, notes=(*result.notes, note))


def _plan(action: Action, checkpoint: Checkpoint, patches: Sequence[NeuronPatch]) -> EditPlan:
    plan = make_plan(checkpoint, patches, revert=action == "revert")
    if action == "revert":
        check_gives_back(plan)
    return plan


def _result(
    action: Action, plan: EditPlan, output: Path, *, in_place: bool, dry_run: bool
) -> ApplyResult:
    notes = []
    if not plan.changed:
        state = "holds this patch already" if action == "apply" else "has these values already"
        notes.append(f"no weight changes: the model {state}")
    rounding = plan.rounding
    if rounding.rounded:
        notes.append(rounding.sentence())
    return ApplyResult(
        action=action,
        model=plan.checkpoint.folder,
        output=output,
        in_place=in_place,
        dry_run=dry_run,
        weights=plan.weights,
        changed=plan.changed,
        tensors=plan.tensors,
        shards_edited=tuple(sorted(plan.by_shard())),
        shards=len(plan.checkpoint.headers),
        bytes_edited=plan.bytes,
        bytes_total=sum(size for size, _ in plan.checkpoint.stamps.values()),
        drift=plan.drift,
        rounding=rounding,
        notes=tuple(notes),
    )


def _files(checkpoint: Checkpoint) -> tuple[list[Path], list[str]]:
    """Files that make up the checkpoint, and names in its folder that do not belong to it."""
    kept, left_out = [], []
    for path in sorted(checkpoint.folder.iterdir()):
        other_index = path.name.endswith(".index.json") and path.name != INDEX
        other_weights = path.suffix in _WEIGHTS and path.name not in checkpoint.headers
        if path.is_file() and not other_index and not other_weights:
            kept.append(path)
        elif path.name != FOLDER:
            left_out.append(path.name)
    return kept, left_out


def _fill(
    plan: EditPlan, files: Sequence[Path], folder: Path, output: Path, share: bool
) -> dict[str, int]:
    """Put the checkpoint's files into a new folder; returns how many came there which way."""
    edited = plan.by_shard()
    stamps = plan.checkpoint.stamps
    largest = max(files, key=lambda path: path.stat().st_size)
    if not can_reflink(largest, folder):
        linked = {name for name in stamps if share and name not in edited}
        needed = sum(bytes_to_copy(path) for path in files if path.name not in linked)
        check_space(folder, needed, output=output)
    ways: Counter[str] = Counter()
    for path in files:
        shared = share and path.name in stamps and path.name not in edited
        way = (hard_link if shared else clone)(path, folder / path.name)
        ways[way] += 1
        if path.name in stamps and (
            stamp(path) != stamps[path.name]
            or (folder / path.name).stat().st_size != stamps[path.name][0]
        ):
            raise CheckpointError(
                f"{path} changed while it was copied", hint="wait until its writer is done"
            )
    for path in undo_files(plan.checkpoint.folder):
        (folder / FOLDER).mkdir(exist_ok=True)
        clone(path, folder / FOLDER / path.name)
    return dict(ways)
