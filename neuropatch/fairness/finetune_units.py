"""Which units fine-tuning may change: those that the penalties depend on most.

The attribution of a unit is ``sum over rows and tokens of | h * dP/dh |``, with ``h`` its
activation and ``P`` the penalties of :mod:`neuropatch.fairness.penalty` at the base: gradient x
activation, the first-order effect of switching the unit off at each of them. A unit's weights are
its row of ``up`` and ``gate`` and its column of ``down``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from neuropatch.errors import ModelError, UsageError
from neuropatch.fairness.distributions import Distributions
from neuropatch.fairness.examples import Integers
from neuropatch.fairness.torch_classifier import TorchClassifier
from neuropatch.models.coordinates import BlockId
from neuropatch.models.modules import ParameterSlot, model_layout, resolve_parameters

if TYPE_CHECKING:
    from neuropatch.fairness.finetune import FineTuneConfig, Objective

Scores = Mapping[BlockId, NDArray[np.float64]]


@dataclass(frozen=True)
class UnitSelection:
    """Units that may change.

    Attributes:
        units: Of every block, ascending; blocks without any are left out.
        total: Units of the model.
    """

    units: Mapping[BlockId, Integers]
    total: int

    def __len__(self) -> int:
        """Number of units that may change."""
        return sum(map(len, self.units.values()))

    def masks(
        self, slots: Sequence[ParameterSlot]
    ) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
        """Of every parameter, where its values are weights of the units: 1 there, else 0."""
        masks: dict[int, tuple[torch.nn.Parameter, torch.Tensor]] = {}
        for slot in slots:
            parameter = slot.parameter
            if id(parameter) not in masks:
                masks[id(parameter)] = (parameter, torch.zeros_like(parameter.detach()))
            units = self.units.get(slot.matrix.block)
            if units is None:
                continue
            out, into = slot.slot.shape
            if slot.matrix.role == "down":
                rows, columns = np.repeat(np.arange(out), len(units)), np.tile(units, out)
            else:
                rows, columns = np.repeat(units, into), np.tile(np.arange(into), len(units))
            offsets = torch.from_numpy(slot.slot.offsets(rows, columns)).to(parameter.device)
            masks[id(parameter)][1].view(-1)[offsets] = 1
        return list(masks.values())


def choose_units(
    classifier: TorchClassifier,
    rows: Distributions,
    objective: Objective,
    config: FineTuneConfig,
) -> UnitSelection:
    """The most attributed units of all blocks.

    Args:
        classifier: The base.
        rows: Rows to attribute on.
        objective: The penalties.
        config: Its ``max_neurons`` says how many.

    Raises:
        ModelError: If the units of the model cannot be watched.
        UsageError: If there are fewer units, or a share of them is less than one.
    """
    assert config.max_neurons is not None
    scores = attribute_units(classifier, rows, objective, config.seed)
    blocks = list(scores)
    sizes = [len(scores[block]) for block in blocks]
    total = sum(sizes)
    wanted = config.max_neurons
    count = int(wanted * total) if wanted < 1 else int(wanted)
    if not 0 < count <= total:
        raise UsageError(
            f"--max-neurons {wanted:g} is {count:,} of the model's {total:,} units",
            hint=f"give a share such as 0.1, or a number from 1 to {total:,}",
        )
    joined = np.concatenate([scores[block] for block in blocks])
    # Stable, so that of equal units the first ones are taken on every machine.
    top = np.sort(np.argsort(-joined, kind="stable")[:count])
    starts = np.cumsum([0, *sizes[:-1]])
    units = {
        block: (top[(top >= start) & (top < start + size)] - start).astype(np.int64)
        for block, start, size in zip(blocks, starts.tolist(), sizes, strict=True)
    }
    return UnitSelection({block: one for block, one in units.items() if len(one)}, total)


def attribute_units(
    classifier: TorchClassifier, rows: Distributions, objective: Objective, seed: int
) -> dict[BlockId, NDArray[np.float64]]:
    """The attribution of every unit, see the module.

    The penalties are those of random batches with rows of both sides: a rate needs several rows.

    Args:
        classifier: The base.
        rows: Rows to attribute on.
        objective: The penalties.
        seed: Seed of the order.

    Returns:
        ``[units]`` of every block.

    Raises:
        ModelError: If the units of the model cannot be watched.
    """
    watched, remove = _watch(classifier)
    order = _mixed(rows, seed)
    encoded = [classifier.encode(side) for side in rows.sides]
    scores = {block: np.zeros(width) for block, width in _widths(classifier).items()}
    try:
        for start in range(0, len(order), classifier.batch_rows):
            batch = order[start : start + classifier.batch_rows]
            for passes in watched.values():
                passes.clear()
            parts = [
                (number, batch[batch[:, 0] == number, 1])
                for number in (0, 1)
                if (batch[:, 0] == number).any()
            ]
            # One forward pass a side: its activations are kept in the order of the passes.
            odds = torch.cat(
                [classifier.log_odds(encoded[number], index) for number, index in parts]
            )
            labels, groups, sides = (
                torch.from_numpy(np.concatenate(one)).to(odds.device)
                for one in (
                    [rows.sides[number].labels[index] for number, index in parts],
                    [rows.sides[number].groups[index] for number, index in parts],
                    [np.full(len(index), number) for number, index in parts],
                )
            )
            seen = [(block, h) for block, passes in watched.items() for h in passes]
            gradients = torch.autograd.grad(
                objective(odds, labels, groups, sides), [h for _, h in seen]
            )
            for (block, h), gradient in zip(seen, gradients, strict=True):
                product = (h.detach() * gradient).abs().double()
                scores[block] += product.reshape(-1, product.shape[-1]).sum(0).cpu().numpy()
    finally:
        remove()
    return scores


def _watch(
    classifier: TorchClassifier,
) -> tuple[dict[BlockId, list[torch.Tensor]], Callable[[], None]]:
    """Lists that hold the activations of every forward pass, and what ends the watching."""
    layout = model_layout(classifier.model)
    watched: dict[BlockId, list[torch.Tensor]] = {}
    handles = []
    for slot in resolve_parameters(classifier.model, layout, layout.matrices(["down"])):
        if slot.slot.expert is not None:
            raise ModelError(
                "the units of experts that are stored as one tensor cannot be told apart",
                hint="leave out --max-neurons",
            )

        module = classifier.model.get_submodule(slot.name.removesuffix(".weight"))
        passes = watched.setdefault(slot.matrix.block, [])
        handles.append(module.register_forward_pre_hook(_keeper(passes)))

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return watched, remove


def _keeper(
    passes: list[torch.Tensor],
) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
    def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        passes.append(inputs[0])

    return keep


def _widths(classifier: TorchClassifier) -> dict[BlockId, int]:
    layout = model_layout(classifier.model)
    return {matrix.block: layout.shape(matrix)[1] for matrix in layout.matrices(["down"])}


def _mixed(rows: Distributions, seed: int) -> Integers:
    """Side and row of all rows in random order, ``[n, 2]``."""
    sides = np.repeat([0, 1], [len(side) for side in rows.sides])
    index = np.concatenate([np.arange(len(side)) for side in rows.sides])
    return np.random.default_rng(seed).permutation(np.stack([sides, index], axis=1))
