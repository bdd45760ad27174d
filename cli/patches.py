"""``neuropatch inspect``, ``combine`` and ``diff``: patches themselves."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from . import options
from .localize import check_patch_output
from .output import Output, print_lines
from .views import patch_lines, patch_summary

INSPECT_EPILOG = options.examples(
    "neuropatch inspect spin.safetensors", "neuropatch inspect user/patch --json"
)
COMBINE_EPILOG = options.examples(
    "neuropatch combine union phones.safetensors emails.safetensors -o both.safetensors",
    "neuropatch combine difference a.safetensors b.safetensors -o only-a.safetensors",
)
DIFF_EPILOG = options.examples("neuropatch diff base-model fine-tuned-model -o delta.safetensors")


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
    """Show what a patch edits, by layer and role, and where it comes from."""
    from neuropatch.patch.patch import NeuronPatch

    found = NeuronPatch.from_pretrained(patch)
    document = {
        **patch_summary(found),
        "inverted": found.inverted,
        "metadata": found.metadata.to_json(),
    }
    Output(json, quiet).result(document, lambda: print_lines(patch_lines(found)))


def combine(
    operation: Annotated[Operation, typer.Argument(help="union, intersection or difference.")],
    patches: options.PatchesArgument,
    output: options.PatchOutput,
    on_conflict: Annotated[
        OnConflict, typer.Option(help="For union: which patch counts where they disagree.")
    ] = OnConflict.error,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Combine patches of one base model into one.

    union makes all their edits, intersection those that all of them make, difference those of
    the first patch at weights that no other one edits.
    """
    from neuropatch.errors import SelectionError, UsageError
    from neuropatch.patch import algebra
    from neuropatch.patch.patch import NeuronPatch

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
    combined.save(output)
    Output(json, quiet).result(
        {"patch": str(output), **patch_summary(combined)},
        lambda: print_lines([*patch_lines(combined), f"wrote {output}"]),
        essence=str(output),
    )


def diff(
    base: options.ModelArgument,
    model: options.ModelArgument,
    output: options.PatchOutput,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the difference of two checkpoints as a patch of the first."""
    from neuropatch.checkpoint.diff import diff_checkpoints
    from neuropatch.hub.resolve import resolve_model

    check_patch_output(output)
    out = Output(json, quiet)
    found = diff_checkpoints(resolve_model(base).folder, resolve_model(model).folder)
    found.patch.save(output)
    if found.outside:
        out.warn(
            f"{len(found.outside)} tensors differ that no patch can carry, such as "
            f"'{found.outside[0]}'"
        )
    out.result(
        {"patch": str(output), "outside": list(found.outside), **patch_summary(found.patch)},
        lambda: print_lines([*patch_lines(found.patch), f"wrote {output}"]),
        essence=str(output),
    )
