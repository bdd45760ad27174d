"""Several patches on one model at once: each row of a batch is answered with its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from neuropatch.errors import ModelError, UsageError
from neuropatch.kernels import SparseEdits, add_sparse_linear
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.modules import ParameterSlot, model_layout, resolve_parameters
from neuropatch.patch.edits import Change
from neuropatch.patch.patch import NeuronPatch
from neuropatch.patch.runtime import to_numpy
from neuropatch.storage.dtypes import Array, compute_dtype


@dataclass(frozen=True)
class _Delta:
    """What one patch adds to the weights of one module: ``[n]`` each, sorted by row."""

    rows: Array
    columns: Array
    delta: Array


_NOTHING = _Delta(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))


class Serving:
    """Which patch answers which row of a batch.

    Attributes:
        patches: Names of the patches that are being served.
        rows: The patch's name for each row of the batch, None for the model as it is. Set it
            before each batch; it must be as long as the batch.
    """

    def __init__(self, patches: Sequence[str], rows: Sequence[str | None]) -> None:
        self.patches = tuple(patches)
        self.rows = rows

    @property
    def rows(self) -> tuple[str | None, ...]:
        """The patch's name for each row."""
        return self._rows

    @rows.setter
    def rows(self, rows: Sequence[str | None]) -> None:
        for name in rows:
            if name is not None and name not in self.patches:
                raise UsageError(
                    f"no patch is called '{name}'", hint=f"served are {', '.join(self.patches)}"
                )
        self._rows = tuple(rows)
        runs = [(name, len(list(group))) for name, group in groupby(self._rows)]
        numbers = [-1 if name is None else self.patches.index(name) for name, _ in runs]
        self._runs = torch.tensor(numbers, dtype=torch.int64)
        self._starts = torch.tensor([0, *(length for _, length in runs)]).cumsum(0)

    def correct(self, edits: SparseEdits, x: Tensor, output: Tensor, what: str) -> Tensor | None:
        """The output of a linear layer as the patches would have it; None if nothing changes.

        Args:
            edits: The changes of all patches.
            x: ``[batch, ..., in]``, the layer's input.
            output: ``[batch, ..., out]``.
            what: The layer, for the message.

        Raises:
            UsageError: If the batch is not as long as :attr:`rows`.
        """
        if x.dim() < 3 or x.shape[0] != len(self._rows):
            raise UsageError(
                f"the input of {what} has shape {tuple(x.shape)}, but rows names "
                f"{len(self._rows)} rows of a batch",
                hint="set rows to one patch name or None for each row",
            )
        served = self._runs[self._runs >= 0]
        if not edits.offsets.diff()[served].any():
            return None
        tokens = x[0].shape[:-1].numel()
        corrected = add_sparse_linear(
            output.flatten(0, -2), x.flatten(0, -2), edits, self._starts * tokens, self._runs
        )
        return corrected.view(output.shape)


@contextmanager
def serving(
    model: nn.Module, patches: Mapping[str, NeuronPatch], rows: Sequence[str | None]
) -> Iterator[Serving]:
    """Answer a batch whose rows use different patches, with one copy of the weights.

    The weights are not written to: each edited linear layer is followed by a sparse correction of
    its output. Results agree with those of the model with the row's patch applied up to rounding.
    The changes are worked out from the weights that the model holds now, so it must not be edited
    while it serves.

    Args:
        model: A transformers model of the patches' architecture.
        patches: The patches, by any names.
        rows: The name for each row of the batch, None for the model as it is.

    Yields:
        The assignment of rows, which can be changed between batches.

    Raises:
        ModelError: If an edited matrix is not the weight of a linear layer of its own.
        PatchMismatchError: If a patch is for another architecture.
        UsageError: If a patch steers units, or a row names an unknown patch.
    """
    served = Serving(tuple(patches), rows)
    compiled = [_compile(model, name, patch) for name, patch in patches.items()]
    with ExitStack() as stack:
        for name in sorted({name for deltas in compiled for name in deltas}):
            module = _linear(model, name)
            edits = _join([deltas.get(name, _NOTHING) for deltas in compiled], module.weight.device)
            handle = module.register_forward_hook(_Correction(served, edits, name))
            stack.callback(handle.remove)
        yield served


class _Correction:
    """A forward hook that corrects the output of one layer."""

    def __init__(self, served: Serving, edits: SparseEdits, name: str) -> None:
        self.served, self.edits, self.name = served, edits, name

    def __call__(
        self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        return self.served.correct(self.edits, args[0], output, self.name)


def sparse_delta(change: Change, slot: ParameterSlot) -> tuple[Array, Array, Array]:
    """What a change adds to the weights that a model holds.

    Args:
        change: The change of some weights of one matrix.
        slot: Where the model holds the matrix.

    Returns:
        Rows of the module's output ``[n]``, columns of its input ``[n]``, and new minus current
        weights ``[n]`` in float32 (float64 for a float64 model).
    """
    rows, columns = change.edit.rows, change.edit.columns
    place = torch.from_numpy(slot.slot.offsets(rows, columns)).to(slot.parameter.device)
    current = to_numpy(slot.parameter.detach().reshape(-1)[place])
    wide = compute_dtype(current.dtype)
    delta = change.new_values(current).astype(wide) - current.astype(wide)
    mapped = rows if slot.slot.row_map is None else slot.slot.row_map.rows(rows)
    return mapped, columns, delta


def _compile(model: nn.Module, name: str, patch: NeuronPatch) -> dict[str, _Delta]:
    """The deltas of one patch by module name."""
    layout = model_layout(model)
    patch.check_fits(layout.signature, what="the model")
    steering = next((edit for edit in patch.units if edit.kind == "steer"), None)
    if steering is not None:
        raise UsageError(
            f"patch '{name}' steers units of {steering.block}, which cannot be served",
            hint="apply it to a model of its own: patch.applied(model)",
        )
    changes = patch.changes()
    matrices: list[MatrixId] = sorted({c.edit.matrix for c in changes}, key=lambda m: m.sort_key)
    slots = {slot.matrix: slot for slot in resolve_parameters(model, layout, matrices)}
    parts: dict[str, list[tuple[Array, Array, Array]]] = {}
    for change in changes:
        slot = slots[change.edit.matrix]
        if slot.slot.expert is not None:
            raise ModelError(
                f"patch '{name}' edits {slot.matrix}, one of several experts in one tensor, which "
                "cannot be served",
                hint="apply it to a model of its own: patch.applied(model)",
            )
        parts.setdefault(slot.name, []).append(sparse_delta(change, slot))
    return {name: _sorted(pieces) for name, pieces in parts.items()}


def _sorted(pieces: list[tuple[Array, Array, Array]]) -> _Delta:
    rows, columns, delta = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    order = np.lexsort((columns, rows))
    return _Delta(rows[order].astype(np.int32), columns[order].astype(np.int32), delta[order])


def _linear(model: nn.Module, parameter: str) -> nn.Linear | Conv1D:
    """The linear layer that a parameter is the weight of."""
    module = model.get_submodule(parameter.rpartition(".")[0])
    if not isinstance(module, nn.Linear | Conv1D):
        raise ModelError(
            f"'{parameter}' belongs to a {type(module).__name__}, which cannot be served",
            hint="merge adapters and load the model without quantisation",
        )
    return module


def _join(deltas: Sequence[_Delta], device: torch.device) -> SparseEdits:
    """All patches' changes of one module, on a device."""
    counts = torch.tensor([0, *(len(delta.rows) for delta in deltas)])
    wide = np.result_type(*(delta.delta for delta in deltas if len(delta.rows)))

    def gather(arrays: list[Array]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays)).to(device)

    return SparseEdits(
        gather([delta.rows for delta in deltas]),
        gather([delta.columns for delta in deltas]),
        gather([delta.delta.astype(wide) for delta in deltas]),
        counts.cumsum(0),
    )
