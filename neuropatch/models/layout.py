"""A definition bound to a model's sizes: from coordinates to places in tensors, and back.

NumPy only; serves files and module trees alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuropatch.errors import ArchitectureError
from neuropatch.models.coordinates import DENSE, ROLES, BlockId, MatrixId
from neuropatch.models.definition import (
    ArchitectureDefinition,
    Fused,
    StackDefinition,
    Storage,
    definition_for,
    evaluate,
)

Index = NDArray[np.int64]


@dataclass(frozen=True)
class RowMap:
    """Which rows of a fused tensor are a role's.

    Row ``r`` of the role is row ``(r // size) * stride + start + r % size`` of the tensor.
    """

    start: int
    size: int
    stride: int

    def rows(self, rows: Index) -> Index:
        """Rows of the tensor for rows of the role."""
        return (rows // self.size) * self.stride + self.start + rows % self.size

    def find(self, rows: Index) -> tuple[NDArray[np.bool_], Index]:
        """Which rows of the tensor are the role's ``[n]``, and the role's row of each of those."""
        within = rows % self.stride - self.start
        mine = (within >= 0) & (within < self.size)
        return mine, ((rows // self.stride) * self.size + within)[mine]


@dataclass(frozen=True)
class TensorSlot:
    """The place of one matrix inside a stored tensor.

    Attributes:
        names: Names the tensor may have, one for each prefix the architecture is saved under.
        shape: ``(out, in)`` of the matrix.
        stored_shape: Shape of the stored tensor.
        transposed: Whether the tensor holds ``[in, out]``.
        expert: Index on the tensor's first axis, or None.
        row_map: The role's rows of a fused tensor, or None for all rows.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    stored_shape: tuple[int, ...]
    transposed: bool
    expert: int | None
    row_map: RowMap | None

    def offsets(self, rows: Index, columns: Index) -> Index:
        """Positions in the flattened tensor (C order) of weights ``(row, column)``."""
        if self.row_map is not None:
            rows = self.row_map.rows(rows)
        height, width = self.stored_shape[-2:]
        flat = columns * width + rows if self.transposed else rows * width + columns
        return flat if self.expert is None else flat + self.expert * height * width

    def find(self, offsets: Index) -> tuple[NDArray[np.bool_], Index, Index]:
        """The inverse of :meth:`offsets` for any positions of the tensor.

        Args:
            offsets: Positions in the flattened tensor, ``[n]``.

        Returns:
            Which positions are the matrix's, ``[n]``, and the row and column of each of those.
        """
        height, width = self.stored_shape[-2:]
        mine = np.ones(offsets.shape, dtype=bool)
        if self.expert is not None:
            mine = offsets // (height * width) == self.expert
            offsets = offsets[mine] % (height * width)
        rows, columns = np.divmod(offsets, width)
        if self.transposed:
            rows, columns = columns, rows
        if self.row_map is not None:
            inside, rows = self.row_map.find(rows)
            columns = columns[inside]
            mine[mine] = inside
        return mine, rows, columns


@dataclass(frozen=True)
class Signature:
    """What must agree for a patch to name the same weights in another model.

    Attributes:
        model_type: transformers' ``model_type``.
        dimensions: Sizes by name: layers, hidden, intermediate, heads, kv_heads, head_dim,
            experts (mixtures only), vocabulary.
    """

    model_type: str
    dimensions: Mapping[str, int]

    def differences(self, other: Signature) -> list[str]:
        """What differs, in words; the vocabulary may, since fine-tunes add tokens."""
        found = []
        if self.model_type != other.model_type:
            found.append(f"model type {self.model_type} against {other.model_type}")
        for name in sorted({*self.dimensions, *other.dimensions} - {"vocabulary"}):
            mine, theirs = self.dimensions.get(name), other.dimensions.get(name)
            if mine != theirs:
                found.append(f"{name} {mine} against {theirs}")
        return found


@dataclass(frozen=True)
class Layout:
    """An architecture definition with its sizes filled in."""

    definition: ArchitectureDefinition
    signature: Signature

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Layout:
        """Bind the definition of ``config["model_type"]`` to a ``config.json`` document.

        Raises:
            ArchitectureError: If the architecture is unknown or a size is missing.
        """
        model_type = config.get("model_type")
        if not isinstance(model_type, str):
            raise ArchitectureError(
                "the model's config has no model_type", hint="check config.json"
            )
        definition = definition_for(model_type)
        return cls(definition, Signature(model_type, bind_dimensions(definition, config)))

    @classmethod
    def from_signature(cls, signature: Signature) -> Layout:
        """Bind a patch's recorded sizes.

        Raises:
            ArchitectureError: If the architecture is unknown, or a size is missing.
        """
        definition = definition_for(signature.model_type)
        missing = set(definition.dimensions) - set(signature.dimensions)
        if missing:
            raise ArchitectureError(
                f"the architecture signature lacks {', '.join(sorted(missing))}",
                hint="the patch was not written by neuropatch, or is damaged",
            )
        return cls(definition, signature)

    def blocks(self) -> Iterator[BlockId]:
        """Every block, in canonical order: each layer, then its experts if it has any."""
        for stack in self.definition.stacks:
            for layer in range(self._size(stack.layers)):
                for expert in range(DENSE, self._experts(stack)):
                    yield BlockId(stack.name, layer, expert)

    def matrices(self, roles: Iterable[str] = ROLES) -> list[MatrixId]:
        """Every matrix of ``roles``, in canonical order."""
        wanted = set(roles)
        return [
            MatrixId(*block, role)
            for block in self.blocks()
            for role in self._stack(block.stack).roles
            if role in wanted and self._has(block, role)
        ]

    def shape(self, matrix: MatrixId) -> tuple[int, int]:
        """``(out, in)`` of a matrix.

        Raises:
            ArchitectureError: If the architecture has no such matrix.
        """
        stack = self._check(matrix)
        out, into = stack.roles[matrix.role].shape
        return self._size(out), self._size(into)

    def disk(self, matrix: MatrixId) -> TensorSlot:
        """Where a checkpoint file holds the matrix."""
        return self._slot(matrix, self._check(matrix).roles[matrix.role].disk)

    def memory(self, matrix: MatrixId) -> TensorSlot:
        """Where a module tree holds the matrix: names of parameters."""
        return self._slot(matrix, self._check(matrix).roles[matrix.role].memory)

    def layer_names(self, block: BlockId) -> tuple[str, ...]:
        """Names that the block's layer may have, one for each prefix."""
        place = {"layer": block.layer, "expert": block.expert}
        return tuple(prefix.format(**place) for prefix in self._stack(block.stack).prefixes)

    def _stack(self, name: str) -> StackDefinition:
        for stack in self.definition.stacks:
            if stack.name == name:
                return stack
        raise ArchitectureError(
            f"{self.signature.model_type} has no {name} stack",
            hint=f"it has {', '.join(stack.name for stack in self.definition.stacks)}",
        )

    def _experts(self, stack: StackDefinition) -> int:
        return self._size(stack.experts) if stack.experts else 0

    def _has(self, block: BlockId, role: str) -> bool:
        """Whether a block has a role: attention is the layer's, not an expert's."""
        storage = self._stack(block.stack).roles[role].disk
        per_expert = storage.stacked or "{expert}" in storage.path
        return per_expert == (block.expert != DENSE)

    def _check(self, matrix: MatrixId) -> StackDefinition:
        stack = self._stack(matrix.stack)
        if matrix.role not in stack.roles:
            raise ArchitectureError(
                f"{self.signature.model_type} has no role '{matrix.role}'",
                hint=f"its roles are {', '.join(stack.roles)}",
            )
        layers, experts = self._size(stack.layers), self._experts(stack)
        inside = 0 <= matrix.layer < layers and DENSE <= matrix.expert < experts
        if not inside or not self._has(matrix.block, matrix.role):
            raise ArchitectureError(
                f"there is no matrix {matrix} in a model of {layers} layers"
                + (f" with {experts} experts" if experts else ""),
                hint="the coordinates belong to another model",
            )
        return stack

    def _size(self, expression: str) -> int:
        value = evaluate(expression, self.signature.dimensions)
        if value is None:
            raise ArchitectureError(
                f"the architecture signature does not define '{expression}'",
                hint="the patch was not written by neuropatch, or is damaged",
            )
        return value

    def _slot(self, matrix: MatrixId, storage: Storage) -> TensorSlot:
        stack = self._stack(matrix.stack)
        out, into = self.shape(matrix)
        rows, row_map = self._fused(storage.fused) if storage.fused else (out, None)
        stored: tuple[int, ...] = (into, rows) if storage.transposed else (rows, into)
        if storage.stacked:
            stored = (self._experts(stack), *stored)
        path = storage.path.format(expert=matrix.expert)
        return TensorSlot(
            names=tuple(f"{layer}.{path}" for layer in self.layer_names(matrix.block)),
            shape=(out, into),
            stored_shape=stored,
            transposed=storage.transposed,
            expert=matrix.expert if storage.stacked else None,
            row_map=row_map,
        )

    def _fused(self, fused: Fused) -> tuple[int, RowMap]:
        """Total rows of a fused tensor, and one part's rows of it."""
        groups = self._size(fused.groups)
        totals = [self._size(part) for part in fused.parts]
        if any(total % groups for total in totals):
            raise ArchitectureError(
                f"fused parts of {', '.join(map(str, totals))} rows do not fall into "
                f"{groups} equal groups",
                hint="check config.json",
            )
        sizes = [total // groups for total in totals]
        start = sum(sizes[: fused.part])
        return sum(totals), RowMap(start, sizes[fused.part], sum(sizes))


def bind_dimensions(
    definition: ArchitectureDefinition, config: Mapping[str, Any]
) -> dict[str, int]:
    """The sizes of a model from its config.

    Raises:
        ArchitectureError: If a dimension is neither in the config nor derivable.
    """
    sizes: dict[str, int] = {}
    for name, expressions in definition.dimensions.items():
        values = {**config, **sizes}
        found = (evaluate(expression, values) for expression in expressions)
        value = next((value for value in found if value is not None), None)
        if value is None:
            raise ArchitectureError(
                f"the model's config does not say {name} ({' or '.join(expressions)})",
                hint="check config.json",
            )
        sizes[name] = value
    return sizes
