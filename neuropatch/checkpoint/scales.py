"""Weights stored as a small number times a scale: float8 and MXFP4 checkpoints.

The weight is ``stored * scale``, whatever the tensor of scales is called: ``weight_scale`` in
compressed-tensors, and ``weight_scale_inv`` in transformers' ``fp8`` and DeepSeek-V3. One scale
serves the whole tensor, a row, or a block of it. In MXFP4 (OCP Microscaling Formats 1.0, section
5.2) it is a power of two for 32 weights, whose 4-bit numbers lie two in a byte, the first in the
lower half.

Patches hold the weights themselves, as float32. That loses nothing: a product of a float8 and a
float32 number, rounded to float32, is within 2^-24 of itself, so that dividing by the scale and
rounding to float8, whose numbers lie 2^-4 apart, gives the stored number back, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from neuropatch.checkpoint.values import Index, read_values
from neuropatch.errors import CheckpointError
from neuropatch.storage.dtypes import FLOAT_DTYPES, Array, cast
from neuropatch.storage.safetensors_file import TensorInfo

FLOAT4 = np.dtype(ml_dtypes.float4_e2m1fn)
"""The format of MXFP4's numbers, one a byte; files hold two in a byte."""

MXFP4_BLOCK = 32
"""How many weights share a scale in MXFP4."""

_STORED = {name: FLOAT_DTYPES[name] for name in ("F8_E4M3", "F8_E5M2")}

_SCALES = {name: FLOAT_DTYPES[name] for name in ("F64", "F32", "F16", "BF16")}

# Bytes that are exponents: 2 ** (byte - 127). Some files call them plain bytes.
_EXPONENTS = ("F8_E8M0", "U8")

_LARGEST = {_STORED["F8_E4M3"]: 448.0, _STORED["F8_E5M2"]: 57344.0, FLOAT4: 6.0}

# The half-way point between the largest number and the one that would follow: what is below is
# rounded to the largest number, as everywhere.
_LIMITS = {_STORED["F8_E4M3"]: 464.0, _STORED["F8_E5M2"]: 61440.0, FLOAT4: 7.0}


@dataclass(frozen=True)
class Scaled:
    """How a tensor's stored numbers and its scales make weights.

    Attributes:
        path: The file that holds the scales.
        info: The tensor of scales.
        stored: Format of the stored numbers.
        shape: Shape of the tensor of weights.
        blocks: How many weights share a scale along each axis.
    """

    path: Path
    info: TensorInfo
    stored: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: tuple[int, ...]

    def decode(self, numbers: Array, offsets: Index) -> Array:
        """The weights that stored numbers stand for.

        Args:
            numbers: Stored numbers ``[n]``.
            offsets: Their positions in the flattened tensor, ``[n]``.

        Returns:
            Weights, float32 ``[n]``.

        Raises:
            CheckpointError: If a scale is no positive finite number.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            weights: Array = numbers.astype(np.float32) * self._at(offsets)
        return weights

    def encode(self, weights: Array, offsets: Index) -> Array:
        """The stored numbers that are nearest to weights; beyond the range, the largest one.

        Args:
            weights: Weights ``[n]``, finite.
            offsets: Their positions in the flattened tensor, ``[n]``.

        Returns:
            Numbers in the stored format, ``[n]``.
        """
        with np.errstate(over="ignore"):
            quotients = weights.astype(np.float32) / self._at(offsets)
        largest = _LARGEST[self.stored]
        return cast(np.clip(quotients, -largest, largest), self.stored)

    def beyond(self, weights: Array, offsets: Index) -> Array:
        """Which weights are larger than what can be stored at their place, ``[n]``."""
        with np.errstate(over="ignore"):
            quotients = weights.astype(np.float32) / self._at(offsets)
        return np.asarray(np.abs(quotients) >= _LIMITS[self.stored])

    def largest(self, offsets: Index) -> Array:
        """The largest weight that can be stored at each position, float32 ``[n]``."""
        return np.asarray(self._at(offsets) * _LARGEST[self.stored], dtype=np.float32)

    def _at(self, offsets: Index) -> Array:
        """The scale of each position, float32 ``[n]``."""
        places, where = np.unique(self._places(offsets), return_inverse=True)
        exponents = self.info.dtype in _EXPONENTS
        dtype = np.dtype(np.uint8) if exponents else _SCALES[self.info.dtype]
        with self.path.open("rb") as file:
            found = read_values(file.fileno(), self.info, dtype, places)
        if exponents:
            # 255 stands for NaN.
            powers = np.ldexp(np.float32(1), found.astype(np.int32) - 127)
            scales = np.where(found == 255, np.float32(np.nan), powers)
        else:
            scales = cast(found, np.dtype(np.float32))
        if not ((scales > 0) & np.isfinite(scales)).all():
            raise CheckpointError(
                f"tensor '{self.info.name}' holds scales that are not positive numbers",
                hint="the checkpoint is damaged; download or export it again",
            )
        return np.asarray(scales[where], dtype=np.float32)

    def _places(self, offsets: Index) -> Index:
        """The position of each weight's scale in the flattened tensor of scales."""
        places = np.zeros_like(offsets)
        rest = offsets
        stride = 1
        for size, block in zip(reversed(self.shape), reversed(self.blocks), strict=True):
            places += rest % size // block * stride
            stride *= math.ceil(size / block)
            rest = rest // size
        return places


def find_scaled(
    folder: Path,
    info: TensorInfo,
    shape: Sequence[int],
    scales: TensorInfo,
    config: Mapping[str, Any],
    *,
    shard: str,
) -> Scaled:
    """How the scales of a float8 tensor serve its weights.

    Args:
        folder: Folder of the checkpoint.
        info: The tensor of weights.
        shape: Its shape.
        scales: The tensor of scales.
        config: The document in ``config.json``, which says how large blocks are.
        shard: Name of the file that holds the scales.

    Raises:
        CheckpointError: If the formats or shapes are none that are understood.
    """
    if info.dtype not in _STORED or scales.dtype not in (*_SCALES, *_EXPONENTS):
        raise CheckpointError(
            f"tensor '{info.name}' is stored as {info.dtype} in units of '{scales.name}' "
            f"({scales.dtype}), a format that neuropatch cannot edit",
            hint="edit the checkpoint from before quantisation, then quantise the result",
        )
    blocks = _blocks(tuple(shape), scales.shape, config)
    if blocks is None:
        raise CheckpointError(
            f"tensor '{scales.name}' has shape {scales.shape}, which does not say which of the "
            f"weights of {tuple(shape)} each of its scales is for",
            hint="check that quantization_config in config.json says how large blocks are",
        )
    return Scaled(folder / shard, scales, _STORED[info.dtype], tuple(shape), blocks)


def mxfp4(folder: Path, scales: TensorInfo, shape: Sequence[int], *, shard: str) -> Scaled:
    """How MXFP4 scales serve a tensor of weights ``[..., n]``: one for 32 of the last axis.

    Raises:
        CheckpointError: If the scales have another format or shape.
    """
    wanted = (*shape[:-1], shape[-1] // MXFP4_BLOCK)
    if scales.dtype not in _EXPONENTS or scales.shape != wanted:
        raise CheckpointError(
            f"tensor '{scales.name}' has shape {scales.shape} of {scales.dtype}, and MXFP4 needs "
            f"{wanted} of bytes",
            hint="download or export the checkpoint again",
        )
    blocks = (*(1 for _ in shape[:-1]), MXFP4_BLOCK)
    return Scaled(folder / shard, scales, FLOAT4, tuple(shape), blocks)


def _blocks(
    shape: tuple[int, ...], scales: tuple[int, ...], config: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """How many weights share a scale along each axis; None if that cannot be told."""
    if math.prod(scales) == 1:
        return shape
    if len(scales) == 1 and scales[0] == shape[0]:
        scales = (*scales, *(1 for _ in shape[1:]))
    if len(scales) != len(shape):
        return None
    found = []
    # Blocks are of the last two axes; one before them counts experts.
    for axis, (size, count) in enumerate(zip(shape, scales, strict=True), start=2 - len(shape)):
        block = _block(size, count, [one[axis] for one in _declared(config)] if axis >= 0 else [])
        if block is None:
            return None
        found.append(block)
    return tuple(found)


def _block(size: int, count: int, declared: Sequence[int]) -> int | None:
    """How many weights share a scale along an axis of ``size`` that has ``count`` of them."""
    if count in (1, size):
        return size // count
    fitting = (block for block in declared if math.ceil(size / block) == count)
    return next(fitting, None if count == 0 or size % count else size // count)


def _declared(config: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Sizes of blocks, rows and columns, that a quantisation config declares."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return
    groups = quantization.get("config_groups")
    weights = [
        group.get("weights")
        for group in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(group, Mapping)
    ]
    found = [quantization.get("weight_block_size")]
    found += [one.get("block_structure") for one in weights if isinstance(one, Mapping)]
    for block in found:
        if (
            isinstance(block, Sequence)
            and len(block) == 2
            and all(type(size) is int and size > 0 for size in block)
        ):
            yield block[0], block[1]
