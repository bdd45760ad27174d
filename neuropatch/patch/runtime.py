"""Applying a patch to a model in memory, and taking it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from neuropatch.errors import ModelError, PatchMismatchError
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout
from neuropatch.models.modules import ParameterSlot, model_layout, resolve_parameters
from neuropatch.patch.drift import Drift
from neuropatch.patch.edits import UnitEdit
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import FLOAT_DTYPES, Array

_STEERING = "_neuropatch_steering"

_TORCH_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_CARRIER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def to_numpy(values: torch.Tensor) -> Array:
    """A tensor of any editable format as a NumPy array, bit for bit.

    Raises:
        ModelError: If the format cannot be edited.
    """
    name = _TORCH_NAMES.get(values.dtype)
    if name is None:
        raise ModelError(
            f"weights of dtype {values.dtype} cannot be edited",
            hint="load the model without quantisation, for example with dtype=torch.bfloat16",
        )
    carrier = values.detach().cpu().contiguous().view(_CARRIER[values.element_size()])
    return carrier.numpy().view(FLOAT_DTYPES[name])


def to_torch(values: Array, like: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`to_numpy`, on the device of ``like`` and in its dtype."""
    carrier = torch.from_numpy(
        np.ascontiguousarray(values).view(np.dtype(f"i{like.element_size()}")).copy()
        if like.element_size() > 1
        else np.ascontiguousarray(values).view(np.uint8).copy()
    )
    return carrier.view(like.dtype).to(like.device)


@dataclass(frozen=True)
class _Write:
    """New values for some weights of one parameter, and the values they replace."""

    parameter: nn.Parameter
    offsets: torch.Tensor
    old: torch.Tensor
    new: torch.Tensor


def apply(patch: NeuronPatch, model: nn.Module) -> Drift:
    """Edit ``model`` in place; see :meth:`NeuronPatch.apply`."""
    writes, drift = _plan(patch, model)
    _write(writes)
    for edit in _steering_edits(patch):
        _steer(model, edit, _sign(patch))
    return drift


def revert(patch: NeuronPatch, model: nn.Module) -> None:
    """Undo ``patch`` on ``model``; see :meth:`NeuronPatch.revert`."""
    inverse = patch.invert()
    writes, drift = _plan(inverse, model)
    steering = _steering_edits(patch)
    # Applying an inverted patch may have just taken a hook away, so only steering that was put
    # there can be missed.
    missing = not patch.inverted and not all(_is_steered(model, edit) for edit in steering)
    if drift.unequal or missing:
        why = f"{drift.unequal} of {drift.weights} weights have other values"
        raise PatchMismatchError(
            "the model does not hold this patch: "
            + (why if drift.unequal else "its units are not steered"),
            hint="revert patches in the opposite order of applying them, or reload the model",
        )
    _write(writes)
    for edit in steering:
        _steer(model, edit, _sign(inverse))


@contextmanager
def applied(patch: NeuronPatch, model: nn.Module) -> Iterator[nn.Module]:
    """Hold ``patch`` on ``model`` for a ``with`` block; see :meth:`NeuronPatch.applied`."""
    writes, _ = _plan(patch, model)
    with ExitStack() as stack:
        # Registered first, so that an interrupt halfway through writing is undone as well.
        stack.callback(_write, [_Write(w.parameter, w.offsets, w.new, w.old) for w in writes])
        _write(writes)
        for edit in _steering_edits(patch):
            _steer(model, edit, _sign(patch))
            stack.callback(_steer, model, edit, -_sign(patch))
        yield model


def _plan(patch: NeuronPatch, model: nn.Module) -> tuple[list[_Write], Drift]:
    """Resolve and check everything before the first value is written."""
    layout = model_layout(model)
    patch.check_fits(layout.signature, what="the model")
    weights_only = NeuronPatch(
        patch.metadata,
        patch.weights,
        tuple(edit for edit in patch.units if edit.kind != "steer"),
        inverted=patch.inverted,
    )
    changes = weights_only.changes()
    matrices = sorted({change.edit.matrix for change in changes}, key=lambda m: m.sort_key)
    slots = {s.matrix: s for s in resolve_parameters(model, layout, matrices)}
    for edit in _steering_edits(patch):
        _down_module(model, layout, edit)
    drift = Drift()
    writes = []
    for change in changes:
        slot = slots[change.edit.matrix]
        offsets = slot.slot.offsets(change.edit.rows, change.edit.columns)
        place = torch.from_numpy(offsets).to(slot.parameter.device)
        old = slot.parameter.detach().reshape(-1)[place]
        current = to_numpy(old)
        drift.add(change.edit.matrix.role, change.expected_as(current.dtype), current)
        new = to_torch(change.new_values(current), slot.parameter)
        writes.append(_Write(slot.parameter, place, old, new))
    return writes, drift


def _write(writes: list[_Write]) -> None:
    with torch.no_grad():
        for write in writes:
            stored = write.parameter.detach()
            if stored.is_contiguous():
                stored.view(-1)[write.offsets] = write.new
            else:
                index = torch.unravel_index(write.offsets, stored.shape)
                stored[index] = write.new


def _steering_edits(patch: NeuronPatch) -> list[UnitEdit]:
    return [edit for edit in patch.units if edit.kind == "steer"]


def _sign(patch: NeuronPatch) -> int:
    return -1 if patch.inverted else 1


def _down_module(model: nn.Module, layout: Layout, edit: UnitEdit) -> nn.Module:
    """The module whose input is the MLP hidden activation of the edit's block."""
    slot: ParameterSlot = resolve_parameters(model, layout, [MatrixId(*edit.block, "down")])[0]
    if slot.slot.expert is not None:
        raise ModelError(
            f"{edit.block}: steering inside experts stored as one tensor is not possible",
            hint="use a scale edit",
        )
    return model.get_submodule(slot.name.removesuffix(".weight"))


class _Steering:
    """A forward pre-hook that adds a vector to the activation of an MLP's units.

    It remembers the edits it adds up: taking one out of a sum by subtracting it would leave a
    rounding error behind.
    """

    def __init__(self, module: nn.Module, width: int) -> None:
        self.edits: list[tuple[UnitEdit, int]] = []
        self.vector = torch.zeros(width)
        self.handle = module.register_forward_pre_hook(self)

    def add(self, edit: UnitEdit, sign: int) -> None:
        """Add an edit's vector, or take it out again if its opposite is there."""
        if (edit, -sign) in self.edits:
            self.edits.remove((edit, -sign))
        else:
            self.edits.append((edit, sign))
        self.vector = torch.zeros_like(self.vector)
        for held, direction in self.edits:
            units = torch.from_numpy(held.units)
            self.vector[units] += direction * torch.from_numpy(held.value)

    def __call__(
        self, module: nn.Module, args: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        hidden = args[0]
        return (hidden + self.vector.to(hidden.device, hidden.dtype), *args[1:])


def _is_steered(model: nn.Module, edit: UnitEdit) -> bool:
    module = _down_module(model, model_layout(model), edit)
    hook: _Steering | None = getattr(module, _STEERING, None)
    return hook is not None and (edit, 1) in hook.edits


def _steer(model: nn.Module, edit: UnitEdit, sign: int) -> None:
    """Add an edit's vector to what is added already; the last one taken back removes the hook."""
    layout = model_layout(model)
    module = _down_module(model, layout, edit)
    hook: _Steering | None = getattr(module, _STEERING, None)
    if hook is None:
        hook = _Steering(module, layout.shape(MatrixId(*edit.block, "down"))[1])
        setattr(module, _STEERING, hook)
    hook.add(edit, sign)
    if not hook.edits:
        hook.handle.remove()
        delattr(module, _STEERING)
