"""A layout resolved against a module tree: parameters of a transformers model in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from neuropatch.errors import ModelError
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.layout import Layout, TensorSlot
from neuropatch.models.split import first_of_part, gathered, held, is_split
from neuropatch.storage.dtypes import SCALE_SUFFIXES

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def model_layout(model: nn.Module) -> Layout:
    """The layout of a transformers model.

    Raises:
        ArchitectureError: If its architecture is unknown.
        ModelError: If it is no transformers model.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise ModelError(
            f"{type(model).__name__} has no transformers config", hint="pass a transformers model"
        )
    return Layout.from_config(config.to_dict())


@dataclass(frozen=True)
class ParameterSlot:
    """One matrix inside a parameter of a model.

    Attributes:
        matrix: The matrix.
        name: Name of the parameter.
        parameter: The parameter, in its stored shape.
        slot: Where in it the matrix lies.
        first: Row and column of the matrix at which begins what this process holds of it.
    """

    matrix: MatrixId
    name: str
    parameter: nn.Parameter
    slot: TensorSlot
    first: tuple[int, int] = (0, 0)

    @property
    def stored(self) -> torch.Tensor:
        """What this process holds of the parameter: all of it, unless it is split."""
        return held(self.parameter)

    def weight(self) -> torch.Tensor:
        """The matrix as ``[out, in]``: a view, or gathered rows where a fused tensor mixes them.

        Of a matrix that is split among processes the part of this one.
        """
        return self.view_of(self.stored)

    def whole(self) -> torch.Tensor:
        """The whole matrix; of one that is split all processes must ask for it together."""
        return self.view_of(gathered(self.parameter))

    def view_of(self, stored: torch.Tensor) -> torch.Tensor:
        """The matrix's share of any tensor that is laid out like the parameter, ``[out, in]``."""
        if self.slot.flat:
            stored = stored.unflatten(0, (-1, self.slot.expert_shape[0]))
        if self.slot.expert is not None:
            stored = stored[self.slot.expert]
        return self.rows_of(stored.T if self.slot.transposed else stored)

    def rows_of(self, values: torch.Tensor) -> torch.Tensor:
        """The matrix's rows of a tensor whose rows are those of the whole linear layer."""
        rows = self.slot.row_map
        if rows is None:
            return values
        out = self.slot.shape[0]
        if rows.size == out:
            return values[rows.start : rows.start + out]
        return values[torch.from_numpy(rows.rows(np.arange(out))).to(values.device)]


def resolve_parameters(
    model: nn.Module, layout: Layout, matrices: list[MatrixId], *, split: bool = False
) -> list[ParameterSlot]:
    """Find the parameter of every matrix.

    Args:
        model: A transformers model.
        layout: Its layout.
        matrices: The matrices.
        split: Whether every matrix is split among processes (tensor parallelism).

    Raises:
        ModelError: If a parameter is missing, misshapen, not loaded, split otherwise than said, or
            holds two of the matrices in the same place (layers that share weights).
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = [_resolve(matrix, layout.memory(matrix), parameters) for matrix in matrices]
    if split:
        found = [replace(one, first=first_of_part(model, one.name, one.parameter)) for one in found]
    for one in found:
        if is_split(one.parameter) and not split:
            raise ModelError(
                f"parameter '{one.name}' is split among processes (tensor parallelism)",
                hint="load the model whole, or over the GPUs of one process with device_map='auto'",
            )
    places: dict[tuple[int, int | None, int | None], MatrixId] = {}
    for entry in found:
        rows = entry.slot.row_map
        place = (id(entry.parameter), entry.slot.expert, None if rows is None else rows.start)
        other = places.setdefault(place, entry.matrix)
        if other != entry.matrix:
            raise ModelError(
                f"{other} and {entry.matrix} share one tensor, '{entry.name}'",
                hint="models whose layers share weights cannot be edited layer by layer",
            )
    return found


def _resolve(
    matrix: MatrixId, slot: TensorSlot, parameters: dict[str, nn.Parameter]
) -> ParameterSlot:
    name = next((name for name in slot.names if name in parameters), None)
    if name is None:
        raise ModelError(
            f"the model has no parameter '{slot.names[0]}' for {matrix}",
            hint="its modules are not those of a plain transformers model "
            "(merge adapters, load without quantisation)",
        )
    parameter = parameters[name]
    if tuple(parameter.shape) != slot.stored_shape:
        raise ModelError(
            f"parameter '{name}' has shape {tuple(parameter.shape)}, "
            f"its config says {slot.stored_shape}",
            hint="load the model without quantisation, or check its config",
        )
    scales = [name + suffix for suffix in SCALE_SUFFIXES if name + suffix in parameters]
    if scales and parameter.dtype in _FLOAT8:
        raise ModelError(
            f"parameter '{name}' holds float8 numbers in units of '{scales[0]}'",
            hint="load the model dequantised, or apply the patch to its files",
        )
    if parameter.is_meta:
        raise ModelError(
            f"parameter '{name}' is not in memory", hint="load the model without offloading"
        )
    return ParameterSlot(matrix, name, parameter, slot)


def resolve_layer(model: nn.Module, layout: Layout, block: BlockId) -> nn.Module:
    """The module of a block's layer: attention and MLP together.

    Raises:
        ModelError: If the model has no such module.
    """
    names = layout.layer_names(block)
    modules: dict[str, nn.Module] = dict(model.named_modules())
    for name in names:
        if name in modules:
            return modules[name]
    raise ModelError(
        f"the model has no module '{names[0]}' for layer {block.layer}",
        hint="its modules are not those of a plain transformers model",
    )
