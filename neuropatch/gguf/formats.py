"""How the number formats of GGUF store weights, and which values they can take.

A block of a quantised format holds one level a weight (a small integer), and scales which all
levels of the block or of a part of it share: the value is ``scale * level + minimum``. This module
knows where the bits of the levels lie (ggml's ``ggml-common.h`` and ``ggml-quants.c``) and leaves
the scales alone; what a block decodes to is asked of the ``gguf`` package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import gguf
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from neuropatch.errors import CheckpointError
from neuropatch.storage.dtypes import Array, cast
from neuropatch.storage.safetensors_file import TensorInfo

Index = NDArray[np.int64]
Blocks = NDArray[np.uint8]
Values = NDArray[np.float32]

CHUNK_WEIGHTS = 1 << 20
"""How many weights are decoded at a time: it bounds the memory beside the blocks themselves."""


@dataclass(frozen=True)
class Represented:
    """Values as a format can hold them.

    Attributes:
        codes: What is stored for each value, ``[n]``: levels, or the values in a plain format.
        values: What that decodes to, float32 ``[n]``.
        fits: Whether the value lay within the range of its block, bool ``[n]``.
    """

    codes: Array
    values: Values
    fits: NDArray[np.bool_]


class Format(Protocol):
    """A number format: blocks of ``weights`` weights in ``size`` bytes.

    Weight ``i`` of ``n`` is number ``inside[i]`` of block ``which[i]`` (ascending); blocks are
    uint8 ``[m, size]``.
    """

    @property
    def weights(self) -> int:
        """Weights of a block."""

    @property
    def size(self) -> int:
        """Bytes of a block."""

    def values(self, blocks: Blocks, which: Index, inside: Index) -> Values:
        """The values of weights, float32 ``[n]``."""

    def represent(
        self, blocks: Blocks, which: Index, inside: Index, targets: Values
    ) -> Represented:
        """The nearest values that weights can take without a change of their block's scales."""

    def put(self, blocks: Blocks, which: Index, inside: Index, codes: Array) -> Blocks:
        """The blocks with other codes for some weights."""

    def others_moved(self, old: Blocks, new: Blocks, which: Index, inside: Index) -> float:
        """The largest change of a weight that is none of those."""


@dataclass(frozen=True)
class Plain:
    """One floating-point number a weight."""

    dtype: np.dtype[Any]
    weights: int = 1

    @property
    def size(self) -> int:
        """Bytes of a weight."""
        return self.dtype.itemsize

    def values(self, blocks: Blocks, which: Index, inside: Index) -> Values:
        """The numbers."""
        return np.ascontiguousarray(blocks[which]).view(self.dtype).reshape(-1).astype(np.float32)

    def represent(
        self, blocks: Blocks, which: Index, inside: Index, targets: Values
    ) -> Represented:
        """The numbers rounded to the format."""
        codes = cast(targets, self.dtype)
        values = codes.astype(np.float32)
        return Represented(codes, values, np.isfinite(values))

    def put(self, blocks: Blocks, which: Index, inside: Index, codes: Array) -> Blocks:
        """The numbers in place of the old ones."""
        new = blocks.copy()
        new[which] = np.ascontiguousarray(codes).view(np.uint8).reshape(-1, self.size)
        return new

    def others_moved(self, old: Blocks, new: Blocks, which: Index, inside: Index) -> float:
        """Nothing shares a block with another weight."""
        return 0.0


@dataclass(frozen=True)
class Plane:
    """Some bits of all levels of a block.

    The bytes fall into runs of ``width``; bits ``[0, bits)`` of a run's bytes belong to the next
    ``width`` weights, the following bits to the ``width`` weights after those, and so on.

    Attributes:
        start: First byte in the block.
        stop: Byte past the last one.
        width: Bytes of a run.
        bits: Bits of one level that a byte holds.
        shift: Position of those bits in the level.
    """

    start: int
    stop: int
    width: int
    bits: int
    shift: int = 0

    def _shifts(self) -> NDArray[np.uint8]:
        return np.arange(0, 8, self.bits, dtype=np.uint8).reshape(1, 1, -1, 1)

    def get(self, blocks: Blocks) -> NDArray[np.int16]:
        """The bits of every level, in their position in it: int16 ``[m, weights]``."""
        runs = blocks[:, self.start : self.stop].reshape(len(blocks), -1, 1, self.width)
        parts = (runs >> self._shifts()) & np.uint8((1 << self.bits) - 1)
        return parts.reshape(len(blocks), -1).astype(np.int16) << self.shift

    def set(self, blocks: Blocks, levels: NDArray[np.int16]) -> None:
        """Write the bits of every level into the blocks."""
        parts = ((levels >> self.shift) & ((1 << self.bits) - 1)).astype(np.uint8)
        parts = parts.reshape(len(blocks), -1, 8 // self.bits, self.width) << self._shifts()
        packed = np.bitwise_or.reduce(parts, axis=2)
        blocks[:, self.start : self.stop] = packed.reshape(len(blocks), -1)


@dataclass(frozen=True)
class Quantised:
    """Levels in blocks that share scales.

    Attributes:
        kind: The type in ggml.
        planes: Where the bits of the levels lie.
        bits: Bits of a level.
        signed: Whether levels are stored in two's complement.
    """

    kind: gguf.GGMLQuantizationType
    planes: tuple[Plane, ...]
    bits: int
    signed: bool = False

    @property
    def weights(self) -> int:
        """Weights of a block."""
        return gguf.GGML_QUANT_SIZES[self.kind][0]

    @property
    def size(self) -> int:
        """Bytes of a block."""
        return gguf.GGML_QUANT_SIZES[self.kind][1]

    @property
    def highest(self) -> int:
        """The highest level; the lowest is 0."""
        return (1 << self.bits) - 1

    def decode(self, blocks: Blocks) -> Values:
        """The values of blocks, float32 ``[m, weights]``."""
        # As one row: the package goes through rows in Python.
        with np.errstate(over="ignore", invalid="ignore"):
            decoded: Values = gguf.dequantize(blocks.reshape(1, -1), self.kind)
        return decoded.reshape(len(blocks), self.weights)

    def levels(self, blocks: Blocks) -> NDArray[np.int16]:
        """The levels from 0 of blocks, ``[m, weights]``."""
        levels = np.zeros((len(blocks), self.weights), dtype=np.int16)
        for plane in self.planes:
            levels |= plane.get(blocks)
        return levels ^ self._flip

    def with_levels(self, blocks: Blocks, levels: NDArray[np.int16]) -> Blocks:
        """The blocks with their scales and other levels."""
        new = blocks.copy()
        for plane in self.planes:
            plane.set(new, levels ^ self._flip)
        return new

    @property
    def _flip(self) -> np.int16:
        """Bit that turns two's complement into levels from 0, which have the order of values."""
        return np.int16(1 << (self.bits - 1) if self.signed else 0)

    def values(self, blocks: Blocks, which: Index, inside: Index) -> Values:
        """The values of weights, decoded from their blocks."""
        found = np.empty(len(which), dtype=np.float32)
        for part, chosen in self._chunks(which):
            found[part] = self.decode(blocks[chosen])[which[part] - chosen.start, inside[part]]
        return found

    def represent(
        self, blocks: Blocks, which: Index, inside: Index, targets: Values
    ) -> Represented:
        """The nearest levels; a level that is as near as any other stays."""
        codes = np.empty(len(which), dtype=np.int16)
        values = np.empty(len(which), dtype=np.float32)
        fits = np.empty(len(which), dtype=bool)
        for part, chosen in self._chunks(which):
            codes[part], values[part], fits[part] = self._nearest(
                blocks[chosen], which[part] - chosen.start, inside[part], targets[part]
            )
        return Represented(codes, values, fits)

    def put(self, blocks: Blocks, which: Index, inside: Index, codes: Array) -> Blocks:
        """The blocks with other levels for some weights."""
        new = blocks.copy()
        for part, chosen in self._chunks(which):
            levels = self.levels(blocks[chosen])
            levels[which[part] - chosen.start, inside[part]] = codes[part]
            new[chosen] = self.with_levels(blocks[chosen], levels)
        return new

    def others_moved(self, old: Blocks, new: Blocks, which: Index, inside: Index) -> float:
        """The largest change of a weight that is none of those."""
        largest = 0.0
        for part, chosen in self._chunks(which):
            moved = np.abs(self.decode(new[chosen]) - self.decode(old[chosen]))
            moved[which[part] - chosen.start, inside[part]] = 0
            largest = max(largest, float(moved.max()))
        return largest

    def _chunks(self, which: Index) -> Iterator[tuple[slice, slice]]:
        """Runs of weights with the blocks they lie in, a bounded number at a time."""
        if not which.size:
            return
        step = CHUNK_WEIGHTS // self.weights
        for first in range(0, int(which[-1]) + 1, step):
            start, stop = np.searchsorted(which, [first, first + step])
            if start < stop:
                yield slice(start, stop), slice(first, min(first + step, int(which[-1]) + 1))

    def _nearest(
        self, blocks: Blocks, which: Index, inside: Index, targets: Values
    ) -> tuple[NDArray[np.int16], Values, NDArray[np.bool_]]:
        levels = self.levels(blocks)

        def at(candidate: Any) -> NDArray[np.float64]:
            """What the weights decode to at other levels."""
            changed = levels.copy()
            changed[which, inside] = candidate
            return self.decode(self.with_levels(blocks, changed))[which, inside].astype(np.float64)

        ends = at(0), at(self.highest)
        best = levels[which, inside]
        values = at(best)
        target = targets.astype(np.float64)
        step = (ends[1] - ends[0]) / self.highest
        # A scale of 0 makes all levels equal; the one that is there stays.
        with np.errstate(divide="ignore", invalid="ignore"):
            guess = np.where(step == 0, best, np.rint((target - ends[0]) / step))
        error = np.abs(values - target)
        # Values are rounded to float32 after the scale is applied, so the neighbours are tried.
        for shift in (0, -1, 1):
            candidate = np.clip(guess + shift, 0, self.highest).astype(np.int16)
            there = at(candidate)
            nearer = np.abs(there - target) < error
            best = np.where(nearer, candidate, best)
            values = np.where(nearer, there, values)
            error = np.where(nearer, np.abs(there - target), error)
        # Half a step, and the rounding of decoded values to float32.
        slack = np.spacing(np.maximum(np.abs(values), np.abs(target)).astype(np.float32))
        return best, values.astype(np.float32), error <= np.abs(step) / 2 + 2 * slack


_TYPES = gguf.GGMLQuantizationType

FORMATS: dict[str, Format] = {
    "F32": Plain(np.dtype(np.float32)),
    "F16": Plain(np.dtype(np.float16)),
    "BF16": Plain(np.dtype(ml_dtypes.bfloat16)),
    "Q4_0": Quantised(_TYPES.Q4_0, (Plane(2, 18, 16, 4),), 4),
    "Q4_1": Quantised(_TYPES.Q4_1, (Plane(4, 20, 16, 4),), 4),
    "Q5_0": Quantised(_TYPES.Q5_0, (Plane(6, 22, 16, 4), Plane(2, 6, 1, 1, 4)), 5),
    "Q5_1": Quantised(_TYPES.Q5_1, (Plane(8, 24, 16, 4), Plane(4, 8, 1, 1, 4)), 5),
    "Q8_0": Quantised(_TYPES.Q8_0, (Plane(2, 34, 32, 8),), 8, signed=True),
    "Q2_K": Quantised(_TYPES.Q2_K, (Plane(16, 80, 32, 2),), 2),
    "Q3_K": Quantised(_TYPES.Q3_K, (Plane(32, 96, 32, 2), Plane(0, 32, 32, 1, 2)), 3),
    "Q4_K": Quantised(_TYPES.Q4_K, (Plane(16, 144, 32, 4),), 4),
    "Q5_K": Quantised(_TYPES.Q5_K, (Plane(48, 176, 32, 4), Plane(16, 48, 32, 1, 4)), 5),
    "Q6_K": Quantised(_TYPES.Q6_K, (Plane(0, 128, 64, 4), Plane(128, 192, 32, 2, 4)), 6),
}
"""The formats whose weights can be edited, by their name in ggml."""


def format_of(info: TensorInfo) -> Format:
    """The format of a tensor.

    Raises:
        CheckpointError: If its weights cannot be edited.
    """
    try:
        return FORMATS[info.dtype]
    except KeyError:
        raise CheckpointError(
            f"tensor '{info.name}' is stored as {info.dtype}, whose weights cannot be edited",
            hint=f"use a file in one of {', '.join(FORMATS)}",
        ) from None
