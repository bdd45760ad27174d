"""What passes into linear layers over a data set: means and norms of activations.

A unit's activation is a coordinate of the input of its block's down projection, and nothing else
reads that input, so what is said here of inputs covers the units of MLPs as well.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from neuropatch.data.batching import IGNORE_INDEX
from neuropatch.data.tokenize import Sample
from neuropatch.errors import ModelError
from neuropatch.models.coordinates import BlockId
from neuropatch.models.layout import Layout
from neuropatch.models.likelihood import packed_losses
from neuropatch.models.modules import resolve_parameters
from neuropatch.models.packing import batches_for
from neuropatch.progress import Progress, Silent
from neuropatch.world import ALONE, World

Key = TypeVar("Key", bound=Hashable)

POSITIONS = ("all", "predicting")
"""Which tokens count: all that a model is given, or those whose prediction counts."""


@dataclass
class Moments:
    """Sums over tokens of the inputs of one layer, on the model's device.

    Attributes:
        count: Number of tokens.
        total: ``[in]`` float64, sum of the inputs.
        squares: ``[in]`` float64, sum of their squares.
    """

    count: int
    total: torch.Tensor
    squares: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """``[in]``."""
        return self.total / self.count

    @property
    def std(self) -> torch.Tensor:
        """``[in]``, with the number of tokens as the divisor."""
        # Rounding may leave the variance of a constant below 0.
        return (self.squares / self.count - self.mean.square()).clamp(min=0).sqrt()

    @property
    def norm(self) -> torch.Tensor:
        """``[in]``, the Euclidean norm of each input over all tokens."""
        return self.squares.sqrt()


def check_unit_modules(layout: Layout) -> None:
    """Refuse a model whose units do not pass through a module of their own.

    Raises:
        ModelError: If experts are stored as one tensor.
    """
    for matrix in layout.matrices(("down",)):
        if layout.memory(matrix).expert is not None:
            raise ModelError(
                f"{matrix.block}: units of experts that are stored as one tensor cannot be watched",
                hint="use a model that is no mixture of experts",
            )


def unit_modules(
    model: nn.Module, layout: Layout, blocks: Collection[BlockId] | None = None
) -> dict[BlockId, nn.Module]:
    """The modules whose inputs are the activations of MLP units, in canonical order.

    Args:
        model: The model.
        layout: Its layout.
        blocks: Blocks to take; None for all that have an MLP.

    Raises:
        ModelError: If a block's units pass through no module of their own.
    """
    check_unit_modules(layout)
    downs = [m for m in layout.matrices(("down",)) if blocks is None or m.block in blocks]
    return {
        slot.matrix.block: model.get_submodule(slot.name.removesuffix(".weight"))
        for slot in resolve_parameters(model, layout, downs)
    }


def input_moments(
    model: nn.Module,
    modules: Mapping[Key, nn.Module],
    samples: Sequence[Sample],
    *,
    positions: str = "all",
    batch_tokens: int = 1024,
    progress: Progress | None = None,
    label: str = "activations",
    world: World = ALONE,
) -> dict[Key, Moments]:
    """Sums over the tokens of samples of what some modules are given, in one forward pass.

    Args:
        model: A causal language model in evaluation mode.
        modules: Modules of it by any key.
        samples: Samples with at least one label each. Their last token is never an input.
        positions: One of :data:`POSITIONS`.
        batch_tokens: Most tokens of a batch. It changes results by rounding only.
        progress: Told of every batch.
        label: What the progress is of.
        world: The processes that share the samples; the progress is of this one's share.

    Raises:
        ModelError: If an activation is not finite.
        UsageError: If there are fewer samples than processes.
    """
    progress = progress or Silent()
    samples = world.share(samples)
    device = next(model.parameters()).device
    progress.start(label, len(samples))
    found: dict[Key, Moments] = {}
    for batch in batches_for(model, samples, batch_tokens=batch_tokens):
        counted = (batch.targets[0] != IGNORE_INDEX).to(device) if positions != "all" else None
        with torch.no_grad(), _adding(modules, counted, found):
            packed_losses(model, batch.to(device))
        progress.advance(len(batch.rows))
    counts = world.gathered([found[key].count for key in modules])
    for key, of_all in zip(modules, zip(*counts, strict=True), strict=True):
        found[key].count = int(sum(of_all))
        world.sum_((found[key].total, found[key].squares))
        if not torch.isfinite(found[key].squares).all():
            raise ModelError(
                f"activations of {key} are not finite",
                hint="the model overflows in this dtype; use --dtype float32",
            )
    return {key: found[key] for key in modules}


@contextmanager
def _adding(
    modules: Mapping[Key, nn.Module], counted: torch.Tensor | None, found: dict[Key, Moments]
) -> Iterator[None]:
    """Add what the modules are given in a forward pass to ``found``."""

    def hook(key: Key) -> Any:
        def forward(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            rows = args[0].flatten(0, -2)
            rows = (rows if counted is None else rows[counted.to(rows.device)]).double()
            count, total, squares = len(rows), rows.sum(dim=0), rows.square().sum(dim=0)
            if key in found:
                before = found[key]
                count += before.count
                total, squares = total + before.total, squares + before.squares
            found[key] = Moments(count, total, squares)

        return forward

    handles = [module.register_forward_pre_hook(hook(key)) for key, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
