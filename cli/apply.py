"""``neuropatch apply`` and ``neuropatch revert``: patches on checkpoints in files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .output import Output, print_lines

if TYPE_CHECKING:
    from neuropatch.checkpoint.result import ApplyResult

APPLY_EPILOG = options.examples(
    "neuropatch apply my-model spin.safetensors -o my-model-patched",
    "neuropatch apply user/model user/patch -o patched --dry-run",
    "neuropatch apply my-model spin.safetensors --in-place",
)
REVERT_EPILOG = options.examples(
    "neuropatch revert my-model-patched spin.safetensors -o my-model-again",
    "neuropatch revert my-model my-model/neuropatch/undo-0001.safetensors --in-place",
)

FolderOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder to create for the result.", metavar="DIR"),
]
HardLink = Annotated[
    bool,
    typer.Option(
        "--hard-link",
        help="Let unedited weight files be second names of the model's own, to save space.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("apply", epilog=APPLY_EPILOG)(apply)
    app.command("revert", epilog=REVERT_EPILOG)(revert)


def apply(
    model: options.ModelArgument,
    patches: options.PatchesArgument,
    output: FolderOutput = None,
    in_place: options.InPlace = False,
    hard_link: HardLink = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a copy of a model with patches in it.

    Only the edited values are rewritten; everything else is copied byte for byte. The result is
    either a new folder (-o DIR) or the model itself (--in-place).
    """
    out = Output(json, quiet)
    from neuropatch.checkpoint.apply import apply_patches
    from neuropatch.hub.resolve import resolve_model
    from neuropatch.patch.patch import NeuronPatch

    result = apply_patches(
        resolve_model(model).folder,
        [NeuronPatch.from_pretrained(name) for name in patches],
        output,
        in_place=in_place,
        dry_run=dry_run,
        hard_link=hard_link,
    )
    _print(out, result)


def revert(
    model: options.ModelArgument,
    patches: options.PatchesArgument,
    output: FolderOutput = None,
    in_place: options.InPlace = False,
    hard_link: HardLink = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a copy of a patched model with patches taken out.

    The copy has the bytes from before. The patches are those that were applied, or an undo patch
    that apply left in the model's folder neuropatch/.
    """
    out = Output(json, quiet)
    from neuropatch.checkpoint.apply import revert_patches
    from neuropatch.hub.resolve import resolve_model
    from neuropatch.patch.patch import NeuronPatch

    result = revert_patches(
        resolve_model(model).folder,
        [NeuronPatch.from_pretrained(name) for name in patches],
        output,
        in_place=in_place,
        dry_run=dry_run,
        hard_link=hard_link,
    )
    _print(out, result)


def _print(out: Output, result: ApplyResult) -> None:
    # A model that holds the patch already differs from its base by just that.
    if result.action == "apply" and result.drift.unequal and result.changed:
        out.warn("the model is not the patch's base:")
        for sentence in result.drift.sentences():
            out.warn(f"  {sentence}")
    if result.left_out:
        out.note(f"not copied: {', '.join(result.left_out)}")
    for sentence in result.notes:
        out.note(sentence)
    out.result(result.to_json(), lambda: print_lines(_lines(result)), essence=str(result.output))


def _lines(result: ApplyResult) -> list[str]:
    verb = "would change" if result.dry_run else "changed"
    back = " back" if result.action == "revert" else ""
    counts = (
        f"{verb} {result.changed:,} weights{back} in {result.tensors} tensors of "
        f"{len(result.shards_edited)} of {result.shards} weight files "
        f"({result.bytes_edited:,} of {result.bytes_total:,} bytes)"
    )
    if result.dry_run:
        return [counts, "nothing was written"]
    return [counts, f"wrote {result.output}"]
