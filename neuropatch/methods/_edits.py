"""From the units or weights that a method found to edits of a patch.

======  ====================================================  =======================
kind    units                                                 weights
======  ====================================================  =======================
zero    switched off                                          become 0
scale   activation times the strength                         times the strength
steer   plus a constant, toward the desensitised text         none
noise   plus a random constant of the activation's spread     plus noise of their size
======  ====================================================  =======================

``steer`` follows APNEAP (Wu et al., Findings of ACL 2024): each unit's activation is moved by the
difference of its means on the desensitised and on the private text. ``noise`` is the control that
is reported to do as well: a constant drawn from a normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neuropatch.attribution.activations import Moments, input_moments, unit_modules
from neuropatch.attribution.selection import IndexSets
from neuropatch.data.pii.corpus import PiiCorpus
from neuropatch.data.pii.desensitise import desensitised
from neuropatch.data.pii.tokens import PiiSample, encode_records
from neuropatch.errors import UsageError
from neuropatch.methods._base import Given, Inputs
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.modules import resolve_parameters
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.runtime import to_numpy
from neuropatch.storage.dtypes import compute_dtype

EDITS = ("zero", "scale", "steer", "noise")
"""Kinds of edits."""

_NEUTRAL = {"scale": 1.0, "steer": 0.0, "noise": 0.0}
"""The strength at which a kind of edit does nothing."""

_DEFAULT = {"zero": 0.0, "scale": 0.5, "steer": 1.0, "noise": 1.0}


@dataclass(frozen=True)
class Edit:
    """What is done to what a method found.

    Attributes:
        kind: One of :data:`EDITS`.
        strength: The factor of ``scale`` (0.5 if not given); times the difference of means for
            ``steer``, and times the spread for ``noise`` (1 if not given). ``zero`` has none.

    Raises:
        UsageError: If the kind is unknown, or the strength has no meaning or no effect.
    """

    kind: str = "zero"
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in EDITS:
            raise UsageError(f"unknown edit '{self.kind}'", hint=f"choose {', '.join(EDITS)}")
        if self.strength is None:
            return
        if self.kind == "zero":
            raise UsageError(
                "--edit zero and --strength do not go together",
                hint="--strength is the factor of --edit scale",
            )
        if not math.isfinite(self.strength) or self.strength == _NEUTRAL[self.kind]:
            raise UsageError(
                f"--strength {self.strength:g} makes no edit by {self.kind}",
                hint=f"leave it out for {_DEFAULT[self.kind]:g}",
            )

    @property
    def amount(self) -> float:
        """The strength, or the kind's default."""
        return _DEFAULT[self.kind] if self.strength is None else self.strength

    @property
    def reads_activations(self) -> bool:
        """Whether an edit of units is made from their activations on the records."""
        return self.kind in ("steer", "noise")

    def check(self, given: Given) -> None:
        """Refuse, before anything is loaded, an edit of units that lacks the data it is made from.

        Raises:
            UsageError: If records are missing, or the model is no causal one.
        """
        if not self.reads_activations:
            return
        if not given.pii:
            raise UsageError(
                f"--edit {self.kind} is made from activations on records with personal data",
                hint="give --pii FILE, or choose --edit zero or scale",
            )
        if given.kind != "causal":
            raise UsageError(
                f"--edit {self.kind} is for causal language models, and this one is {given.kind}",
                hint="choose --edit zero or scale",
            )

    def check_weights(self) -> None:
        """Refuse an edit that weights cannot take.

        Raises:
            UsageError: For ``steer``, which moves activations.
        """
        if self.kind == "steer":
            raise UsageError(
                "--edit steer moves activations of units, and this method finds weights",
                hint="choose --edit zero, scale or noise",
            )


def unit_edits(
    inputs: Inputs, units: Mapping[BlockId, NDArray[np.int64]], edit: Edit
) -> tuple[UnitEdit, ...]:
    """Edits of units.

    Args:
        inputs: What the method worked on.
        units: Sorted indices of units by block.
        edit: What to do to them.

    Raises:
        UsageError: If the edit needs records or a tokenizer, and they are missing.
    """
    units = {block: chosen for block, chosen in units.items() if len(chosen)}
    if edit.reads_activations:
        make = _steering if edit.kind == "steer" else _noise
        vectors = make(inputs, units, edit.amount)
        return tuple(
            UnitEdit(block, "steer", units[block], value.astype(np.float32))
            for block, value in vectors.items()
        )
    downs = [MatrixId(*block, "down") for block in units]
    edits = []
    for slot in resolve_parameters(inputs.model, inputs.layout, downs):
        chosen = units[slot.matrix.block]
        columns = slot.weight()[:, torch.from_numpy(chosen)].T
        factor = np.full(len(chosen), edit.amount, dtype=np.float32)
        edits.append(UnitEdit(slot.matrix.block, "scale", chosen, factor, to_numpy(columns)))
    return tuple(edits)


def weight_edits(inputs: Inputs, sets: IndexSets, edit: Edit) -> tuple[WeightEdit, ...]:
    """Edits of weights.

    Args:
        inputs: What the method worked on.
        sets: Sorted flat indices of weights by matrix.
        edit: What to do to them.

    Raises:
        UsageError: For ``steer``, which moves activations.
    """
    edit.check_weights()
    rng = np.random.default_rng(inputs.seed)
    matrices = [matrix for matrix, flat in sets.items() if len(flat)]
    edits = []
    split = inputs.world.splits
    for slot in resolve_parameters(inputs.model, inputs.layout, matrices, split=split):
        rows, columns = np.divmod(sets[slot.matrix], slot.slot.shape[1])
        weight = slot.whole()[torch.from_numpy(rows), torch.from_numpy(columns)]
        before = to_numpy(weight)
        wide = compute_dtype(before.dtype)
        if edit.kind == "zero":
            made = WeightEdit.build(slot.matrix, "zero", rows, columns, before)
        elif edit.kind == "scale":
            factor = np.full(len(rows), edit.amount, dtype=wide)
            made = WeightEdit.build(slot.matrix, "scale", rows, columns, before, factor)
        else:
            size = edit.amount * np.abs(before.astype(np.float64))
            noise = (size * rng.standard_normal(len(rows))).astype(wide)
            made = WeightEdit.build(slot.matrix, "add", rows, columns, before, noise)
        edits.append(made)
    return tuple(edits)


def _steering(
    inputs: Inputs, units: Mapping[BlockId, NDArray[np.int64]], strength: float
) -> dict[BlockId, NDArray[np.float64]]:
    """Strength times what separates the desensitised text from the private one, by unit."""
    records = _records(inputs)
    private = _moments(inputs, units, records.samples, "private text")
    clean = _moments(inputs, units, _desensitised_samples(inputs, records), "desensitised text")
    return {
        block: strength * (clean[block].mean - private[block].mean).cpu().numpy()[chosen]
        for block, chosen in units.items()
    }


def _noise(
    inputs: Inputs, units: Mapping[BlockId, NDArray[np.int64]], strength: float
) -> dict[BlockId, NDArray[np.float64]]:
    """Strength times the standard deviation of each unit's activation times a normal number."""
    private = _moments(inputs, units, _records(inputs).samples, "private text")
    rng = np.random.default_rng(inputs.seed)
    return {
        block: strength
        * private[block].std.cpu().numpy()[chosen]
        * rng.standard_normal(len(chosen))
        for block, chosen in units.items()
    }


def _moments(
    inputs: Inputs,
    units: Mapping[BlockId, NDArray[np.int64]],
    samples: tuple[PiiSample, ...],
    label: str,
) -> dict[BlockId, Moments]:
    """Moments of all units of some blocks, over the tokens that predict personal data."""
    return input_moments(
        inputs.model,
        unit_modules(inputs.model, inputs.layout, units),
        [sample.secret() for sample in samples],
        positions="predicting",
        batch_tokens=inputs.limits.batch_tokens,
        progress=inputs.progress,
        label=label,
        world=inputs.world,
    )


def _desensitised_samples(inputs: Inputs, records: PiiCorpus) -> tuple[PiiSample, ...]:
    if inputs.tokenizer is None:
        raise UsageError(
            "steering reads the desensitised text, for which the tokenizer is missing",
            hint="give Inputs(tokenizer=...)",
        )
    texts = desensitised(records.records, seed=inputs.seed)
    # The records may have been cut to the model's context, in which their stand-ins must fit too.
    longest = max(len(sample.ids) for sample in records.samples)
    return encode_records(texts, inputs.tokenizer, max_length=longest).samples


def _records(inputs: Inputs) -> PiiCorpus:
    if inputs.pii is None:
        raise UsageError(
            "the edit is made from activations on records with personal data",
            hint="give Inputs(pii=...)",
        )
    return inputs.pii
