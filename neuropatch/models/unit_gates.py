"""Gates on the MLP units of a model in memory: what methods that learn a mask run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from neuropatch.errors import ModelError, UsageError
from neuropatch.kernels import masked_units
from neuropatch.models.activations import mlp_activation
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.gates import Gates
from neuropatch.models.layout import Layout
from neuropatch.models.modules import ParameterSlot, resolve_parameters

# How far the MLP as it was may be from the MLP with gates of one, relative to its largest output.
# Half-precision models round the hidden activation between their steps.
_PROBE_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
_PROBE_TOLERANCE_HALF = 5e-2


@contextmanager
def unit_gates(
    model: nn.Module, layout: Layout, masks: Mapping[BlockId, Tensor]
) -> Iterator[Gates[BlockId]]:
    """Multiply the hidden activation of MLPs by gates, one for each unit, for a ``with`` block.

    The blocks' MLPs run on :func:`neuropatch.kernels.masked_units`, differentiable in the masks
    and in the MLP's input; see :func:`neuropatch.kernels.gated_mlp` for what it keeps. The modules
    of the projections are called as before, hooks included.

    Args:
        model: A transformers model.
        layout: Its layout.
        masks: The gates ``[units]`` of each block to change; they may require gradients.

    Yields:
        The gates, which can be replaced without leaving the block.

    Raises:
        ArchitectureError: If the model's activation function is not supported.
        ModelError: If a block's MLP is not made of its projections and activation alone.
        UsageError: If masks require gradients while weights do.
    """
    gates = Gates(masks)
    activation = mlp_activation(model.config.to_dict())  # type: ignore[operator, union-attr]
    mlps = [_resolve(model, layout, block, activation) for block in gates.masks]
    for mlp in mlps:
        mlp.check_frozen(gates.masks[mlp.block])
        mlp.check_plain()
    with ExitStack() as stack:
        for mlp in mlps:
            stack.enter_context(_replaced(mlp, gates))
        yield gates


@contextmanager
def _replaced(mlp: _Mlp, gates: Gates[BlockId]) -> Iterator[None]:
    owner = mlp.owner.__dict__
    before = owner.get("forward")

    def forward(x: Tensor) -> Tensor:
        return mlp.run(x, gates.masks[mlp.block])

    owner["forward"] = forward
    try:
        yield
    finally:
        # A forward that something else has put on the instance is put back, the class's needs none.
        if before is None:
            del owner["forward"]
        else:
            owner["forward"] = before


@dataclass(frozen=True)
class _Projection:
    """A role's output as part of what one module returns."""

    module: nn.Module
    rows: slice | Tensor

    def __call__(self, x: Tensor) -> Tensor:
        output: Tensor = self.module(x)
        return output[..., self.rows]

    def of(self, output: Tensor) -> Tensor:
        return output[..., self.rows]


@dataclass(frozen=True)
class _Mlp:
    """A block's MLP of ``shape`` (units, hidden), taken apart."""

    block: BlockId
    shape: tuple[int, int]
    owner: nn.Module
    gate: _Projection | None
    up: _Projection
    down: nn.Module | None
    activation: str

    def run(self, x: Tensor, mask: Tensor) -> Tensor:
        """What the owner's forward returns, with masked units."""
        if self.gate is None:
            z, up = self.up(x), None
        elif self.gate.module is self.up.module:
            both = self.up.module(x)
            z, up = self.gate.of(both), self.up.of(both)
        else:
            z, up = self.gate(x), self.up(x)
        hidden = masked_units(z, up, mask, self.activation, reuse=self._nobody_else_looks())
        if self.down is None:
            return hidden
        output: Tensor = self.down(hidden)
        dropout = getattr(self.owner, "dropout", None)
        return dropout(output) if isinstance(dropout, nn.Module) else output

    def _nobody_else_looks(self) -> bool:
        """Whether the products may be written over: a hook might have kept them."""
        modules = [self.up.module] + ([self.gate.module] if self.gate else [])
        return not any(module._forward_hooks for module in modules)

    def check_frozen(self, mask: Tensor) -> None:
        """Gates learn on frozen weights."""
        learns = mask.requires_grad and torch.is_grad_enabled()
        if learns and any(parameter.requires_grad for parameter in self.owner.parameters()):
            raise UsageError(
                f"{self.block}: weights of the MLP require gradients, as its gates do",
                hint="freeze the model: model.requires_grad_(False)",
            )

    def check_plain(self) -> None:
        """All weights must be the projections', and the result that of the MLP as it is.

        The result is compared on one random token: the owner may do more than is known here.
        """
        projections = [self.up.module, *([self.gate.module] if self.gate else [])]
        known = {id(p) for m in [*projections, self.down] if m is not None for p in m.parameters()}
        if all(id(p) in known for p in self.owner.parameters()) and self._agrees():
            return
        raise ModelError(
            f"{self.block}: {type(self.owner).__name__} is not made of its projections with "
            f"{self.activation} between them alone",
            hint="gates need a plain transformers MLP",
        )

    @torch.no_grad()
    def _agrees(self) -> bool:
        weight = next(self.up.module.parameters())
        units, width = self.shape
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, 1, width, generator=generator).to(weight.device, weight.dtype)
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        training = self.owner.training
        self.owner.eval()
        try:
            wanted = self.owner(x)
            found = self.run(x, torch.ones(units, dtype=wide, device=weight.device))
        finally:
            self.owner.train(training)
        tolerance = _PROBE_TOLERANCE.get(weight.dtype, _PROBE_TOLERANCE_HALF)
        return bool((wanted - found).abs().max() <= tolerance * wanted.abs().max())


def _resolve(model: nn.Module, layout: Layout, block: BlockId, activation: str) -> _Mlp:
    roles = [m.role for m in layout.matrices(("gate", "up", "down")) if m.block == block]
    slots = {
        slot.matrix.role: slot
        for slot in resolve_parameters(model, layout, [MatrixId(*block, role) for role in roles])
    }
    if "up" not in slots or "down" not in slots:
        raise UsageError(f"{block} has no MLP", hint="the coordinates belong to another model")
    if any(slot.slot.expert is not None for slot in slots.values()):
        raise ModelError(
            f"{block}: gates inside experts stored as one tensor are not possible",
            hint="gate blocks that are no mixture of experts",
        )
    up_name, down_name = (_module_name(slots[role]) for role in ("up", "down"))
    owner_name = up_name.rpartition(".")[0]
    whole = owner_name == down_name.rpartition(".")[0]
    gate = slots.get("gate")
    return _Mlp(
        block,
        slots["up"].slot.shape,
        model.get_submodule(owner_name),
        None if gate is None else _projection(model, gate),
        _projection(model, slots["up"]),
        # Where another module holds the down projection, the owner returns the hidden activation.
        model.get_submodule(down_name) if whole else None,
        activation,
    )


def _module_name(slot: ParameterSlot) -> str:
    return slot.name.removesuffix(".weight")


def _projection(model: nn.Module, slot: ParameterSlot) -> _Projection:
    module = model.get_submodule(_module_name(slot))
    rows = slot.slot.row_map
    if rows is None:
        return _Projection(module, slice(None))
    units = slot.slot.shape[0]
    if rows.size == units:
        return _Projection(module, slice(rows.start, rows.start + units))
    return _Projection(module, torch.from_numpy(rows.rows(np.arange(units))))
