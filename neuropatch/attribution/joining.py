"""Interpolation points as rows of one pass, each computed only from its layer upward.

Integrated gradients of a layer need passes in which one activation of that layer is scaled. Below
the layer such a pass is the same as the plain one. So one pass serves all layers: it begins with
the plain row alone, and at each layer copies of it join, go through the layer, and have their
activation scaled. The point where the factor is 1 needs no copy: it is the plain row, for all
layers at once.

Rows lie on one of two axes of the hidden states. Tokens that continue a text that is already read
(:mod:`neuropatch.models.shared_prefix`) are ``[prefixes, rows, hidden]``, and every row is one
token. Whole texts are ``[rows, tokens, hidden]``, and one of their tokens is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from neuropatch.errors import ModelError
from neuropatch.models.coordinates import DENSE, BlockId
from neuropatch.models.layout import Layout
from neuropatch.models.modules import resolve_layer, resolve_parameters


@dataclass(frozen=True)
class UnitModules:
    """The modules of one block that its units pass.

    Attributes:
        block: The block.
        layer: Attention and MLP together.
        down: The down projection, whose input is the activation of the units.
        units: Their number.
    """

    block: BlockId
    layer: nn.Module
    down: nn.Module
    units: int


def check_dense(layout: Layout) -> None:
    """Refuse mixtures of experts: a row that is scaled may be sent to other experts.

    Raises:
        ModelError: If the architecture is one.
    """
    for matrix in layout.matrices(("down",)):
        if matrix.expert != DENSE:
            raise ModelError(
                f"{matrix.block}: integrated gradients of experts' units are not possible",
                hint="use a model that is no mixture of experts",
            )


def unit_modules(model: nn.Module, layout: Layout) -> tuple[UnitModules, ...]:
    """The modules of all blocks that have an MLP, in the order of the layers.

    Raises:
        ModelError: If the model is a mixture of experts, or lacks a module.
    """
    check_dense(layout)
    slots = resolve_parameters(model, layout, layout.matrices(("down",)))
    return tuple(
        UnitModules(
            slot.matrix.block,
            resolve_layer(model, layout, slot.matrix.block),
            model.get_submodule(slot.name.removesuffix(".weight")),
            slot.slot.shape[1],
        )
        for slot in slots
    )


@dataclass(frozen=True)
class Points:
    """The interpolation points of one pass.

    Attributes:
        joining: Factors below 1 of the rows that join at a layer, by the layer's place.
        plain: Whether the plain row counts, as the point of factor 1 of every layer.
    """

    joining: Mapping[int, tuple[float, ...]]
    plain: bool


def plan_points(layers: int, steps: int, most: int) -> list[Points]:
    """Spread the points ``j / steps`` of all layers over passes.

    Args:
        layers: Number of layers.
        steps: Points of a layer.
        most: Most rows that join in one pass, at least 1.

    Returns:
        Passes of nearly equal numbers of points.
    """
    flat = [(layer, j / steps) for layer in range(layers) for j in range(1, steps)]
    passes = max(1, -(-len(flat) // most))
    bounds = [len(flat) * i // passes for i in range(passes + 1)]
    plan = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        joining: dict[int, tuple[float, ...]] = {}
        for layer, factor in flat[start:stop]:
            joining[layer] = (*joining.get(layer, ()), factor)
        plan.append(Points(joining, plain=number == 0))
    return plan


@dataclass
class JoiningRows:
    """Lets rows join a pass, and adds up what their gradients say.

    Attributes:
        modules: The blocks' modules.
        points: The points of the pass.
        token: Of whole texts the token that is looked at; None if every row is one token.
        integrals: Filled by the backward pass: ``sum over points of h * dP/dh'`` at the scaled
            activation ``h'``, ``[prefixes, units]`` of each block (``[1, units]`` for a whole
            text), float32 or float64.
    """

    modules: Sequence[UnitModules]
    points: Points
    token: int | None = None
    integrals: dict[BlockId, torch.Tensor] = field(default_factory=dict)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks for one forward pass inside the block; a backward pass needs them no more."""
        rows = 1
        with ExitStack() as stack:
            for place, modules in enumerate(self.modules):
                factors = self.points.joining.get(place, ())
                rows += len(factors)
                if factors:
                    grow = modules.layer.register_forward_pre_hook(
                        self._grow(len(factors)), with_kwargs=True
                    )
                    stack.callback(grow.remove)
                if factors or self.points.plain:
                    scale = modules.down.register_forward_pre_hook(
                        self._scale(modules, rows, factors)
                    )
                    stack.callback(scale.remove)
            yield

    @property
    def _axis(self) -> int:
        return 1 if self.token is None else 0

    def _grow(self, count: int) -> Any:
        """Copies of the plain row join, through which nothing is differentiated."""

        def hook(
            _: nn.Module, args: tuple[torch.Tensor, ...], options: dict[str, Any]
        ) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
            hidden = args[0] if args else options["hidden_states"]
            copies = [hidden.detach().narrow(self._axis, 0, 1)] * count
            grown = torch.cat([hidden, *copies], dim=self._axis)
            if args:
                return (grown, *args[1:]), options
            return args, {**options, "hidden_states": grown}

        return hook

    def _scale(self, modules: UnitModules, rows: int, factors: tuple[float, ...]) -> Any:
        """The activation of the rows that have just joined is scaled."""
        joined = slice(rows - len(factors), rows)

        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            # Some architectures flatten batch and position in front of their MLP.
            shape = (-1, rows) if self.token is None else (rows, -1)
            hidden = args[0].view(*shape, modules.units)
            new = hidden.new_tensor(factors)
            if self.token is None:
                scale = hidden.new_ones(1, rows, 1)
                scale[0, joined, 0] = new
            else:
                scale = hidden.new_ones(rows, hidden.shape[1], 1)
                scale[joined, self.token, 0] = new
            scaled = hidden * scale
            if not scaled.requires_grad:
                # With frozen weights nothing has asked for gradients yet.
                scaled.requires_grad_()
            plain = self._tokens(hidden.detach())[:, 0]
            scaled.register_hook(
                lambda gradient: self._take(modules.block, plain, gradient, joined)
            )
            return (scaled.view_as(args[0]),)

        return hook

    def _tokens(self, values: torch.Tensor) -> torch.Tensor:
        """``[prefixes, rows, units]`` of the tokens that are looked at."""
        return values if self.token is None else values[None, :, self.token]

    def _take(
        self, block: BlockId, plain: torch.Tensor, gradient: torch.Tensor, joined: slice
    ) -> None:
        wide = torch.float64 if gradient.dtype == torch.float64 else torch.float32
        gradients = self._tokens(gradient)
        total = gradients[:, joined].sum(dim=1, dtype=wide)
        if self.points.plain:
            total += gradients[:, 0]
        self.integrals[block] = plain.to(wide) * total
