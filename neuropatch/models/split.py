"""Weights that the processes of a run hold parts of: tensor parallelism as transformers does it.

Such a parameter is a DTensor of torch. Its class is never imported: DTensors are told by what they
have, so that models of a single process need no torch.distributed.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from neuropatch.errors import ModelError, UsageError
from neuropatch.models.layout import Layout

_DIMENSIONS = {"colwise": 0, "rowwise": 1}
"""The dimension of a linear layer's weight that a rule of a plan splits.

Of both, what passes the layer on a process belongs to the part of the weight that it holds. With
all other rules it passes whole (``colwise_gather_output``), or in another order than the rows
(``packed_colwise``).
"""


def tensor_parallel(where: torch.device, processes: int) -> Any:
    """What makes transformers split the weights among processes, by the model's own plan.

    Raises:
        UsageError: If the model is to be on CPUs where there are GPUs: transformers takes those.
    """
    from transformers.distributed import DistributedConfig

    if where.type == "cpu" and torch.accelerator.is_available():
        raise UsageError("--tp runs on the GPUs of this machine", hint="leave --device out")
    return DistributedConfig(tp_size=processes, tp_plan="auto")


def is_split(parameter: torch.Tensor) -> bool:
    """Whether a parameter is a DTensor."""
    return hasattr(parameter, "placements")


def held(parameter: torch.Tensor) -> torch.Tensor:
    """What this process holds of a parameter, detached."""
    if not is_split(parameter):
        return parameter.detach()
    part: torch.Tensor = parameter.detach().to_local()  # type: ignore[attr-defined]
    return part


def gathered(parameter: torch.Tensor) -> torch.Tensor:
    """A whole parameter, detached; all processes must ask for it together."""
    if not is_split(parameter):
        return parameter.detach()
    whole: torch.Tensor = parameter.detach().full_tensor()  # type: ignore[attr-defined]
    return whole


def held_bytes(parameter: torch.Tensor) -> int:
    """Bytes that a process holds of a parameter: the most of any, so the same number for all."""
    whole = parameter.numel() * parameter.element_size()
    if not is_split(parameter):
        return whole
    parts: int = parameter.device_mesh.size()  # type: ignore[attr-defined]
    return -(-whole // parts)


def rule_of(model: nn.Module, name: str) -> str | None:
    """The rule of a model's plan of tensor parallelism for a parameter, or None.

    Args:
        model: A model of transformers.
        name: Name of the parameter. A plan names modules, or parameters of stacked experts, with
            ``*`` for numbers.
    """
    plan: dict[str, str] = getattr(model, "tp_plan", None) or {}
    pattern = re.sub(r"\.\d+(?=\.|$)", ".*", name)
    return plan.get(pattern) or plan.get(pattern.rpartition(".")[0])


def is_cut(rule: str) -> bool:
    """Whether a rule gives each process a part of the weight."""
    return "colwise" in rule or "rowwise" in rule


def splits_scores(rule: str | None) -> bool:
    """Whether scores of a weight can be split as a rule splits the weight."""
    return rule in _DIMENSIONS


def first_of_part(model: nn.Module, name: str, parameter: nn.Parameter) -> tuple[int, int]:
    """Row and column of a linear layer's weight at which the part of this process begins.

    Args:
        model: A model of transformers that was loaded with tensor parallelism.
        name: Name of the parameter.
        parameter: The weight of a linear layer.

    Raises:
        ModelError: If the plan does not split it by rows or columns, each process having its own.
    """
    rule = rule_of(model, name)
    dimension = _DIMENSIONS.get(rule or "")
    split: Any = parameter
    whole = rule is None or (dimension is not None and not is_split(parameter))
    if whole or dimension is None or parameter.ndim != 2:
        kept = "keeps it whole" if whole else f"has the rule '{rule}' for it"
        raise ModelError(
            f"the scores of '{name}' cannot be split among processes: the model's plan of tensor "
            f"parallelism {kept}",
            hint="choose other roles with --target, or start it without --tp",
        )
    # torch.chunk's sizes: all parts but the last ones are equal.
    rank, ranks = split.device_mesh.get_local_rank(), split.device_mesh.size()
    length = parameter.shape[dimension]
    first = min(rank * -(-length // ranks), length)
    return (first, 0) if dimension == 0 else (0, first)


def check_heads(layout: Layout, processes: int) -> None:
    """Refuse a model whose heads of attention cannot be dealt out evenly.

    Raises:
        UsageError: If so: transformers would cut a head in two, and fail.
    """
    for name in ("heads", "kv_heads"):
        heads = layout.signature.dimensions.get(name, 0)
        if heads % processes:
            raise UsageError(
                f"the {heads} {name} of this model cannot be split among {processes} processes",
                hint="start as many processes as divide them, or leave --tp out",
            )
