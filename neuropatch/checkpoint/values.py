"""Single values of a tensor in a file: read and written at their byte offsets.

Values that lie close together are read in one piece, so that a patch of whole columns or of most
of a tensor costs few system calls, and a sparse one few bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuropatch.errors import CheckpointError
from neuropatch.storage.dtypes import Array
from neuropatch.storage.safetensors_file import TensorInfo

GAP_BYTES = 4096
"""Values at most this far apart are read in one piece: the kernel reads whole pages anyway."""

PIECE_BYTES = 1 << 20
"""The largest piece; it bounds the memory beside the values themselves."""

Index = NDArray[np.int64]


def read_values(file: int, info: TensorInfo, dtype: np.dtype[Any], offsets: Index) -> Array:
    """Read values of a tensor.

    Args:
        file: Descriptor of the shard, open for reading.
        info: The tensor.
        dtype: Its NumPy dtype.
        offsets: Positions in the flattened tensor, sorted and unique, ``[n]``.

    Returns:
        The values there, ``[n]``.

    Raises:
        CheckpointError: If the file ends before a value.
    """
    values = np.empty(len(offsets), dtype=dtype)
    own = values.view(np.uint8).data
    size = dtype.itemsize
    for run, first, count in _pieces(offsets, size):
        position = info.start + first * size
        if run.stop - run.start == count:
            _read(file, own[run.start * size : run.stop * size], position, info)
        else:
            piece = np.empty(count, dtype=dtype)
            _read(file, piece.view(np.uint8).data, position, info)
            values[run] = piece[offsets[run] - first]
    return values


def write_values(file: int, info: TensorInfo, offsets: Index, values: Array) -> None:
    """Write values of a tensor; bytes between them are written back as they were.

    Args:
        file: Descriptor of the shard, open for reading and writing, with no other writer.
        info: The tensor.
        offsets: Positions in the flattened tensor, sorted and unique, ``[n]``.
        values: What to write there, ``[n]`` in the tensor's dtype.
    """
    values = np.ascontiguousarray(values)
    own = values.view(np.uint8).data
    size = values.dtype.itemsize
    for run, first, count in _pieces(offsets, size):
        position = info.start + first * size
        if run.stop - run.start == count:
            _write(file, own[run.start * size : run.stop * size], position)
        else:
            piece = np.empty(count, dtype=values.dtype)
            _read(file, piece.view(np.uint8).data, position, info)
            piece[offsets[run] - first] = values[run]
            _write(file, piece.view(np.uint8).data, position)


def read_halves(file: int, info: TensorInfo, offsets: Index) -> Array:
    """Read 4-bit numbers that lie two in a byte, the first in the lower half.

    Args:
        file: Descriptor of the shard, open for reading.
        info: The tensor, of bytes.
        offsets: Positions in the flattened tensor of numbers, sorted and unique, ``[n]``.

    Returns:
        The numbers, uint8 ``[n]``, each below 16.
    """
    places, where = np.unique(offsets // 2, return_inverse=True)
    whole = read_values(file, info, np.dtype(np.uint8), places)[where]
    return np.where(offsets % 2, whole >> 4, whole & 0x0F)


def unpack_halves(whole: Array) -> Array:
    """All 4-bit numbers of bytes ``[n]``, the lower half of each first: uint8 ``[2 n]``."""
    return np.stack([whole & 0x0F, whole >> 4], axis=1).reshape(-1)


def write_halves(file: int, info: TensorInfo, offsets: Index, numbers: Array) -> None:
    """Write 4-bit numbers; the other halves of their bytes are written back as they were.

    Args:
        file: Descriptor of the shard, open for reading and writing, with no other writer.
        info: The tensor, of bytes.
        offsets: Positions in the flattened tensor of numbers, sorted and unique, ``[n]``.
        numbers: What to write there, uint8 ``[n]``, each below 16.
    """
    places, where = np.unique(offsets // 2, return_inverse=True)
    whole = read_values(file, info, np.dtype(np.uint8), places)
    # Of each half apart: an index that occurs twice in one assignment counts once.
    low, high = offsets % 2 == 0, offsets % 2 == 1
    whole[where[low]] = whole[where[low]] & 0xF0 | numbers[low]
    whole[where[high]] = whole[where[high]] & 0x0F | numbers[high] << 4
    write_values(file, info, places, whole)


def _pieces(offsets: Index, item_size: int) -> Iterator[tuple[slice, int, int]]:
    """Runs of offsets handled in one piece: the run, its first offset, and the piece's length."""
    gaps = np.diff(offsets) * item_size > GAP_BYTES
    bounds = np.diff(offsets // (PIECE_BYTES // item_size)) != 0
    edges = [0, *(np.flatnonzero(gaps | bounds) + 1).tolist(), len(offsets)]
    for start, stop in pairwise(edges):
        first = int(offsets[start])
        yield slice(start, stop), first, int(offsets[stop - 1]) - first + 1


def _read(file: int, buffer: memoryview, position: int, info: TensorInfo) -> None:
    done = 0
    while done < len(buffer):
        count = os.preadv(file, [buffer[done:]], position + done)
        if count == 0:
            raise CheckpointError(
                f"the file of tensor '{info.name}' ends at byte {position + done}",
                hint="it was cut while it was read; download or export it again",
            )
        done += count


def _write(file: int, buffer: memoryview, position: int) -> None:
    done = 0
    while done < len(buffer):
        done += os.pwrite(file, buffer[done:], position + done)
