"""The patch file: one safetensors file, columns of coordinates and values, one JSON document.

Edits of one kind, one number format and one sort of block form a *section*. Section ``i`` holds
its columns as tensors ``edits.i.<column>``; rows are sorted by coordinate over the whole section.
The header's metadata has one key, ``neuropatch``, whose JSON document says the format version,
what each section is, and the patch's provenance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from neuropatch.errors import CheckpointError, NeuropatchError, PatchFormatError
from neuropatch.models.coordinates import DENSE, ROLES, STACKS, BlockId, MatrixId
from neuropatch.patch.edits import (
    INDEX_LIMIT,
    UNIT_KINDS,
    WEIGHT_KINDS,
    Index,
    UnitEdit,
    WeightEdit,
)
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import INTEGER_DTYPES, Array, dtype_name, smallest_uint
from neuropatch.storage.safetensors_file import (
    parse_json,
    read_array,
    read_header,
    serialize,
)

FORMAT_VERSION = (1, 0)
METADATA_KEY = "neuropatch"

_COORDINATES = {"weights": ("role", "row", "column"), "units": ("unit",)}
_KINDS = {"weights": WEIGHT_KINDS, "units": UNIT_KINDS}


def encode(patch: NeuronPatch) -> bytes:
    """The bytes of a patch's file: the same bytes for equal patches."""
    tensors: dict[str, Array] = {}
    sections: list[dict[str, Any]] = []
    for on, edits in (("weights", patch.weights), ("units", patch.units)):
        groups: dict[tuple[str, str, bool, int], list[WeightEdit | UnitEdit]] = {}
        for edit in edits:
            block = edit.matrix.block if isinstance(edit, WeightEdit) else edit.block
            # Units of stacks of different widths cannot share one tensor of weights from before.
            before = edit.before
            width = before.shape[1] if before is not None and before.ndim == 2 else 0
            key = (edit.kind, _stored(before), block.expert != DENSE, width)
            groups.setdefault(key, []).append(edit)
        for (kind, stored, experts, _), group in sorted(groups.items()):
            columns = _columns(group, experts)
            prefix = f"edits.{len(sections)}"
            tensors.update({f"{prefix}.{name}": column for name, column in columns.items()})
            sections.append(
                {
                    "on": on,
                    "kind": kind,
                    "dtype": stored,
                    "count": len(columns["layer"]),
                    "columns": list(columns),
                }
            )
    document = {
        "format_version": ".".join(map(str, FORMAT_VERSION)),
        "inverted": patch.inverted,
        "stacks": list(STACKS),
        "roles": list(ROLES),
        "edits": sections,
        **patch.metadata.to_json(),
    }
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return serialize(tensors, {METADATA_KEY: text})


def _stored(before: Array | None) -> str:
    """The number format of a section; steering is float32."""
    return "F32" if before is None else dtype_name(before.dtype)


def _columns(edits: Sequence[WeightEdit | UnitEdit], experts: bool) -> dict[str, Array]:
    """The columns of one section; indices in the smallest integer type that fits."""
    parts: dict[str, list[Array]] = {}
    for edit in edits:
        n = len(edit)
        if isinstance(edit, WeightEdit):
            block = edit.matrix.block
            own: dict[str, Array] = {
                "role": np.full(n, ROLES.index(edit.matrix.role)),
                "row": edit.rows,
                "column": edit.columns,
            }
        else:
            block, own = edit.block, {"unit": edit.units}
        columns: dict[str, Array] = {
            "stack": np.full(n, STACKS.index(block.stack)),
            "layer": np.full(n, block.layer),
            **({"expert": np.full(n, block.expert)} if experts else {}),
            **own,
        }
        for name, column in columns.items():
            parts.setdefault(name, []).append(column)
        for name, values in (("value", edit.value), ("before", edit.before)):
            if values is not None:
                parts.setdefault(name, []).append(values)
    joined = {name: np.concatenate(column) for name, column in parts.items()}
    return {
        name: column.astype(smallest_uint(int(column.max())))
        if column.dtype.kind == "i"
        else column
        for name, column in joined.items()
    }


def read_patch(path: Path) -> NeuronPatch:
    """Read and validate a patch file.

    Raises:
        PatchFormatError: If the file is damaged, is no patch, or needs a newer neuropatch.
    """
    try:
        header = read_header(path)
    except CheckpointError as error:
        raise PatchFormatError(error.message, hint=error.hint) from None
    text = header.metadata.get(METADATA_KEY)
    if text is None:
        raise PatchFormatError(
            f"{path} is a safetensors file but not a neuron patch",
            hint="name a patch that neuropatch localize wrote",
        )
    try:
        document = parse_json(text)
    except ValueError as error:
        raise PatchFormatError(
            f"{path}: its metadata is not readable JSON, {error}", hint="get the patch again"
        ) from None
    _check_version(path, document)
    try:
        tensors = {name: read_array(path, info) for name, info in header.tensors.items()}
        return _decode(document, tensors)
    except NeuropatchError as error:
        raise PatchFormatError(f"{path}: {error.message}", hint=error.hint) from None


def _check_version(path: Path, document: Mapping[str, Any]) -> None:
    version = document.get("format_version")
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", version):
        raise PatchFormatError(
            f"{path}: it has no readable format version", hint="get the patch again"
        )
    if int(version.partition(".")[0]) != FORMAT_VERSION[0]:
        raise PatchFormatError(
            f"{path} has patch format {version}; this neuropatch reads {FORMAT_VERSION[0]}.x",
            hint=_needs(document),
        )


def _needs(document: Mapping[str, Any]) -> str:
    """What to do about content that a later minor version may have brought."""
    return (
        f"it needs a neuropatch that reads patch format {document['format_version']}: "
        "upgrade with pip install -U neuropatch"
    )


def _decode(document: Mapping[str, Any], tensors: dict[str, Array]) -> NeuronPatch:
    inverted, sections = document.get("inverted"), document.get("edits")
    if not isinstance(inverted, bool) or not isinstance(sections, list):
        raise PatchFormatError("its metadata does not list its edits", hint="get the patch again")
    stacks, roles = document.get("stacks"), document.get("roles")
    if stacks != list(STACKS) or roles != list(ROLES):
        raise PatchFormatError(
            f"it numbers stacks {short(stacks)} and roles {short(roles)}, "
            "which this version does not know",
            hint=_needs(document),
        )
    weights: list[WeightEdit] = []
    units: list[UnitEdit] = []
    for number, section in enumerate(sections):
        on, kind = _sort_of_edit(f"section {number}", section, hint=_needs(document))
        columns = _section(number, on, section, tensors)
        if on == "weights":
            weights.extend(_weight_edits(kind, columns))
        else:
            units.extend(_unit_edits(kind, columns))
    if tensors:
        raise PatchFormatError(
            f"it holds tensors that no edit names: {short(sorted(tensors))}",
            hint="get the patch again",
        )
    return NeuronPatch(
        PatchMetadata.from_json(document), tuple(weights), tuple(units), inverted=inverted
    )


def _sort_of_edit(what: str, section: Any, *, hint: str) -> tuple[str, str]:
    """What a section edits, and the kind of edit."""
    on = section.get("on") if isinstance(section, dict) else None
    if on not in ("weights", "units"):
        raise PatchFormatError(
            f"{what} edits {short(on)}, which this version does not know", hint=hint
        )
    kind = section.get("kind")
    if kind not in _KINDS[on]:
        raise PatchFormatError(f"{what} has the unknown edit kind {short(kind)} on {on}", hint=hint)
    return on, kind


def _section(
    number: int, on: str, section: Mapping[str, Any], tensors: dict[str, Array]
) -> dict[str, Array]:
    """Take one section's columns out of ``tensors``, all checked."""
    what = f"section {number}"
    kind, names, count = section["kind"], section.get("columns"), section.get("count")
    experts = isinstance(names, list) and "expert" in names
    indices = ["stack", "layer", *(["expert"] if experts else []), *_COORDINATES[on]]
    values = [*(["value"] if kind != "zero" else []), *(["before"] if kind != "steer" else [])]
    if names != indices + values:
        raise PatchFormatError(f"{what} has the columns {short(names)}", hint="get the patch again")
    columns: dict[str, Array] = {}
    for name in names:
        tensor = tensors.pop(f"edits.{number}.{name}", None)
        if tensor is None or tensor.ndim < 1 or not tensor.size or len(tensor) != count:
            raise PatchFormatError(
                f"{what}: column '{name}' is missing, empty or not {short(count)} long",
                hint="get the patch again",
            )
        columns[name] = tensor
    stored = _stored(columns.get("before"))
    if section.get("dtype") != stored:
        raise PatchFormatError(
            f"{what} claims values in {short(section.get('dtype'))} but holds {stored}",
            hint="get the patch again",
        )
    _check_indices(what, {name: columns[name] for name in indices})
    return columns


def _check_indices(what: str, columns: Mapping[str, Array]) -> None:
    limits = {"stack": len(STACKS), "role": len(ROLES)}
    for name, column in columns.items():
        if column.dtype not in INTEGER_DTYPES.values() or column.ndim != 1:
            raise PatchFormatError(
                f"{what}: column '{name}' holds no indices", hint="get the patch again"
            )
        if int(column.max()) >= limits.get(name, INDEX_LIMIT):
            raise PatchFormatError(
                f"{what}: column '{name}' has an index beyond any model",
                hint="get the patch again",
            )
    # Rows compare like words: by the first column in which two neighbours differ.
    rising = np.zeros(len(columns["layer"]) - 1, dtype=bool)
    for column in reversed(list(columns.values())):
        rising = (column[1:] > column[:-1]) | ((column[1:] == column[:-1]) & rising)
    if not rising.all():
        raise PatchFormatError(
            f"{what}: coordinates are not sorted, or occur twice", hint="get the patch again"
        )


def _runs(columns: Mapping[str, Array], names: Sequence[str]) -> list[slice]:
    """Runs of rows that agree in every column of ``names``."""
    changed = np.zeros(len(columns["layer"]) - 1, dtype=bool)
    for name in names:
        changed |= columns[name][1:] != columns[name][:-1]
    edges = [0, *(np.flatnonzero(changed) + 1).tolist(), len(columns["layer"])]
    return [slice(a, b) for a, b in pairwise(edges)]


def _index(column: Array) -> Index:
    return column.astype(np.int64)


def _block(columns: Mapping[str, Array], at: int) -> BlockId:
    expert = int(columns["expert"][at]) if "expert" in columns else DENSE
    return BlockId(STACKS[int(columns["stack"][at])], int(columns["layer"][at]), expert)


def _weight_edits(kind: str, columns: Mapping[str, Array]) -> list[WeightEdit]:
    keys = [name for name in ("stack", "layer", "expert", "role") if name in columns]
    return [
        WeightEdit(
            MatrixId(*_block(columns, run.start), ROLES[int(columns["role"][run.start])]),
            kind,
            _index(columns["row"][run]),
            _index(columns["column"][run]),
            columns["before"][run],
            columns["value"][run] if "value" in columns else None,
        )
        for run in _runs(columns, keys)
    ]


def _unit_edits(kind: str, columns: Mapping[str, Array]) -> list[UnitEdit]:
    keys = [name for name in ("stack", "layer", "expert") if name in columns]
    return [
        UnitEdit(
            _block(columns, run.start),
            kind,
            _index(columns["unit"][run]),
            columns["value"][run],
            columns["before"][run] if "before" in columns else None,
        )
        for run in _runs(columns, keys)
    ]
