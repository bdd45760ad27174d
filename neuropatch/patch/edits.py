"""Edits of weights and units: which coordinates, how they change, and what stood there before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuropatch.errors import PatchFormatError, PatchMismatchError
from neuropatch.models.coordinates import DENSE, ROLES, STACKS, BlockId, MatrixId
from neuropatch.storage.dtypes import FLOAT_DTYPES, Array, bits, cast, compute_dtype, is_finite

Index = NDArray[np.int64]

WEIGHT_KINDS: tuple[str, ...] = ("zero", "scale", "set", "add")
"""What can be done to a weight: 0, times a factor, a new value, plus a delta."""

UNIT_KINDS: tuple[str, ...] = ("scale", "steer")
"""What can be done to a unit's activation: times a factor, plus a constant."""

INDEX_LIMIT = 1 << 31
"""Every index is below this, so that a row and a column fit one integer."""


def _same(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and bool((bits(a) == bits(b)).all())


def _check_block(block: BlockId) -> None:
    inside = 0 <= block.layer < INDEX_LIMIT and DENSE <= block.expert < INDEX_LIMIT
    if block.stack not in STACKS or not inside:
        raise PatchFormatError(f"there can be no block {block}", hint="the patch is damaged")


def _check_indices(what: str, *indices: Index) -> None:
    for index in indices:
        if index.dtype != np.int64 or index.ndim != 1 or not index.size:
            raise PatchFormatError(
                f"{what}: indices are {index.dtype} {index.shape}, expected int64 (n,), n > 0",
                hint="the patch is damaged",
            )
        if index.min() < 0 or index.max() >= INDEX_LIMIT:
            raise PatchFormatError(
                f"{what}: an index is negative or beyond any model", hint="the patch is damaged"
            )


def _check_values(what: str, name: str, values: Array, shape: tuple[int, ...]) -> None:
    if values.dtype not in FLOAT_DTYPES.values():
        raise PatchFormatError(
            f"{what}: '{name}' has dtype {values.dtype}",
            hint=f"values are stored as one of {', '.join(FLOAT_DTYPES)}",
        )
    if values.shape != shape:
        raise PatchFormatError(
            f"{what}: '{name}' has shape {values.shape}, expected {shape}",
            hint="the patch is damaged; get it again",
        )
    if not is_finite(values):
        raise PatchFormatError(
            f"{what}: '{name}' holds NaN or infinite values",
            hint="the patch is damaged, or was made from a damaged model",
        )


@dataclass(frozen=True, eq=False)
class WeightEdit:
    """One kind of edit on weights of one matrix.

    Attributes:
        matrix: The matrix ``W``, seen as ``[out, in]``.
        kind: One of :data:`WEIGHT_KINDS`.
        rows: Output index of each weight, int64 ``[n]``.
        columns: Input index of each weight, int64 ``[n]``; pairs are unique and sorted by row,
            then column.
        before: The base model's values there, ``[n]`` in the base's dtype.
        value: The parameter: nothing for ``zero``; factors or deltas ``[n]`` in float32 (float64
            for a float64 base); the new values ``[n]`` in the base's dtype for ``set``.
    """

    matrix: MatrixId
    kind: str
    rows: Index
    columns: Index
    before: Array
    value: Array | None = None

    def __post_init__(self) -> None:
        what = f"{self.kind} edit of {self.matrix}"
        if self.kind not in WEIGHT_KINDS:
            raise PatchFormatError(
                f"{self.matrix}: unknown edit kind '{self.kind}'",
                hint=f"this version knows {', '.join(WEIGHT_KINDS)}",
            )
        if self.matrix.role not in ROLES:
            raise PatchFormatError(f"{what}: unknown role", hint=f"roles are {', '.join(ROLES)}")
        _check_block(self.matrix.block)
        _check_indices(what, self.rows, self.columns)
        if self.rows.shape != self.columns.shape:
            raise PatchFormatError(
                f"{what}: rows and columns do not pair up", hint="the patch is damaged"
            )
        keys = self.keys
        if not (keys[1:] > keys[:-1]).all():
            raise PatchFormatError(
                f"{what}: coordinates are not sorted, or occur twice", hint="the patch is damaged"
            )
        _check_values(what, "before", self.before, self.rows.shape)
        if (self.value is None) != (self.kind == "zero"):
            raise PatchFormatError(f"{what}: a value is needed for every kind but zero")
        if self.value is not None:
            _check_values(what, "value", self.value, self.rows.shape)
            wanted = self.before.dtype if self.kind == "set" else compute_dtype(self.before.dtype)
            if self.value.dtype != wanted:
                raise PatchFormatError(
                    f"{what}: 'value' has dtype {self.value.dtype}, expected {wanted}",
                    hint="the patch is damaged",
                )
        if self.kind in ("scale", "add") and not is_finite(self.after):
            raise PatchFormatError(
                f"{what}: a weight leaves the range of {self.before.dtype}",
                hint="use smaller factors or deltas",
            )

    @classmethod
    def build(
        cls,
        matrix: MatrixId,
        kind: str,
        rows: Index,
        columns: Index,
        before: Array,
        value: Array | None = None,
    ) -> WeightEdit:
        """An edit from coordinates in any order."""
        order = np.lexsort((columns, rows))
        rows, columns = rows.astype(np.int64)[order], columns.astype(np.int64)[order]
        return cls(
            matrix, kind, rows, columns, before[order], None if value is None else value[order]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, WeightEdit)
            and (self.matrix, self.kind) == (other.matrix, other.kind)
            and np.array_equal(self.rows, other.rows)
            and np.array_equal(self.columns, other.columns)
            and _same(self.before, other.before)
            and _same(self.value, other.value)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays are compared, never hashed

    @property
    def keys(self) -> Index:
        """One integer a coordinate, ascending: int64 ``[n]``."""
        return self.rows << 32 | self.columns

    def take(self, keep: NDArray[np.bool_]) -> WeightEdit | None:
        """The edit at the coordinates where ``keep`` is true; None if there are none."""
        if not keep.any():
            return None
        value = None if self.value is None else self.value[keep]
        return WeightEdit(
            self.matrix, self.kind, self.rows[keep], self.columns[keep], self.before[keep], value
        )

    def new_values(self, current: Array) -> Array:
        """The edited values of weights that now are ``current``, in their dtype, rounded once."""
        dtype = current.dtype
        if self.value is None:
            return np.zeros_like(current)
        if self.kind == "set":
            return cast(self.value, dtype)
        wide = compute_dtype(dtype)
        with np.errstate(over="ignore"):
            if self.kind == "scale":
                result: Array = current.astype(wide) * self.value.astype(wide)
            else:
                result = current.astype(wide) + self.value.astype(wide)
        return cast(result, dtype)

    @property
    def after(self) -> Array:
        """The base's values once edited, ``[n]`` in the base's dtype."""
        return self.new_values(self.before)


@dataclass(frozen=True, eq=False)
class UnitEdit:
    """One kind of edit on units of one block's MLP.

    Attributes:
        block: The block.
        kind: One of :data:`UNIT_KINDS`.
        units: Indices into the MLP hidden activation, int64 ``[n]``, sorted and unique.
        value: Factor or added constant of each unit's activation, float32 ``[n]``.
        before: For ``scale``: the base's column of ``down`` of each unit, ``[n, hidden]`` in the
            base's dtype. ``steer`` changes no weight and has none.
    """

    block: BlockId
    kind: str
    units: Index
    value: Array
    before: Array | None = None

    def __post_init__(self) -> None:
        what = f"{self.kind} edit of units of {self.block}"
        if self.kind not in UNIT_KINDS:
            raise PatchFormatError(
                f"{self.block}: unknown unit edit kind '{self.kind}'",
                hint=f"this version knows {', '.join(UNIT_KINDS)}",
            )
        _check_block(self.block)
        _check_indices(what, self.units)
        if not (np.diff(self.units) > 0).all():
            raise PatchFormatError(
                f"{what}: units are not sorted, or occur twice", hint="the patch is damaged"
            )
        _check_values(what, "value", self.value, self.units.shape)
        if self.value.dtype != np.float32:
            raise PatchFormatError(f"{what}: 'value' is not float32", hint="the patch is damaged")
        if (self.before is None) != (self.kind == "steer"):
            raise PatchFormatError(f"{what}: only scale edits hold weights from before")
        if self.before is not None:
            width = self.before.shape[-1] if self.before.ndim == 2 else 0
            _check_values(what, "before", self.before, (len(self.units), width))

    def __len__(self) -> int:
        return len(self.units)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, UnitEdit)
            and (self.block, self.kind) == (other.block, other.kind)
            and np.array_equal(self.units, other.units)
            and _same(self.value, other.value)
            and _same(self.before, other.before)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays are compared, never hashed

    def take(self, keep: NDArray[np.bool_]) -> UnitEdit | None:
        """The edit of the units where ``keep`` is true; None if there are none."""
        if not keep.any():
            return None
        before = None if self.before is None else self.before[keep]
        return UnitEdit(self.block, self.kind, self.units[keep], self.value[keep], before)

    def compiled(self) -> list[WeightEdit]:
        """The same edit on weights: each unit's column of ``down``.

        Exact: ``down @ (f * h) == (down * f) @ h`` for a factor on a unit. A factor of 0 writes
        positive zeros.

        Raises:
            PatchFormatError: For ``steer``, which no weight edit can express.
        """
        if self.before is None:
            raise PatchFormatError(
                f"{self.block}: steering adds a constant, which no edit of weights can express",
                hint="apply the patch to a model in memory",
            )
        matrix = MatrixId(*self.block, "down")
        hidden = self.before.shape[1]
        edits = []
        for kind, keep in (("zero", self.value == 0), ("scale", self.value != 0)):
            chosen = self.take(keep)
            if chosen is None or chosen.before is None:
                continue
            columns = np.repeat(chosen.units, hidden)
            rows = np.tile(np.arange(hidden), len(chosen))
            factor = np.repeat(chosen.value, hidden).astype(compute_dtype(chosen.before.dtype))
            edits.append(
                WeightEdit.build(
                    matrix,
                    kind,
                    rows,
                    columns,
                    chosen.before.reshape(-1),
                    None if kind == "zero" else factor,
                )
            )
        return edits


@dataclass(frozen=True)
class Change:
    """What applying a patch does to some weights of one matrix: expected values, and new ones.

    Attributes:
        edit: The edit.
        inverted: Whether it is undone instead of done.
    """

    edit: WeightEdit
    inverted: bool

    @property
    def expected(self) -> Array:
        """The values that the patch was made for, ``[n]`` in the base's dtype."""
        return self.expected_as(self.edit.before.dtype)

    def expected_as(self, dtype: np.dtype[Any]) -> Array:
        """The values that the base holds once loaded in ``dtype``, ``[n]``.

        An inverted change expects what the edit leaves behind there, which is computed from the
        rounded base: rounding the edited value instead may differ by one unit in the last place.
        """
        return self.expected_from(cast(self.edit.before, dtype))

    def expected_from(self, before: Array) -> Array:
        """The values expected of a model whose base holds ``before`` there, ``[n]``."""
        return self.edit.new_values(before) if self.inverted else before

    def new_values(self, current: Array) -> Array:
        """The values to write where ``current`` stands now, in its dtype.

        Raises:
            PatchMismatchError: If a new value is infinite or NaN, because ``current`` is or
                because its dtype is narrower than the base's.
        """
        if self.inverted:
            values = cast(self.edit.before, current.dtype)
        else:
            values = self.edit.new_values(current)
        if not is_finite(values):
            raise PatchMismatchError(
                f"{self.edit.kind} edit of {self.edit.matrix} gives infinite or NaN weights "
                f"in {current.dtype}",
                hint="check the model's weights, or load it in the patch's number format",
            )
        return values

    def as_set(self) -> WeightEdit:
        """The change as a plain ``set`` edit of a model that holds the expected values."""
        edit, expected = self.edit, self.expected
        value = self.new_values(expected)
        return WeightEdit(edit.matrix, "set", edit.rows, edit.columns, expected, value)
