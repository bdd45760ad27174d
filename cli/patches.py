"""``neuropatch inspect``, ``combine`` and ``diff``: patches themselves."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from . import options
from .output import Output, print_lines
from .patch_output import check_patch_output, save_patch

INSPECT_EPILOG = options.examples(
    "neuropatch inspect spin.safetensors",
    "neuropatch inspect user/patch --json",
    "neuropatch inspect hf://user/patch@v1",
)
COMBINE_EPILOG = options.examples(
    "neuropatch combine union phones.safetensors emails.safetensors -o pii.safetensors",
    "neuropatch combine intersection a.safetensors b.safetensors -o both.safetensors",
    "neuropatch combine difference a.safetensors b.safetensors -o only-a.safetensors",
)
DIFF_EPILOG = options.examples(
    "neuropatch diff base-model fine-tuned-model -o delta.safetensors",
    "neuropatch diff user/base user/fine-tuned@main -o delta.safetensors --json",
)


class Operation(str, Enum):
    """What ``combine`` can do."""

    union = "union"
    intersection = "intersection"
    difference = "difference"


class OnConflict(str, Enum):
    """What counts where patches disagree."""

    error = "error"
    first = "first"
    last = "last"


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("inspect", epilog=INSPECT_EPILOG)(inspect)
    app.command("combine", epilog=COMBINE_EPILOG)(combine)
    app.command("diff", epilog=DIFF_EPILOG)(diff)


def inspect(
    patch: options.PatchArgument,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a patch edits, and where it comes from."""
    out = Output(json, quiet)
    from neuropatch.patch.patch import NeuronPatch

    from .views import patch_lines, patch_summary

    found = NeuronPatch.from_pretrained(patch)
    document = {
        **patch_summary(found),
        "inverted": found.inverted,
        "metadata": found.metadata.to_json(),
    }
    essence = ", ".join(f"{count} {kind}" for kind, count in document["kinds"].items())
    out.result(document, lambda: print_lines(patch_lines(found)), essence=essence or "no edits")


def combine(
    operation: Annotated[
        Operation,
        typer.Argument(help="union, intersection or difference.", metavar="OPERATION"),
    ],
    patches: options.PatchesArgument,
    output: options.PatchOutput,
    on_conflict: Annotated[
        OnConflict,
        typer.Option(
            help="For union: which patch counts where they disagree.",
            metavar="error|first|last",
        ),
    ] = OnConflict.error,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Combine patches of one base model into one.

    union makes all their edits, intersection those that all of them make, difference those of
    the first patch at weights that no other one edits.
    """
    out = Output(json, quiet)
    from neuropatch.errors import SelectionError, UsageError
    from neuropatch.patch import algebra
    from neuropatch.patch.patch import NeuronPatch

    from .views import patch_lines, patch_summary

    check_patch_output(output)
    if len(patches) < 2:
        raise UsageError("one patch is nothing to combine", hint="name at least two")
    loaded = [NeuronPatch.from_pretrained(name) for name in patches]
    if operation is Operation.union:
        combined = algebra.compose(*loaded, on_conflict=on_conflict.value)
    elif operation is Operation.intersection:
        combined = algebra.intersection(*loaded)
    else:
        combined = algebra.difference(*loaded)
    if not len(combined):
        raise SelectionError(
            f"the {operation.value} of the patches is empty", hint="nothing was written"
        )
    save_patch(combined, output)
    out.result(
        {"patch": str(output), **patch_summary(combined)},
        lambda: print_lines([*patch_lines(combined), f"wrote {output}"]),
        essence=str(output),
    )


def diff(
    base: Annotated[
        str, typer.Argument(help="Model that the patch will apply to.", metavar="BASE")
    ],
    model: Annotated[
        str, typer.Argument(help="Model that it will give, of the same shape.", metavar="MODEL")
    ],
    output: options.PatchOutput,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write what differs between two models as a patch.

    Each is a local folder, or user/name[@revision] or hf://user/name on the Hub. The patch gives
    MODEL when it is applied to BASE; it carries matrices of attention and MLP, and other tensors
    that differ are named. Both may be GGUF files.
    """
    out = Output(json, quiet)
    from neuropatch.checkpoint.diff import diff_checkpoints
    from neuropatch.errors import UsageError
    from neuropatch.hub.resolve import gguf_file, resolve_model

    from .views import patch_lines, patch_summary

    check_patch_output(output)
    mine, theirs = gguf_file(base), gguf_file(model)
    if mine and theirs:
        from neuropatch.gguf.diff import diff_gguf

        found = diff_gguf(mine, theirs)
    elif mine or theirs:
        raise UsageError(
            f"{mine or theirs} is a GGUF file, and what it is compared with is none",
            hint="name two GGUF files, or two checkpoints",
        )
    else:
        found = diff_checkpoints(resolve_model(base).folder, resolve_model(model).folder)
    save_patch(found.patch, output)
    if found.not_carried:
        name, how = next(iter(found.not_carried.items()))
        count = len(found.not_carried)
        out.warn(f"{count} tensors differ that the patch does not carry, such as '{name}' ({how})")
    out.result(
        {
            "patch": str(output),
            **patch_summary(found.patch),
            "not_carried": dict(found.not_carried),
        },
        lambda: print_lines([*patch_lines(found.patch), f"wrote {output}"]),
        essence=str(output),
    )
