"""Quantised tensors whose weights cannot be edited one by one, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from neuropatch.errors import CheckpointError

_AGAIN = "apply the patch to the model from before quantisation, then quantise the result"

_DEQUANTISE = (
    "dequantise: load it with transformers, call model.dequantize(), then "
    "model.save_pretrained(FOLDER, save_original_format=False), and apply the patch to FOLDER"
)

_FORMATS: tuple[tuple[str, str, str | None, str, str], ...] = (
    # Ending of the tensor, one that stands beside it, method, name of the format, what to do.
    (".qweight", ".g_idx", None, "GPTQ", _AGAIN),
    (".qweight", ".qzeros", "awq", "AWQ", _AGAIN),
    (".qweight", ".qzeros", None, "packed integers", _AGAIN),
    (".weight", ".weight.absmax", None, "bitsandbytes 4-bit", _DEQUANTISE),
    (".weight", ".SCB", None, "bitsandbytes 8-bit", _DEQUANTISE),
    (".weight_packed", ".weight_scale", None, "compressed-tensors, packed", _AGAIN),
)


def refuse_quantised(
    folder: Path, name: str, dtypes: Mapping[str, str], method: str | None
) -> None:
    """Refuse the tensor of a matrix if it is quantised in a way that cannot be edited.

    Args:
        folder: Folder of the checkpoint.
        name: The name that the tensor of the matrix has, or would have in a plain checkpoint.
        dtypes: Format of each tensor of the checkpoint, by name.
        method: The method that the config declares, if it declares one.

    Raises:
        CheckpointError: Naming the tensor, the format, and what to do.
    """
    stem = name.removesuffix(".weight")
    for ending, beside, wanted, words, hint in _FORMATS:
        tensor = stem + ending
        if {tensor, stem + beside} <= dtypes.keys() and wanted in (None, method):
            raise _refused(folder, tensor, words, dtypes[tensor], hint)
    if method is None:
        return
    found = next((other for other in dtypes if other.startswith(f"{stem}.")), None)
    if found is not None:
        raise _refused(folder, found, method, dtypes[found], _AGAIN)


def _refused(folder: Path, tensor: str, words: str, dtype: str, hint: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: tensor '{tensor}' is quantised ({words}, stored as {dtype}), so its weights "
        "cannot be edited one by one",
        hint=hint,
    )
