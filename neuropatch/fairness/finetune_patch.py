"""A fine-tuned classifier as a neuron patch of its base.

The patch adds deltas (``add``, in float32), so that it can also be tried on a drifted copy of the
base. The fine-tuned checkpoint is by definition the base with the patch applied; a delta is rounded
once, so a weight may differ in its last bit from the one that training ended with. Reverting gives
the base's bytes, as every patch does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.plan import make_plan
from neuropatch.errors import ModelError, SelectionError
from neuropatch.fairness.finetune import ROLES
from neuropatch.fairness.torch_classifier import TorchClassifier
from neuropatch.models.coordinates import BlockId
from neuropatch.models.modules import model_layout, resolve_parameters
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.patch.runtime import to_numpy
from neuropatch.storage.dtypes import bits, cast, compute_dtype


def delta_patch(
    checkpoint: Checkpoint,
    base: TorchClassifier,
    tuned: TorchClassifier,
    metadata: PatchMetadata,
) -> NeuronPatch:
    """What fine-tuning changed, as ``add`` edits of the base's files.

    Args:
        checkpoint: The base's files.
        base: The base as it was loaded from them, in float32.
        tuned: The fine-tuned classifier.
        metadata: Provenance.

    Raises:
        SelectionError: If no weight changed.
        ModelError: If the files do not hold the weights of ``base``.
    """
    layout = model_layout(base.model)
    matrices = layout.matrices(ROLES)
    edits = []
    for mine, theirs in zip(
        resolve_parameters(base.model, layout, matrices),
        resolve_parameters(tuned.model, layout, matrices),
        strict=True,
    ):
        dtype = checkpoint.locate(mine.matrix).dtype
        old, new = to_numpy(mine.weight()), to_numpy(theirs.weight())
        before = cast(old, dtype)
        wide = compute_dtype(dtype)
        delta = (new.astype(np.float64) - old.astype(np.float64)).astype(wide)
        after = cast(before.astype(wide) + delta, dtype)
        rows, columns = np.nonzero(bits(after) != bits(before))
        if rows.size:
            edits.append(
                WeightEdit.build(
                    mine.matrix, "add", rows, columns, before[rows, columns], delta[rows, columns]
                )
            )
    if not edits:
        raise SelectionError(
            "fine-tuning found no weights that do better than the base on the validation rows",
            hint="allow more accuracy to be lost (--max-cost), or give it more --epochs",
        )
    patch = NeuronPatch(metadata, tuple(edits))
    if make_plan(checkpoint, [patch]).drift.unequal:
        raise ModelError(
            f"{checkpoint.folder} holds weights that float32 cannot, or others than were loaded",
            hint="save the model in float32, bfloat16 or float16",
        )
    return patch


def changed_units(patch: NeuronPatch) -> int:
    """Number of units with an edited weight in their row of ``up`` or column of ``down``."""
    units: dict[BlockId, set[Any]] = {}
    for edit in patch.weights:
        index = edit.columns if edit.matrix.role == "down" else edit.rows
        units.setdefault(edit.matrix.block, set()).update(np.unique(index).tolist())
    return sum(map(len, units.values()))
