"""A patch as a LoRA adapter, which the library peft and programs that read its files load.

LoRA (Hu et al., arXiv:2106.09685, section 4.1) adds ``alpha / r * B A`` to a matrix. Here ``alpha``
is ``r``, and ``B A`` is what the patch changes: k rows or columns of a matrix are of rank k.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers.pytorch_utils import Conv1D

from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.plan import EditPlan, Write, make_plan
from neuropatch.checkpoint.staging import check_output, staged_folder
from neuropatch.errors import ModelError, PatchMismatchError, SelectionError
from neuropatch.export.low_rank import Change
from neuropatch.models.layout import TensorSlot
from neuropatch.models.outline import outline_model
from neuropatch.patch.drift import Drift
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import Array
from neuropatch.storage.files import atomic_write
from neuropatch.storage.safetensors_file import serialize_parts

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """An adapter that was written.

    Attributes:
        output: Its folder.
        base_model: What the adapter calls its base: a Hub id or a folder's name.
        ranks: Rank of each module that it changes, by name.
        weights: Number of weights of the model that change.
        parameters: Number of values of the adapter.
        drift: How far the model is from what the patch was made for.
    """

    output: Path
    base_model: str
    ranks: dict[str, int]
    weights: int
    parameters: int
    drift: Drift

    def to_json(self) -> dict[str, Any]:
        """The adapter as a JSON document."""
        return {
            "format": "peft",
            "output": str(self.output),
            "base_model": self.base_model,
            "ranks": self.ranks,
            "weights": self.weights,
            "parameters": self.parameters,
            "drift": self.drift.to_json(),
        }


def export_peft(patch: NeuronPatch, model_dir: str | Path, output: str | Path) -> Adapter:
    """Write what a patch does to a model as a LoRA adapter.

    It changes this very model: a weight that is zeroed gets its own value subtracted.

    Args:
        patch: The patch.
        model_dir: Folder of the model's checkpoint.
        output: Folder to create.

    Raises:
        PatchMismatchError: If the patch does not fit the model, or changes so many rows and
            columns of a module that the adapter would be larger than the module.
        SelectionError: If it changes nothing.
        ModelError: If it changes weights that are not those of a linear layer.
        OutputError: If the output exists or cannot be written.
    """
    folder, output = Path(model_dir), Path(output)
    checkpoint = Checkpoint.open(folder)
    check_output(output, folder)
    plan = make_plan(checkpoint, [patch])
    if not plan.changed:
        raise SelectionError(
            f"the patch changes no weight of {folder}", hint="it may be in the model already"
        )
    skeleton = outline_model(folder)
    changes = _changes(plan, skeleton)
    _check_small(changes)
    tensors: dict[str, Array] = {}
    for module, change in changes.items():
        b, a = change.factors()
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    ranks = {module: change.rank for module, change in changes.items()}
    config = _config(checkpoint, skeleton, ranks)
    with staged_folder(output) as staged:
        atomic_write(staged / CONFIG, [json.dumps(config, indent=2).encode()])
        atomic_write(staged / WEIGHTS, serialize_parts(tensors, {"format": "pt"}))
    return Adapter(
        output=output,
        base_model=config["base_model_name_or_path"],
        ranks=ranks,
        weights=sum(len(change.delta) for change in changes.values()),
        parameters=sum(tensor.size for tensor in tensors.values()),
        drift=plan.drift,
    )


def _changes(plan: EditPlan, skeleton: nn.Module) -> dict[str, Change]:
    """The change of each module, by name."""
    parameters = dict(skeleton.named_parameters(remove_duplicate=False))
    found: dict[str, list[Change]] = {}
    for write in plan.writes:
        slot = plan.checkpoint.layout.memory(write.location.matrix)
        name = next((name for name in slot.names if name in parameters), None)
        module = None if name is None else name.removesuffix(".weight")
        linear = None if module in (None, name) else skeleton.get_submodule(str(module))
        if module is None or not isinstance(linear, nn.Linear | Conv1D):
            raise ModelError(
                f"{write.location.matrix} is not the weight of a linear layer in "
                f"{type(skeleton).__name__} ('{name or slot.names[0]}'), and an adapter is for "
                "these only",
                hint="apply the patch to the model instead",
            )
        change = _change(write, slot)
        if change is not None:
            found.setdefault(module, []).append(change)
    return {module: _joined(parts) for module, parts in found.items()}


def _change(write: Write, slot: TensorSlot) -> Change | None:
    """What a write adds, in the rows of the module; None if it adds nothing."""
    delta = write.new.astype(np.float64) - write.old.astype(np.float64)
    changed = np.flatnonzero(delta)
    if not changed.size:
        return None
    place = write.order[changed]
    rows, columns = write.change.edit.rows[place], write.change.edit.columns[place]
    out, into = slot.stored_shape[::-1] if slot.transposed else slot.stored_shape
    if slot.row_map is not None:
        rows = slot.row_map.rows(rows)
    return Change((out, into), rows, columns, delta[changed].astype(np.float32))


def _joined(parts: Sequence[Change]) -> Change:
    """The changes of the roles that one module holds, as one."""
    return Change(
        parts[0].shape,
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.columns for part in parts]),
        np.concatenate([part.delta for part in parts]),
    )


def _check_small(changes: dict[str, Change]) -> None:
    large = [(name, change) for name, change in changes.items() if not change.is_small]
    if not large:
        return
    name, change = max(large, key=lambda item: item[1].rank)
    out, into = change.shape
    raise PatchMismatchError(
        f"an adapter would be larger than what it changes: '{name}' ({out} x {into}) needs rank "
        f"{change.rank}, and {len(large)} of {len(changes)} modules are like that",
        hint="apply the patch to the model; adapters suit patches of few units, rows or columns",
    )


def _config(checkpoint: Checkpoint, skeleton: nn.Module, ranks: dict[str, int]) -> dict[str, Any]:
    """The document in ``adapter_config.json``."""
    transposed = [isinstance(skeleton.get_submodule(module), Conv1D) for module in ranks]
    generates = getattr(skeleton, "can_generate", lambda: False)()
    causal = generates and not getattr(skeleton.config, "is_encoder_decoder", False)
    largest = max(ranks.values())
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if causal else None,
        "base_model_name_or_path": checkpoint.source.name,
        "revision": checkpoint.source.revision,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": all(transposed),
        "lora_dropout": 0.0,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "target_modules": sorted(ranks),
    }
