"""Changes to the weights of a few MLP units, differentiable, beside a model that stays frozen.

A unit owns a row of ``gate``, a row of ``up`` and a column of ``down``. A change of these few
vectors is added to what the linear layers return, ``y[rows] += x dW^T`` and ``y += x[columns] dW``,
so that weights and their gradients are never made as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuropatch.errors import ModelError
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout
from neuropatch.models.modules import ParameterSlot, resolve_parameters


@contextmanager
def unit_weight_changes(
    model: nn.Module,
    layout: Layout,
    units: Mapping[MatrixId, np.ndarray[Any, np.dtype[np.int64]]],
    changes: Mapping[MatrixId, Tensor],
) -> Iterator[None]:
    """Let ``model`` compute as if units' weights were changed, for the length of a ``with`` block.

    Args:
        model: A transformers model.
        layout: Its layout.
        units: Sorted indices of the units, for each matrix of the roles ``gate``, ``up``, ``down``.
        changes: What is added to their weights, ``[units, hidden]`` each: rows of ``gate`` and
            ``up``, columns of ``down``. They may require gradients.

    Raises:
        ModelError: If a matrix is not the weight of a linear module of its own.
    """
    slots = resolve_parameters(model, layout, list(changes))
    with ExitStack() as stack:
        for slot in slots:
            module = _module(model, slot)
            chosen = torch.from_numpy(_places(slot, units[slot.matrix])).to(slot.parameter.device)
            hook = _column_hook if slot.matrix.role == "down" else _row_hook
            handle = module.register_forward_hook(hook(chosen, changes[slot.matrix]))
            stack.callback(handle.remove)
        yield


def _places(slot: ParameterSlot, units: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
    """Where units are in what the slot's module takes (``down``) or returns."""
    rows = slot.slot.row_map
    return units if slot.matrix.role == "down" or rows is None else rows.rows(units)


def _module(model: nn.Module, slot: ParameterSlot) -> nn.Module:
    path, _, attribute = slot.name.rpartition(".")
    if attribute != "weight" or slot.slot.expert is not None:
        raise ModelError(
            f"'{slot.name}' is not the weight of a linear layer, so it cannot be changed alone",
            hint="use a model that is no mixture of experts",
        )
    return model.get_submodule(path)


def _row_hook(rows: Tensor, change: Tensor) -> Any:
    def forward(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0]
        return output.index_add(-1, rows, (x.to(change.dtype) @ change.T).to(output.dtype))

    return forward


def _column_hook(columns: Tensor, change: Tensor) -> Any:
    def forward(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0].index_select(-1, columns)
        return output + (x.to(change.dtype) @ change).to(output.dtype)

    return forward
