"""A definition bound to a model's sizes: from coordinates to places in tensors, and back.

NumPy only; serves files and module trees alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuropatch.errors import ArchitectureError
from neuropatch.models.binding import bind_dimensions, bind_layers, flattened, own_config
from neuropatch.models.coordinates import DENSE, ROLES, BlockId, MatrixId
from neuropatch.models.definition import (
    ArchitectureDefinition,
    Fused,
    RoleDefinition,
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
        flat: Whether the first axis runs over the rows of all experts, one after the other.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    stored_shape: tuple[int, ...]
    transposed: bool
    expert: int | None
    row_map: RowMap | None
    flat: bool = False

    @property
    def expert_shape(self) -> tuple[int, int]:
        """Shape of what the tensor holds of one expert, or of the whole tensor."""
        height, width = self.stored_shape[-2:]
        if self.flat:
            height = (self.shape[::-1] if self.transposed else self.shape)[0]
        return height, width

    def offsets(self, rows: Index, columns: Index) -> Index:
        """Positions in the flattened tensor (C order) of weights ``(row, column)``."""
        if self.row_map is not None:
            rows = self.row_map.rows(rows)
        height, width = self.expert_shape
        flat = columns * width + rows if self.transposed else rows * width + columns
        return flat if self.expert is None else flat + self.expert * height * width

    def find(self, offsets: Index) -> tuple[NDArray[np.bool_], Index, Index]:
        """The inverse of :meth:`offsets` for any positions of the tensor.

        Args:
            offsets: Positions in the flattened tensor, ``[n]``.

        Returns:
            Which positions are the matrix's, ``[n]``, and the row and column of each of those.
        """
        height, width = self.expert_shape
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
        layers: Indices of the layers of each kind, in models whose layers differ (``sparse``:
            those with experts).
    """

    model_type: str
    dimensions: Mapping[str, int]
    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def differences(self, other: Signature) -> list[str]:
        """What differs, in words; the vocabulary may, since fine-tunes add tokens."""
        found = []
        if self.model_type != other.model_type:
            found.append(f"model type {self.model_type} against {other.model_type}")
        for name in sorted({*self.dimensions, *other.dimensions} - {"vocabulary"}):
            mine, theirs = self.dimensions.get(name), other.dimensions.get(name)
            if mine != theirs:
                found.append(f"{name} {mine} against {theirs}")
        for kind in sorted({*self.layers, *other.layers}):
            if self.layers.get(kind) != other.layers.get(kind):
                found.append(f"the {kind} layers")
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
        return cls(definition, bind(definition, *own_config(definition, config)))

    @classmethod
    def from_signature(cls, signature: Signature) -> Layout:
        """Bind a patch's recorded sizes.

        Raises:
            ArchitectureError: If the architecture is unknown, or a size is missing.
        """
        definition = definition_for(signature.model_type)
        missing = set(definition.dimensions) - set(signature.dimensions)
        missing |= set(definition.layer_sets) - set(signature.layers)
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
            if role in wanted and self._find(block, role) is not None
        ]

    def shape(self, matrix: MatrixId) -> tuple[int, int]:
        """``(out, in)`` of a matrix.

        Raises:
            ArchitectureError: If the architecture has no such matrix.
        """
        return self._shape(self._role(matrix))

    def disk(self, matrix: MatrixId) -> TensorSlot:
        """Where a checkpoint file usually holds the matrix."""
        return self.on_disk(matrix)[0]

    def on_disk(self, matrix: MatrixId) -> list[TensorSlot]:
        """Every place where a checkpoint may hold the matrix, the usual one first.

        The last is that of a model in memory: a library may save its modules as they are.
        """
        role = self._role(matrix)
        storages = dict.fromkeys((*role.disk, role.memory))
        return [self._slot(matrix, role, storage) for storage in storages]

    def memory(self, matrix: MatrixId) -> TensorSlot:
        """Where a module tree holds the matrix: names of parameters."""
        role = self._role(matrix)
        return self._slot(matrix, role, role.memory)

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
        if stack.experts is None or not self.signature.dimensions.get(stack.experts, 1):
            return 0
        return self._size(stack.experts)

    def _find(self, block: BlockId, role: str) -> RoleDefinition | None:
        """How a block has a role, if it does: attention is the layer's, not an expert's."""
        for one in self._stack(block.stack).roles[role]:
            if (
                one.memory.per_expert == (block.expert != DENSE)
                and (one.inside is None or block.layer in self.signature.layers[one.inside])
                and (one.outside is None or block.layer not in self.signature.layers[one.outside])
                and (one.when is None or self.signature.dimensions[one.when])
                and (one.unless is None or not self.signature.dimensions[one.unless])
            ):
                return one
        return None

    def _role(self, matrix: MatrixId) -> RoleDefinition:
        stack = self._stack(matrix.stack)
        if matrix.role not in stack.roles:
            raise ArchitectureError(
                f"{self.signature.model_type} has no role '{matrix.role}'",
                hint=f"its roles are {', '.join(stack.roles)}",
            )
        layers, experts = self._size(stack.layers), self._experts(stack)
        inside = 0 <= matrix.layer < layers and DENSE <= matrix.expert < experts
        found = self._find(matrix.block, matrix.role) if inside else None
        if found is None:
            raise ArchitectureError(
                f"there is no matrix {matrix} in a model of {layers} layers"
                + (f" with {experts} experts" if experts else ""),
                hint="the coordinates belong to another model",
            )
        return found

    def _shape(self, role: RoleDefinition) -> tuple[int, int]:
        out, into = role.shape
        return self._size(out), self._size(into)

    def _size(self, expression: str) -> int:
        value = evaluate(expression, self.signature.dimensions)
        if value is None:
            raise ArchitectureError(
                f"the architecture signature does not define '{expression}'",
                hint="the patch was not written by neuropatch, or is damaged",
            )
        return value

    def _slot(self, matrix: MatrixId, role: RoleDefinition, storage: Storage) -> TensorSlot:
        out, into = self._shape(role)
        rows, row_map = self._fused(storage.fused) if storage.fused else (out, None)
        stored: tuple[int, ...] = (into, rows) if storage.transposed else (rows, into)
        if storage.stacked:
            experts = self._experts(self._stack(matrix.stack))
            height, width = stored
            stored = (experts * height, width) if storage.flat else (experts, height, width)
        path = storage.path.format(expert=matrix.expert)
        return TensorSlot(
            names=tuple(f"{layer}.{path}" for layer in self.layer_names(matrix.block)),
            shape=(out, into),
            stored_shape=stored,
            transposed=storage.transposed,
            expert=matrix.expert if storage.stacked else None,
            row_map=row_map,
            flat=storage.flat,
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


def bind(
    definition: ArchitectureDefinition, model_type: str, config: Mapping[str, Any]
) -> Signature:
    """The signature of a model from its config.

    Args:
        definition: The definition of its architecture.
        model_type: Its transformers ``model_type``.
        config: The config that its sizes are in.

    Raises:
        ArchitectureError: If a size is neither in the config nor derivable.
    """
    config = flattened({**definition.defaults, **config})
    dimensions = bind_dimensions(definition, config)
    layers = {
        name: bind_layers(layer_set, config, dimensions["layers"])
        for name, layer_set in definition.layer_sets.items()
    }
    return Signature(model_type, dimensions, layers)
