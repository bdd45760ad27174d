"""Applying patches to a model in a GGUF file, and taking them back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neuropatch.checkpoint.clone import bytes_to_copy, can_reflink, clone
from neuropatch.checkpoint.index import stamp
from neuropatch.checkpoint.result import ApplyResult
from neuropatch.checkpoint.staging import check_space, exclusive, writing
from neuropatch.checkpoint.values import write_values
from neuropatch.errors import CheckpointError, OutputError
from neuropatch.gguf.file import GgufFile
from neuropatch.gguf.formats import format_of
from neuropatch.gguf.plan import GgufPlan, Requantisation, make_gguf_plan, read_blocks
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.files import sync_folder


@dataclass(frozen=True)
class GgufResult:
    """What was done, or with ``dry_run`` what would be.

    Attributes:
        result: The counts; the only weight file is the GGUF file.
        errors: How far the written weights are from those that the patch asks for, by format.
    """

    result: ApplyResult
    errors: Mapping[str, Requantisation]

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON document."""
        errors = {name: entry.to_json() for name, entry in self.errors.items()}
        return {**self.result.to_json(), "requantisation": errors}


def apply_to_gguf(
    model: str | Path,
    patches: Sequence[NeuronPatch],
    output: str | Path,
    *,
    dry_run: bool = False,
) -> GgufResult:
    """Write a copy of a GGUF file that has the patches in it.

    Everything is checked before the first byte is written, and the copy appears whole or not at
    all. Beside it, ``NAME.undo.safetensors`` is written: reverting that undo patch gives the bytes
    of the model back.

    Args:
        model: The file.
        patches: At least one; several must not disagree, and their order does not matter.
        output: File to create.
        dry_run: Check and count only.

    Raises:
        CheckpointError: If the model is no valid GGUF file, or cannot take the edit.
        ArchitectureError: If the architecture cannot be edited in GGUF files.
        PatchMismatchError: If a patch is for another architecture, steers units, or wants values
            that the blocks of the file cannot hold.
        PatchConflictError: If patches disagree.
        OutputError: If the output exists, is being written by another process, or cannot be
            written.
        ResourceError: If the disk is too small.
    """
    return _run("apply", Path(model), patches, Path(output), dry_run)


def revert_gguf(
    model: str | Path,
    patches: Sequence[NeuronPatch],
    output: str | Path,
    *,
    dry_run: bool = False,
) -> GgufResult:
    """Write a copy of a GGUF file that has the patches taken back: the bytes from before.

    Args:
        model: A file that holds the patches.
        patches: The undo patch that :func:`apply_to_gguf` wrote; or the patch itself, if it was
            made from the file's own values.
        output: See :func:`apply_to_gguf`.
        dry_run: See :func:`apply_to_gguf`.

    Raises:
        PatchMismatchError: If the file does not hold the patches, or they do not have its own
            values from before.
        NeuropatchError: As :func:`apply_to_gguf`.
    """
    return _run("revert", Path(model), patches, Path(output), dry_run)


def _run(
    action: Literal["apply", "revert"],
    model: Path,
    patches: Sequence[NeuronPatch],
    output: Path,
    dry_run: bool,
) -> GgufResult:
    undo = output.with_suffix(".undo.safetensors") if action == "apply" else None
    if output.suffix != ".gguf":
        raise OutputError(f"{output}: a GGUF file is named *.gguf", hint=f"try {output}.gguf")
    for path in filter(None, (output, undo)):
        _check_new(path)
    file = GgufFile.open(model)
    seen = stamp(model)
    plan = make_gguf_plan(file, patches, revert=action == "revert")
    notes: tuple[str, ...] = ()
    if not plan.changed:
        # What is to be done is done already, or is lost in rounding; there is nothing to undo.
        notes, undo = ("no weight changes",), None
    result = _result(action, plan, output, dry_run, notes)
    if dry_run:
        return GgufResult(result, plan.errors)
    with _staged([output] if undo is None else [undo, output]) as folder:
        work = folder / output.name
        if not can_reflink(model, folder):
            check_space(folder, bytes_to_copy(model), output=output)
        way = clone(model, work)
        if stamp(model) != seen or work.stat().st_size != file.size:
            raise CheckpointError(
                f"{model} changed while it was copied", hint="wait until its writer is done"
            )
        _write(work, plan)
        if undo is not None:
            plan.undo_patch().save(folder / undo.name)
    if undo is not None:
        note = f"to get the bytes of {model} back, revert {undo}"
        result = replace(result, undo=undo, notes=(*result.notes, note))
    return GgufResult(replace(result, files={way: 1}), plan.errors)


def _check_new(path: Path) -> None:
    if path.is_symlink() or path.exists():
        raise OutputError(f"{path} exists already", hint="name another file, or remove it")


def _result(
    action: Literal["apply", "revert"],
    plan: GgufPlan,
    output: Path,
    dry_run: bool,
    notes: tuple[str, ...],
) -> ApplyResult:
    file = plan.model.file
    return ApplyResult(
        action=action,
        model=file.path,
        output=output,
        in_place=False,
        dry_run=dry_run,
        weights=sum(map(len, plan.undo_edits)),
        changed=plan.changed,
        tensors=len(plan.tensors),
        shards_edited=(file.path.name,),
        shards=1,
        bytes_edited=sum(edit.new.nbytes for edit in plan.tensors),
        bytes_total=file.size,
        drift=plan.drift,
        notes=notes,
    )


@contextmanager
def _staged(files: Sequence[Path]) -> Iterator[Path]:
    """A hidden folder whose files take their names when the block succeeds, the last one last.

    If the process is killed, the folder ``.OUTPUT.neuropatch-partial`` is left, and the next writer
    of that output removes what is in it.

    Args:
        files: Where the files belong, all in one folder; the last one is the output.
    """
    output = files[-1]
    folder = output.parent / f".{output.name}.neuropatch-partial"
    lock = folder / "lock"
    with writing(output), exclusive(lock, busy=f"another neuropatch is writing {output}"):
        _clear(folder, lock)
        try:
            yield folder
            for path in files:
                _check_new(path)
            for path in files:
                (folder / path.name).rename(path)
        finally:
            _clear(folder, lock)
        sync_folder(output.parent)


def _clear(folder: Path, lock: Path) -> None:
    for left in folder.iterdir():
        if left != lock:
            left.unlink()


def _write(path: Path, plan: GgufPlan) -> None:
    """Write the new blocks into the copy, flush it, and read them back."""
    with path.open("r+b") as file:
        for edit in plan.tensors:
            blocks = np.ascontiguousarray(edit.new).view(f"V{edit.new.shape[1]}").reshape(-1)
            write_values(file.fileno(), edit.info, edit.numbers, blocks)
        os.fsync(file.fileno())
        for edit in plan.tensors:
            found = read_blocks(file.fileno(), edit.info, format_of(edit.info), edit.numbers)
            if not np.array_equal(found, edit.new):
                raise OutputError(
                    f"{path}: blocks of '{edit.info.name}' read back differ from those written",
                    hint="another program writes to the file, or the disk is failing",
                )
