"""Where a checkpoint holds a matrix, and reading and writing weights there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from neuropatch.checkpoint.scales import FLOAT4, Scaled
from neuropatch.checkpoint.values import (
    Index,
    read_halves,
    read_values,
    write_halves,
    write_values,
)
from neuropatch.errors import PatchMismatchError
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import TensorSlot
from neuropatch.storage.dtypes import Array
from neuropatch.storage.safetensors_file import TensorInfo


@dataclass(frozen=True)
class Location:
    """Where a checkpoint holds a matrix.

    Attributes:
        matrix: The matrix.
        shard: Name of the file.
        info: The tensor in it.
        slot: Where in the tensor the matrix lies.
        dtype: Format of its weights; float32 where the file holds them in units of scales.
        scaled: The scales, or None if the file holds the weights themselves.
    """

    matrix: MatrixId
    shard: str
    info: TensorInfo
    slot: TensorSlot
    dtype: np.dtype[Any]
    scaled: Scaled | None = None

    @property
    def stored(self) -> np.dtype[Any]:
        """Format of what the file holds."""
        return self.dtype if self.scaled is None else self.scaled.stored

    @property
    def packed(self) -> bool:
        """Whether the file holds two numbers in a byte."""
        return bool(self.stored == FLOAT4)

    def bytes_of(self, count: int) -> int:
        """How many bytes hold so many weights."""
        return (count + 1) // 2 if self.packed else count * self.stored.itemsize

    def encode(self, weights: Array, offsets: Index) -> Array:
        """What the file holds for weights, ``[n]`` in the stored format.

        Args:
            weights: Weights ``[n]``, in :attr:`dtype`.
            offsets: Their positions in the flattened tensor, ``[n]``.
        """
        return weights if self.scaled is None else self.scaled.encode(weights, offsets)

    def decode(self, numbers: Array, offsets: Index) -> Array:
        """The weights ``[n]`` in :attr:`dtype` of what the file holds; inverts :meth:`encode`."""
        return numbers if self.scaled is None else self.scaled.decode(numbers, offsets)

    def rounded(self, weights: Array, offsets: Index) -> Array:
        """The weights that the file can hold which are nearest to some, ``[n]``."""
        return self.decode(self.encode(weights, offsets), offsets)

    def check_range(self, weights: Array, offsets: Index) -> None:
        """Refuse weights that scales cannot reach.

        Raises:
            PatchMismatchError: Naming the largest one.
        """
        if self.scaled is None:
            return
        beyond = self.scaled.beyond(weights, offsets)
        if not beyond.any():
            return
        worst = int(np.argmax(np.where(beyond, np.abs(weights), 0)))
        largest = float(self.scaled.largest(offsets[worst : worst + 1])[0])
        raise PatchMismatchError(
            f"{self.matrix}: the edit gives a weight of {float(weights[worst]):.4g}, and with its "
            f"scale in '{self.scaled.info.name}' the file holds {largest:.4g} there at most",
            hint="dequantise the checkpoint, and apply the patch to that",
        )

    def read_stored(self, file: int, offsets: Index) -> Array:
        """What the file holds at sorted, unique positions, ``[n]`` in the stored format."""
        if self.packed:
            return read_halves(file, self.info, offsets).view(FLOAT4)
        return read_values(file, self.info, self.stored, offsets)

    def read(self, file: int, offsets: Index) -> Array:
        """The weights at sorted, unique positions of the flattened tensor.

        Args:
            file: Descriptor of the shard, open for reading.
            offsets: Positions, ``[n]``.

        Returns:
            Weights ``[n]`` in :attr:`dtype`.
        """
        return self.decode(self.read_stored(file, offsets), offsets)

    def write_stored(self, file: int, offsets: Index, numbers: Array) -> None:
        """Write numbers in the stored format to sorted, unique positions."""
        if self.packed:
            write_halves(file, self.info, offsets, numbers.view(np.uint8))
        else:
            write_values(file, self.info, offsets, numbers)
