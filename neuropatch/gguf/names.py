"""Which tensor of a GGUF file holds a matrix, and in which order its rows lie there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import gguf
import numpy as np
from numpy.typing import NDArray

from neuropatch.errors import ArchitectureError, CheckpointError
from neuropatch.gguf.file import GgufFile
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.definition import definition_for
from neuropatch.models.layout import Layout, RowMap, Signature
from neuropatch.storage.safetensors_file import TensorInfo

Index = NDArray[np.int64]


class RowOrder(Protocol):
    """Which rows of a tensor are those of a matrix."""

    def rows(self, rows: Index) -> Index:
        """Rows of the tensor for rows of the matrix."""

    def find(self, rows: Index) -> tuple[NDArray[np.bool_], Index]:
        """Which rows of the tensor are the matrix's, and the matrix's row of each of those."""


@dataclass(frozen=True)
class RotaryPairs:
    """The order of the rows of ``q`` and ``k`` in llama.cpp's own architecture.

    Rotary embeddings turn row ``i`` of a head with row ``i + head_dim / 2`` in transformers, and
    with the row after it in llama.cpp, whose converter brings such rows together
    (``LlamaModel.permute`` in ``convert_hf_to_gguf.py``).
    """

    head_dim: int

    def rows(self, rows: Index) -> Index:
        """Rows of the tensor for rows of the matrix."""
        head, inside = np.divmod(rows, self.head_dim)
        half, pair = np.divmod(inside, self.head_dim // 2)
        there: Index = head * self.head_dim + pair * 2 + half
        return there

    def find(self, rows: Index) -> tuple[NDArray[np.bool_], Index]:
        """Every row of the tensor is the matrix's; the matrix's row of each."""
        head, inside = np.divmod(rows, self.head_dim)
        pair, half = np.divmod(inside, 2)
        return np.ones(rows.shape, dtype=bool), (
            head * self.head_dim + half * (self.head_dim // 2) + pair
        )


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp stores the models of some architectures of transformers.

    Attributes:
        model_types: Their ``model_type`` in transformers, the usual one first.
        paired: Whether the rows of ``q`` and ``k`` are in the order of :class:`RotaryPairs`.
    """

    model_types: tuple[str, ...]
    paired: bool = False


ARCHITECTURES = {
    "llama": Architecture(("llama", "mistral"), paired=True),
    "qwen2": Architecture(("qwen2",)),
    "qwen3": Architecture(("qwen3",)),
    "gemma2": Architecture(("gemma2",)),
    "gemma3": Architecture(("gemma3_text",)),
    "phi3": Architecture(("phi3",)),
    "gpt2": Architecture(("gpt2",)),
    "starcoder2": Architecture(("starcoder2",)),
}
"""By ``general.architecture``; each is read back by transformers in the tests."""


@dataclass(frozen=True)
class Place:
    """Where a file holds a matrix.

    Attributes:
        matrix: The matrix.
        info: The tensor, ``[rows, in]``.
        order: Which rows of it are the matrix's, or None for all of them in their order.
        shape: ``(out, in)`` of the matrix.
    """

    matrix: MatrixId
    info: TensorInfo
    order: RowOrder | None
    shape: tuple[int, int]

    def positions(self, rows: Index, columns: Index) -> Index:
        """Positions in the flattened tensor of weights ``(row, column)``."""
        if self.order is not None:
            rows = self.order.rows(rows)
        return rows * self.shape[1] + columns

    def find(self, positions: Index) -> tuple[NDArray[np.bool_], Index, Index]:
        """The inverse: which positions are the matrix's, and the row and column of those."""
        rows, columns = np.divmod(positions, self.shape[1])
        if self.order is None:
            return np.ones(positions.shape, dtype=bool), rows, columns
        mine, rows = self.order.find(rows)
        return mine, rows, columns[mine]


@dataclass(frozen=True)
class GgufModel:
    """A GGUF file with the architecture that its metadata declares.

    Attributes:
        file: The file.
        architecture: How its architecture is stored.
        layout: Its matrices.
    """

    file: GgufFile
    architecture: Architecture
    layout: Layout
    _names: gguf.TensorNameMap

    @classmethod
    def bind(cls, file: GgufFile, model_types: Sequence[str] = ()) -> GgufModel:
        """Read the architecture and its sizes from a file's metadata.

        Args:
            file: The file.
            model_types: What patches call the architecture: where llama.cpp has one architecture
                for several of transformers, the file does not tell which it was.

        Raises:
            ArchitectureError: If the architecture is not one of :data:`ARCHITECTURES`.
            CheckpointError: If the metadata lacks a size.
        """
        name = file.metadata.get("general.architecture")
        if name not in ARCHITECTURES or not isinstance(name, str):
            raise ArchitectureError(
                f"{file.path} has the architecture {name!r}, which cannot be edited in GGUF files",
                hint=f"those that can are {', '.join(ARCHITECTURES)}; edit the safetensors "
                "checkpoint it was made from, then convert the result",
            )
        _refuse_parts(file, name)
        architecture = ARCHITECTURES[name]
        known = [kind for kind in model_types if kind in architecture.model_types]
        model_type = known[0] if known else architecture.model_types[0]
        sizes = _sizes(file, name)
        wanted = definition_for(model_type).dimensions
        signature = Signature(model_type, {key: sizes[key] for key in wanted})
        (kind,) = (key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
        # The map has entries for each layer, and the number of layers is the file's own claim.
        names = gguf.get_tensor_name_map(kind, min(sizes["layers"], len(file.tensors)))
        return cls(file, architecture, Layout.from_signature(signature), names)

    def locate(self, matrix: MatrixId) -> Place:
        """Find the tensor of a matrix.

        Raises:
            ArchitectureError: If the architecture has no such matrix.
            CheckpointError: If the tensor is missing, or has another shape than the metadata says.
        """
        slot = self.layout.disk(matrix)
        names = [self._names.get_name(name.removesuffix(".weight")) for name in slot.names]
        name = f"{next(filter(None, names), matrix)}.weight"
        info = self.file.tensors.get(name)
        if info is None:
            raise CheckpointError(
                f"{self.file.path} has no tensor '{name}' for {matrix}",
                hint="the file is incomplete, or was made by another converter than llama.cpp's",
            )
        # ggml multiplies by rows, whatever transformers does.
        shape = slot.stored_shape[::-1] if slot.transposed else slot.stored_shape
        if info.shape != shape:
            raise CheckpointError(
                f"{self.file.path}: tensor '{name}' has shape {info.shape}, the metadata says "
                f"{shape}",
                hint="the file is damaged, or was made by another converter than llama.cpp's",
            )
        order: RowOrder | RowMap | None = slot.row_map
        if self.architecture.paired and matrix.role in ("q", "k"):
            order = RotaryPairs(self.layout.signature.dimensions["head_dim"])
        return Place(matrix, info, order, slot.shape)


def _refuse_parts(file: GgufFile, name: str) -> None:
    """Refuse what holds the weights of a model otherwise than layer by layer in this file."""
    parts = file.metadata.get("split.count", 1)
    if parts != 1:
        raise CheckpointError(
            f"{file.path} is one of {parts} parts of a model",
            hint="join them with llama-gguf-split --merge",
        )
    experts = file.metadata.get(f"{name}.expert_count", 0)
    if experts:
        raise ArchitectureError(
            f"{file.path} is a mixture of {experts} experts, which cannot be edited in GGUF files",
            hint="edit the safetensors checkpoint it was made from, then convert the result",
        )


def _sizes(file: GgufFile, name: str) -> dict[str, int]:
    """Every dimension of the architecture that a file's metadata tells."""

    def said(key: str, usual: int | None = None) -> int:
        key = f"{name}.{key}"
        value = file.metadata.get(key, usual)
        if key in file.lengths or type(value) is not int or not 0 < value < 1 << 31:
            what = "a list" if key in file.lengths else repr(value)
            raise CheckpointError(
                f"{file.path} says {key} = {what}, which is not a size",
                hint="the file is damaged, or its layers differ in size",
            )
        return value

    hidden, heads = said("embedding_length"), said("attention.head_count")
    head_dim = said("attention.key_length", max(hidden // heads, 1))
    vocabulary = file.lengths.get("tokenizer.ggml.tokens", 0)
    return {
        "layers": said("block_count"),
        "hidden": hidden,
        "intermediate": said("feed_forward_length"),
        "heads": heads,
        "kv_heads": said("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "vocabulary": vocabulary or said("vocab_size", 1),
    }
