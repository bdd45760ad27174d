"""``neuropatch apply`` and ``neuropatch revert``: patches on checkpoints in files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuropatch.errors import UsageError

from . import options
from .output import Output, print_lines
from .push import read_results, send

if TYPE_CHECKING:
    from neuropatch.checkpoint.result import ApplyResult
    from neuropatch.gguf.apply import GgufResult
    from neuropatch.gguf.plan import Requantisation

APPLY_EPILOG = options.examples(
    "neuropatch apply my-model spin.safetensors -o my-model-patched",
    "neuropatch apply user/model user/patch -o patched --dry-run",
    "neuropatch apply my-model spin.safetensors --in-place",
    "neuropatch apply user/model user/patch --push user/variant",
    "neuropatch apply model.gguf spin.safetensors -o patched.gguf",
)
REVERT_EPILOG = options.examples(
    "neuropatch revert my-model-patched spin.safetensors -o my-model-again",
    "neuropatch revert my-model my-model/neuropatch/undo-0001.safetensors --in-place",
    "neuropatch revert patched.gguf patched.undo.safetensors -o model-again.gguf",
)

LOST = 0.05
"""Share of a change that may be lost in rounding without a warning."""

PushTo = Annotated[
    str | None,
    typer.Option(
        "--push",
        help="Repo on the Hub to send the result to; no copy of the model is made here.",
        metavar="USER/NAME",
    ),
]
FolderOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder to create for the result; for a GGUF file, the file.",
        metavar="DIR",
    ),
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
    push: PushTo = None,
    results: options.Results = None,
    base_model: options.BaseModel = None,
    license: options.License = None,
    accept_license: options.AcceptLicense = False,
    private: options.Private = False,
    revision: options.PushRevision = None,
    create_pr: options.CreatePr = False,
    commit_message: options.CommitMessage = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a copy of a model with patches in it.

    Only the edited values are rewritten; everything else is copied byte for byte. The result is
    a new folder (-o DIR), the model itself (--in-place), or a repo on the Hub (--push USER/NAME;
    the options from --results to --yes are for it). A model in a GGUF file gives a new file.
    """
    out = Output(json, quiet)
    if push is not None:
        if output is not None or in_place or hard_link:
            raise UsageError(
                "--push sends the result to the Hub only",
                hint="drop -o, --in-place and --hard-link; or write a folder, and push that",
            )
        from neuropatch.hub.branch import Destination
        from neuropatch.hub.licence import Terms
        from neuropatch.hub.push_model import prepare_model

        to = Destination(push, revision, create_pr, private or None, commit_message)
        terms = Terms(license, accept_license)
        document = read_results(results)
        with prepare_model(
            model,
            patches,
            to,
            apply=True,
            base_model=base_model,
            terms=terms,
            results=document,
        ) as prepared:
            send(out, prepared, dry_run=dry_run, yes=yes)
        return
    _refuse_alone(
        results=results,
        base_model=base_model,
        license=license,
        accept_license=accept_license,
        private=private,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message,
        yes=yes,
    )
    from neuropatch.checkpoint.apply import apply_patches
    from neuropatch.hub.resolve import gguf_file, resolve_model
    from neuropatch.patch.patch import NeuronPatch

    file = gguf_file(model)
    if file is not None:
        from neuropatch.gguf.apply import apply_to_gguf

        copy = _gguf_output(output, in_place, hard_link)
        loaded = [NeuronPatch.from_pretrained(name) for name in patches]
        _print_gguf(out, apply_to_gguf(file, loaded, copy, dry_run=dry_run))
        return
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
    that apply left in the model's folder neuropatch/, or beside a GGUF file.
    """
    out = Output(json, quiet)
    from neuropatch.checkpoint.apply import revert_patches
    from neuropatch.hub.resolve import gguf_file, resolve_model
    from neuropatch.patch.patch import NeuronPatch

    file = gguf_file(model)
    if file is not None:
        from neuropatch.gguf.apply import revert_gguf

        copy = _gguf_output(output, in_place, hard_link)
        loaded = [NeuronPatch.from_pretrained(name) for name in patches]
        _print_gguf(out, revert_gguf(file, loaded, copy, dry_run=dry_run))
        return
    result = revert_patches(
        resolve_model(model).folder,
        [NeuronPatch.from_pretrained(name) for name in patches],
        output,
        in_place=in_place,
        dry_run=dry_run,
        hard_link=hard_link,
    )
    _print(out, result)


def _refuse_alone(**given: object) -> None:
    """Refuse options that only a push understands."""
    for name, value in given.items():
        if value not in (None, False):
            option = name.replace("_", "-")
            raise UsageError(
                f"--{option} is for a push, and there is none", hint="name the repo with --push"
            )


def _gguf_output(output: Path | None, in_place: bool, hard_link: bool) -> Path:
    """The file to write, since a GGUF file is copied."""
    if output is None or in_place or hard_link:
        raise UsageError(
            "the result of editing a GGUF file is a new file",
            hint="name it with -o patched.gguf, and drop --in-place and --hard-link",
        )
    return output


def _print_gguf(out: Output, done: GgufResult) -> None:
    for name, entry in sorted(done.errors.items()):
        if entry.relative > LOST:
            out.warn(
                f"rounding to {name} loses {entry.relative:.1%} of the change: check what "
                "the model does, or patch it before it is quantised"
            )
    _notes(out, done.result)
    errors = [_error(name, entry) for name, entry in sorted(done.errors.items())]
    first, *rest = _lines(done.result)
    lines = [first, *errors, *rest]
    out.result(done.to_json(), lambda: print_lines(lines), essence=str(done.result.output))


def _error(name: str, entry: Requantisation) -> str:
    """How far the weights of one format are from what the patch asks for."""
    how = "exact"
    if entry.largest:
        how = (
            f"off by {entry.largest:.3g} at most (RMS {entry.rms:.3g}, "
            f"{entry.relative:.1%} of the change)"
        )
    line = f"{name}: {entry.weights:,} new values in {entry.blocks:,} blocks, {how}"
    if not entry.others:
        return line
    moved = f"moved by {entry.others_moved:.3g} at most" if entry.others_moved else "keep theirs"
    return f"{line}; {entry.others:,} other weights of these blocks {moved}"


def _print(out: Output, result: ApplyResult) -> None:
    _notes(out, result)
    out.result(result.to_json(), lambda: print_lines(_lines(result)), essence=str(result.output))


def _notes(out: Output, result: ApplyResult) -> None:
    # A model that holds the patch already differs from its base by just that.
    if result.action == "apply" and result.drift.unequal and result.changed:
        out.warn("the model is not the patch's base:")
        for sentence in result.drift.sentences():
            out.warn(f"  {sentence}")
    if result.left_out:
        out.note(f"not copied: {', '.join(result.left_out)}")
    for sentence in result.notes:
        out.note(sentence)


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
