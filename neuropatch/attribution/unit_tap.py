"""Activations of MLP units, and their gradients, as they pass in a forward and backward pass.

A unit's activation is a coordinate of the input of its block's down projection. Nothing else reads
that input, so a hook in front of the projection sees all there is to know about the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from neuropatch.errors import ModelError
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.layout import Layout
from neuropatch.models.modules import resolve_parameters


def check_unit_modules(layout: Layout) -> None:
    """Refuse a model whose units have no module of their own in front of which they pass.

    Raises:
        ModelError: If experts are stored as one tensor.
    """
    for matrix in layout.matrices(("down",)):
        if layout.memory(matrix).expert is not None:
            raise ModelError(
                f"{matrix.block}: units of experts stored as one tensor cannot be watched",
                hint="use a model that is no mixture of experts",
            )


class UnitTap:
    """Watches the MLP units of a model.

    Args:
        model: The model.
        layout: Its layout.
        blocks: The blocks to watch; None for all that have an MLP.

    Raises:
        ModelError: If a block's units cannot be watched.
    """

    def __init__(
        self, model: nn.Module, layout: Layout, blocks: Collection[BlockId] | None = None
    ) -> None:
        check_unit_modules(layout)
        downs = [
            MatrixId(*matrix.block, "down")
            for matrix in layout.matrices(("down",))
            if blocks is None or matrix.block in blocks
        ]
        self._modules = {
            slot.matrix.block: model.get_submodule(slot.name.removesuffix(".weight"))
            for slot in resolve_parameters(model, layout, downs)
        }

    @contextmanager
    def activations(self, take: Callable[[BlockId, torch.Tensor], None]) -> Iterator[None]:
        """Call ``take(block, activations)`` in every forward pass inside the block.

        Activations are ``[tokens, units]``, batch and position flattened.
        """

        def hook(block: BlockId) -> Any:
            def forward(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
                take(block, args[0].detach().flatten(0, -2))

            return forward

        with self._hooked(hook):
            yield

    @contextmanager
    def gradients(
        self, take: Callable[[BlockId, torch.Tensor, torch.Tensor], None]
    ) -> Iterator[None]:
        """Call ``take(block, activations, gradients)`` as a backward pass reaches each block.

        Both are ``[tokens, units]``. With frozen weights the graph starts at the units of the
        lowest block: nothing below them is differentiated.
        """

        def hook(block: BlockId) -> Any:
            def forward(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
                hidden = args[0]
                if not hidden.requires_grad:
                    # With frozen weights nothing has asked for gradients yet.
                    hidden.requires_grad_()
                seen = hidden.detach().flatten(0, -2)
                hidden.register_hook(lambda grad: take(block, seen, grad.flatten(0, -2)))

            return forward

        with self._hooked(hook):
            yield

    @contextmanager
    def _hooked(self, hook: Callable[[BlockId], Any]) -> Iterator[None]:
        handles = [
            module.register_forward_pre_hook(hook(block)) for block, module in self._modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
