"""Safetensors files: a strict header reader with byte offsets, and a canonical writer.

Layout of the format: 8 bytes little-endian header length, that many bytes of JSON, then the
tensor data. A header is untrusted input: every length, offset, shape and name is checked here
before any of it is used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuropatch.errors import CheckpointError
from neuropatch.storage.dtypes import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    ITEM_BITS,
    Array,
    dtype_name,
)

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself; a longer header is an attack or corruption."""

MAX_RANK = 64
"""The most dimensions that torch and NumPy know."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        name: Its name in the header.
        dtype: Its safetensors dtype name, for example ``BF16``.
        shape: Its shape as stored.
        start: Byte offset of its first value from the start of the *file*.
        stop: Byte offset past its last value.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class SafetensorsHeader:
    """The validated header of one file."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int
    file_size: int


def read_header(path: Path) -> SafetensorsHeader:
    """Read and validate the header of a safetensors file.

    Raises:
        CheckpointError: If the file is missing, cut off, or its header lies about its contents.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            if len(prefix) < 8:
                raise _corrupt(path, f"it is {size} bytes long, too short for a header")
            length = int.from_bytes(prefix, "little")
            if length > MAX_HEADER_BYTES:
                raise _corrupt(path, f"its header claims {length} bytes, more than the limit")
            if length > size - 8:
                raise _corrupt(path, f"its header claims {length} bytes but {size - 8} follow")
            raw = file.read(length)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise CheckpointError(
            f"{path}: no such file", hint="check the path; a safetensors file is expected"
        ) from None
    return _validate(path, _parse_header(path, raw), 8 + length, size)


def read_array(path: Path, info: TensorInfo) -> Array:
    """Read one whole tensor whose format NumPy knows; the array owns its memory."""
    dtype = (FLOAT_DTYPES | INTEGER_DTYPES).get(info.dtype)
    if dtype is None:
        raise _corrupt(path, f"tensor {info.name!r} has the unexpected dtype {info.dtype!r}")
    with path.open("rb") as file:
        file.seek(info.start)
        data = bytearray(info.stop - info.start)
        if file.readinto(data) != len(data):
            raise _corrupt(path, f"tensor {info.name!r} is cut off")
    return np.frombuffer(data, dtype=dtype).reshape(info.shape)


def serialize(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file, the same for the same content.

    Tensors are laid out by descending item size, then by name, so that every tensor is aligned
    to its item size (what the safetensors library does too). Metadata keys are sorted; the
    library leaves their order to chance.
    """
    return b"".join(serialize_parts(tensors, metadata))


def serialize_parts(
    tensors: Mapping[str, Array], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """The same bytes in pieces, without a second copy of the tensors in memory."""
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in order:
        array = tensors[name]
        header[name] = {
            "dtype": dtype_name(array.dtype),
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in order:
        yield np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data


def _corrupt(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a valid safetensors file: {why}",
        hint="download or export the file again",
    )


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Parse an untrusted JSON object more strictly than Python does.

    Refused are names that occur twice, NaN and infinities, and halves of surrogate pairs, which
    could be read but never written again.

    Raises:
        ValueError: Saying what is wrong with it, in words that continue a sentence.
    """
    try:
        document = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
        )
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if isinstance(document, dict):
        return document
    raise ValueError("it is not an object")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        return parse_json(raw)
    except ValueError as error:
        raise _corrupt(path, f"its header is not readable JSON, {error}") from None


def _validate(
    path: Path, header: dict[str, Any], data_start: int, file_size: int
) -> SafetensorsHeader:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _corrupt(path, "its metadata is not a map from names to text")
    tensors = {
        name: _tensor_info(path, name, entry, data_start, file_size - data_start)
        for name, entry in header.items()
    }
    _check_layout(path, tensors.values(), data_start, file_size)
    return SafetensorsHeader(path, tensors, metadata, data_start, file_size)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _tensor_info(path: Path, name: str, entry: Any, data_start: int, data_size: int) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(path, f"the entry of tensor {name!r} is malformed")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise _corrupt(path, f"the dtype of tensor {name!r} is not text")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(map(_is_size, shape)):
        raise _corrupt(path, f"the shape of tensor {name!r} is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise _corrupt(path, f"the offsets of tensor {name!r} are not two positions")
    begin, end = offsets
    if not begin <= end <= data_size:
        raise _corrupt(
            path, f"tensor {name!r} lies at {begin}..{end} but the data is {data_size} bytes long"
        )
    # A format newer than this release may lie untouched in a checkpoint; its size is its own.
    if dtype in ITEM_BITS and math.prod(shape) * ITEM_BITS[dtype] != (end - begin) * 8:
        raise _corrupt(
            path, f"tensor {name!r} of {dtype} {shape} does not fill its {end - begin} bytes"
        )
    return TensorInfo(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _check_layout(
    path: Path, tensors: Iterable[TensorInfo], data_start: int, file_size: int
) -> None:
    """Tensors must tile the data: overlapping ones would let one edit change another tensor."""
    position = data_start
    for info in sorted(tensors, key=lambda info: (info.start, info.stop)):
        if info.start != position:
            raise _corrupt(path, f"tensor {info.name!r} overlaps another one or leaves a gap")
        position = info.stop
    if position != file_size:
        raise _corrupt(path, f"{file_size - position} bytes follow the last tensor")
