"""DEPN: detect privacy neurons by integrated gradients, and switch them off.

Source: arXiv 2310.20138, EMNLP 2023. For each private token of a text, given what the model sees,

    Att(h_k) = h_k * 1/m * sum over j = 1 to m of dP(token | text, (j/m) h) / dh_k

is taken of every MLP unit of one layer at a time, at the position that predicts the token; a text's
scores are the mean over its private tokens. The aggregator keeps of each text the units with at
least ``text_threshold`` times its highest score, of these the units that are kept in at least
``text_share`` of the texts, and of these the ones with the highest total score over all texts.

A causal model predicts each private token from all that comes before it. For a masked model all
private tokens of a text are masked at once, and each is predicted in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuropatch.attribution.integrated import (
    IntegratedGradients,
    Question,
    causal_question,
    masked_question,
)
from neuropatch.attribution.joining import check_dense
from neuropatch.data.tokenize import MaskedSample, special_suffix
from neuropatch.errors import DataError, SelectionError, UsageError
from neuropatch.methods._base import Given, Inputs, Localization, Method
from neuropatch.methods._units import UnitConfig, UnitSets, check_units, select_units, unit_patch
from neuropatch.models.coordinates import BlockId
from neuropatch.models.kind import model_kind
from neuropatch.models.layout import Layout
from neuropatch.world import World


@dataclass(frozen=True)
class DepnConfig(UnitConfig):
    """DEPN's parameters, besides those of every method that finds units.

    Attributes:
        steps: Points of the Riemann sum, ``m``.
        text_threshold: A text keeps units with at least this share of its highest score.
        text_share: Units that fewer texts than this share keep are dropped.

    Raises:
        UsageError: If a parameter is out of range.
    """

    steps: int = 20
    text_threshold: float = 0.1
    text_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise UsageError(f"steps is {self.steps}", hint="an integral needs at least 1 point")
        for name in ("text_threshold", "text_share"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise UsageError(f"{name} is {value:g}", hint="give a share above 0, 1 at most")


@dataclass
class Aggregator:
    """DEPN's choice of units over texts, text by text.

    Attributes:
        threshold: A text keeps units with at least this share of its highest score.
        texts: Number of texts so far.
        kept: Number of units that each text keeps.
        counts: In how many texts each unit is kept, ``[units]`` of each block.
        totals: Sum of each unit's scores over all texts, likewise.
        probabilities: Probability of every private token.
    """

    threshold: float
    texts: int = 0
    kept: list[int] = field(default_factory=list)
    counts: dict[BlockId, NDArray[np.int64]] = field(default_factory=dict)
    totals: dict[BlockId, NDArray[np.float64]] = field(default_factory=dict)
    probabilities: list[float] = field(default_factory=list)

    def add(self, scores: Mapping[BlockId, NDArray[np.float64]]) -> None:
        """Take in the scores of one text; a text without a score above 0 keeps no unit."""
        bound = self.threshold * max(float(values.max()) for values in scores.values())
        self.texts += 1
        self.kept.append(0)
        for block, values in scores.items():
            kept = (values >= bound) & (values > 0)
            self.kept[-1] += int(kept.sum())
            if block not in self.counts:
                self.counts[block] = np.zeros(len(values), dtype=np.int64)
                self.totals[block] = np.zeros(len(values))
            self.counts[block] += kept
            self.totals[block] += values

    def reduce(self, world: World) -> None:
        """Take in the texts of all processes."""
        if world.size == 1:
            return
        for sums in (*self.counts.values(), *self.totals.values()):
            world.sum_([torch.from_numpy(sums)])
        self.kept = [int(n) for some in world.gathered(self.kept) for n in some]
        self.probabilities = [p for some in world.gathered(self.probabilities) for p in some]
        self.texts = len(self.kept)

    def shared(self, share: float) -> UnitSets:
        """Units that at least a share of the texts keep."""
        found = {
            block: np.flatnonzero(counts >= share * self.texts)
            for block, counts in self.counts.items()
        }
        return {block: units for block, units in found.items() if len(units)}

    def scores(self, units: UnitSets) -> dict[BlockId, NDArray[np.float64]]:
        """Total scores of some units, and 0 for all others."""
        found = {block: np.zeros_like(totals) for block, totals in self.totals.items()}
        for block, chosen in units.items():
            found[block][chosen] = self.totals[block][chosen]
        return found


def localize(inputs: Inputs, config: DepnConfig) -> Localization:
    """Find the units that personal data hangs on, and make the patch that edits them.

    Args:
        inputs: Records with personal data.
        config: DEPN's parameters.

    Raises:
        SelectionError: If no unit is left.
        DataError: If a text is longer than a masked model takes.
        ModelError: If the model is a mixture of experts, or a probability is not a number.
    """
    key = (METHOD.name, config.steps, config.text_threshold)
    aggregator = inputs.remember(key, lambda: _aggregate(inputs, config))
    shared = aggregator.shared(config.text_share)
    if not shared:
        raise _none_shared(aggregator, config)
    units = select_units(aggregator.scores(shared), config)
    return Localization(
        unit_patch(inputs, METHOD, config, units),
        statistics={
            "texts": aggregator.texts,
            "private_tokens": len(aggregator.probabilities),
            "mean_probability": float(np.mean(aggregator.probabilities)),
            "kept_in_a_text": {
                "mean": float(np.mean(aggregator.kept)),
                "max": max(aggregator.kept),
            },
            "kept_in_enough_texts": sum(map(len, shared.values())),
            "selected": sum(map(len, units.values())),
            "layers": [
                {
                    "block": str(block),
                    "kept_in_enough_texts": len(shared.get(block, ())),
                    "selected": len(units.get(block, ())),
                }
                for block in aggregator.totals
            ],
        },
    )


def _aggregate(inputs: Inputs, config: DepnConfig) -> Aggregator:
    """Integrated gradients of all texts, aggregated."""
    kind = model_kind({"architectures": [type(inputs.model).__name__]})
    questions = _questions(inputs, kind)
    gradients = IntegratedGradients(
        inputs.model,
        inputs.layout,
        kind=kind,
        steps=config.steps,
        batch_tokens=inputs.limits.batch_tokens,
        note=inputs.note,
    )
    aggregator = Aggregator(config.text_threshold)
    inputs.progress.start("integrated gradients", len(questions))
    for question in questions:
        found = gradients.attribute(question)
        means = {block: scores.double().mean(dim=0) for block, scores in found.scores.items()}
        aggregator.add({block: mean.cpu().numpy() for block, mean in means.items()})
        aggregator.probabilities += found.probabilities.tolist()
        inputs.progress.advance()
    aggregator.reduce(inputs.world)
    return aggregator


def _questions(inputs: Inputs, kind: str) -> list[Question]:
    assert inputs.pii is not None  # what the method needs
    samples = inputs.world.share([sample.secret() for sample in inputs.pii.samples])
    if kind == "causal":
        return [causal_question(sample) for sample in samples]
    return _masked_questions(inputs, samples)


def _masked_questions(inputs: Inputs, samples: Sequence[MaskedSample]) -> list[Question]:
    tokenizer: Any = inputs.tokenizer
    mask = tokenizer.mask_token_id
    if mask is None:
        raise DataError(
            "the tokenizer has no mask token",
            hint="copy the tokenizer files of the masked language model into its folder",
        )
    suffix = special_suffix(tokenizer)
    config: Any = inputs.model.config
    for sample in samples:
        length = len(sample.ids) + len(suffix)
        if length > config.max_position_embeddings:
            raise DataError(
                f"row {sample.row + 1} has {length} "
                f"tokens, and the model takes {config.max_position_embeddings}",
                hint="cut long samples with --max-length "
                f"{config.max_position_embeddings - len(suffix)}",
            )
    return [masked_question(sample, mask, suffix) for sample in samples]


def _none_shared(aggregator: Aggregator, config: DepnConfig) -> SelectionError:
    most = max(int(counts.max()) for counts in aggregator.counts.values())
    if not most:
        return SelectionError(
            "no unit raises the probability of any private token",
            hint="give other records, or a model that has memorised these",
        )
    return SelectionError(
        f"no unit is kept in {config.text_share:.0%} of the {aggregator.texts} texts; the most "
        f"shared one is kept in {most}",
        hint=f"use --set text_share={most / aggregator.texts:.3g}, or a lower text_threshold",
    )


def _check(layout: Layout, given: Given, config: DepnConfig) -> None:
    check_dense(layout)
    check_units(layout, config)


METHOD = Method(
    name="depn",
    summary="deactivate the units that integrated gradients of the secrets' probability point to",
    paper="arXiv 2310.20138",
    granularity="units",
    config=DepnConfig,
    needs=frozenset({"pii"}),
    takes=frozenset(),
    check=_check,
    run=localize,
    kinds=("causal", "masked"),
    processes="samples",
)
