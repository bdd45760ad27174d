"""Number formats: safetensors names, NumPy dtypes, and exact edit arithmetic."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from neuropatch.errors import CheckpointError

Array = NDArray[Any]

FLOAT_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
"""Formats whose values can be edited, by their safetensors name."""

INTEGER_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
}
"""Formats of the index columns of a patch."""

ITEM_BITS: dict[str, int] = {
    **{name: dtype.itemsize * 8 for name, dtype in (FLOAT_DTYPES | INTEGER_DTYPES).items()},
    "BOOL": 8,
    "I8": 8,
    "I16": 16,
    "I32": 32,
    "I64": 64,
    "C64": 64,
    "F8_E8M0": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
"""Bits of one element of every format that safetensors defines; checked against the file."""

SCALE_SUFFIXES = ("_scale_inv", "_scale")
"""What the name of a tensor of scales adds to that of the float8 tensor in units of them."""

_NAMES = {dtype: name for name, dtype in (FLOAT_DTYPES | INTEGER_DTYPES).items()}


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The safetensors name of a NumPy dtype, for example ``BF16``."""
    return _NAMES[np.dtype(dtype)]


def float_dtype(name: str, *, what: str) -> np.dtype[Any]:
    """The NumPy dtype of an editable format.

    Args:
        name: A safetensors dtype name.
        what: The tensor that is meant, for the message.

    Raises:
        CheckpointError: If values of that format cannot be edited.
    """
    try:
        return FLOAT_DTYPES[name]
    except KeyError:
        raise CheckpointError(
            f"{what} is stored as {name}, which cannot be edited value by value",
            hint=f"use a checkpoint in one of {', '.join(FLOAT_DTYPES)}",
        ) from None


def smallest_uint(maximum: int) -> np.dtype[Any]:
    """The smallest unsigned integer dtype that holds ``maximum``."""
    return np.dtype(np.min_scalar_type(maximum))


def bits(values: Array) -> Array:
    """The bit pattern of each value, as unsigned integers of the same width.

    Comparing bits tells 0.0 from -0.0 and finds equal NaNs, which ``==`` does not.
    """
    return np.ascontiguousarray(values).view(np.dtype(f"u{values.dtype.itemsize}"))


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The format that edit arithmetic on ``dtype`` runs in: float64 for float64, else float32.

    A product or sum of two values of at most 24 significant bits, computed in float32 and then
    rounded to the narrower format, is what a user who edits the tensor in torch would get.
    """
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def cast(values: Array, dtype: np.dtype[Any]) -> Array:
    """``values`` rounded to ``dtype`` (round to nearest, ties to even)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype)


def is_finite(values: Array) -> bool:
    """Whether no value is infinite or NaN, for every editable format."""
    return bool(np.isfinite(values.astype(compute_dtype(values.dtype), copy=False)).all())
