"""GGUF files: a strict reader of the header, with byte offsets.

Layout of the format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic, version,
number of tensors, number of metadata entries, the entries, what each tensor is, padding, and the
tensors. A header is untrusted input: every count, length, offset and name is checked here before
any of it is used. The reader of the ``gguf`` package trusts them, and keeps an array for every
token of the vocabulary.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from neuropatch.checkpoint.index import reading
from neuropatch.errors import CheckpointError, UsageError
from neuropatch.storage.safetensors_file import TensorInfo

try:
    import gguf
except ModuleNotFoundError as error:
    raise UsageError(
        "GGUF files need the package gguf", hint="pip install 'neuropatch[gguf]'"
    ) from error

MAGIC = b"GGUF"
VERSIONS = (2, 3)

MAX_TEXT = 1 << 16
"""Bytes of a name or a text that is kept; longer texts, such as chat templates, are passed over."""

MAX_RANK = 4
"""The most dimensions that ggml knows."""

ARRAY, TEXT = 9, 8

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip

Scalar = int | float | bool | str


@dataclass(frozen=True)
class GgufFile:
    """The checked header of a GGUF file.

    Attributes:
        path: The file, as it was named.
        metadata: Numbers and short texts by key; arrays are left out.
        lengths: Number of entries of each array of the metadata, by key.
        tensors: The tensors by name; ``dtype`` is the name of the type in ggml, such as ``Q4_K``,
            and ``shape`` has the slowest dimension first, as in transformers (the file has it
            last).
        size: Bytes of the file.
    """

    path: Path
    metadata: Mapping[str, Scalar]
    lengths: Mapping[str, int]
    tensors: Mapping[str, TensorInfo]
    size: int

    @classmethod
    def open(cls, path: str | Path) -> GgufFile:
        """Read and check a header; no weight is read.

        Raises:
            CheckpointError: If it is no GGUF file, or its header is cut off or lies about it.
        """
        path = Path(path)
        with reading(), path.open("rb", buffering=1 << 20) as file:
            return _Header(path, file).read()


class _Header:
    """A position in a header, and the checks of what is read there."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self.left = self.size

    def read(self) -> GgufFile:
        """The whole header."""
        if self.size < 24 or self.take(4) != MAGIC:
            raise self.corrupt("it does not begin like one")
        version = self.number("<I")
        if version not in VERSIONS:
            other = " (or is one for big-endian machines)" if version % (1 << 16) == 0 else ""
            raise CheckpointError(
                f"{self.path} has version {version} of GGUF{other}; "
                f"{' and '.join(map(str, VERSIONS))} are known",
                hint="convert the model again with a current llama.cpp",
            )
        tensors, entries = self.number("<Q"), self.number("<Q")
        # The smallest tensor and the smallest entry take this many bytes.
        if tensors * 32 + entries * 13 > self.left:
            raise self.corrupt(f"it claims {tensors} tensors and {entries} entries of metadata")
        metadata, lengths = self._metadata(entries)
        claims = [self._claim() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise self.corrupt(f"its alignment is {alignment!r}")
        begin = self.size - self.left
        begin += -begin % alignment
        found = [self._tensor(claim, begin, alignment) for claim in claims]
        self._check_overlaps(found)
        return GgufFile(
            self.path, metadata, lengths, {info.name: info for info in found}, self.size
        )

    def _metadata(self, entries: int) -> tuple[dict[str, Scalar], dict[str, int]]:
        metadata: dict[str, Scalar] = {}
        lengths: dict[str, int] = {}
        for _ in range(entries):
            key = self.name()
            if key in metadata or key in lengths:
                raise self.corrupt(f"its metadata has '{key}' twice")
            kind = self.number("<I")
            if kind == ARRAY:
                lengths[key] = self.pass_array()
            elif kind == TEXT:
                metadata[key] = self.text()
            else:
                metadata[key] = self.scalar(kind)
        return metadata, lengths

    def _claim(self) -> tuple[str, list[int], int, int]:
        """What the header says of a tensor: name, dimensions, type and offset."""
        name = self.name()
        rank = self.number("<I")
        if rank > MAX_RANK:
            raise self.corrupt(f"tensor '{name}' has {rank} dimensions")
        dimensions = [self.number("<Q") for _ in range(rank)]
        return name, dimensions, self.number("<I"), self.number("<Q")

    def _tensor(self, claim: tuple[str, list[int], int, int], begin: int, align: int) -> TensorInfo:
        name, dimensions, number, offset = claim
        try:
            kind = gguf.GGMLQuantizationType(number)
        except ValueError:
            raise CheckpointError(
                f"{self.path}: tensor '{name}' has type {number}, which is not known",
                hint="pip install --upgrade gguf",
            ) from None
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = math.prod(dimensions)
        if not dimensions or count == 0 or dimensions[0] % block:
            raise self.corrupt(f"tensor '{name}' of {kind.name} has the dimensions {dimensions}")
        start, length = begin + offset, count // block * size
        if offset % align or start + length > self.size:
            raise self.corrupt(
                f"tensor '{name}' lies at {start}..{start + length} of {self.size} bytes"
            )
        return TensorInfo(name, kind.name, tuple(reversed(dimensions)), start, start + length)

    def _check_overlaps(self, tensors: list[TensorInfo]) -> None:
        """Overlapping tensors would let one edit change another tensor."""
        if len({info.name for info in tensors}) != len(tensors):
            raise self.corrupt("it has two tensors of one name")
        position = 0
        for info in sorted(tensors, key=lambda info: info.start):
            if info.start < position:
                raise self.corrupt(f"tensor '{info.name}' overlaps another one")
            position = info.stop

    # Pieces ----------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self._count(count)
        data = self.file.read(count)
        if len(data) < count:
            raise self.corrupt("it was cut while it was read")
        return data

    def skip(self, count: int) -> None:
        """Go past bytes."""
        self._count(count)
        self.file.seek(count, os.SEEK_CUR)

    def _count(self, count: int) -> None:
        if count > self.left:
            raise self.corrupt("its header runs past the end of the file")
        self.left -= count

    def number(self, form: str) -> int:
        """A whole number."""
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def name(self) -> str:
        """The key of an entry, or the name of a tensor."""
        length = self.number("<Q")
        if not 0 < length < MAX_TEXT:
            raise self.corrupt(f"a name in it is {length} bytes long")
        return self._decoded(length)

    def text(self) -> str:
        """A text; an empty one for a text that is too long to be kept."""
        length = self.number("<Q")
        if length >= MAX_TEXT:
            self.skip(length)
            return ""
        return self._decoded(length)

    def _decoded(self, length: int) -> str:
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise self.corrupt("a text in it is not UTF-8") from None

    def scalar(self, kind: int) -> Scalar:
        """A number or truth value."""
        form = self._form(kind)
        value: Scalar = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def pass_array(self) -> int:
        """Go past an array; returns its length."""
        kind, length = self.number("<I"), self.number("<Q")
        if kind != TEXT:
            self.skip(length * struct.calcsize(self._form(kind)))
            return length
        if length * 8 > self.left:
            raise self.corrupt(f"it claims a list of {length} texts")
        for _ in range(length):
            self.skip(self.number("<Q"))
        return length

    def _form(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.corrupt(f"its metadata holds a value of type {kind}")
        return _SCALARS[kind]

    def corrupt(self, why: str) -> CheckpointError:
        """The error that says what is wrong with the file."""
        return CheckpointError(
            f"{self.path} is not a valid GGUF file: {why}", hint="download or convert it again"
        )
