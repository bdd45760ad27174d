"""Evaluating a model in memory: the base, the patched model, and random controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuropatch.errors import UsageError
from neuropatch.evaluation.compare import PERPLEXITY, compare_pairs, compare_text
from neuropatch.evaluation.control import random_control
from neuropatch.evaluation.exclusion import UsedRows
from neuropatch.evaluation.inputs import (
    PairFiles,
    PairInput,
    TextInput,
    load_pair_input,
    load_text_input,
)
from neuropatch.evaluation.measure import Variant, check_lengths, measure_pairs, measure_text
from neuropatch.evaluation.results import EvaluationResult, MetricResult
from neuropatch.evaluation.settings import EvaluationSettings
from neuropatch.models.modules import model_layout
from neuropatch.patch.algebra import compose
from neuropatch.patch.metadata import BaseModel
from neuropatch.patch.patch import NeuronPatch
from neuropatch.progress import Progress, Silent
from neuropatch.provenance import library_versions

if TYPE_CHECKING:
    from torch import nn

    from neuropatch.data.tokenize import Tokenizer


DAMAGE = 0.1
"""Relative rise of perplexity beyond which other changes may be no more than damage."""


FEW_ITEMS = 20
"""Below this number of items a percentile interval is too narrow by about a tenth or more:
its width is ``sqrt((n - 1) / n) * 1.96 / t`` of the one by Student's t, 0.91 for 20 items."""


@dataclass(frozen=True)
class EvaluationInputs:
    """Everything that is evaluated on."""

    text: TextInput | None
    pairs: tuple[PairInput, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about the data."""
        notes = [] if self.text is None else [*self.text.notes]
        return (*notes, *(note for one in self.pairs for note in one.notes))


def evaluate(
    model: nn.Module,
    tokenizer: Tokenizer,
    patches: Sequence[NeuronPatch] = (),
    *,
    text: str | None = None,
    pairs: Sequence[PairFiles] = (),
    settings: EvaluationSettings | None = None,
    base_model: BaseModel | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Measure what patches do to a model, beside random patches of the same size.

    The model's weights are there once: it holds each patch for as long as it is measured, and
    has its own values afterwards.

    Args:
        model: A causal language model of transformers that holds none of the patches.
        tokenizer: Its tokenizer.
        patches: Several are composed into one; none measures the model alone.
        text: A text file or Hub data set, for perplexity and divergence.
        pairs: Sets of pairs, for preference.
        settings: Sizes and seeds.
        base_model: What the result calls the model.
        progress: Told how far it is.

    Returns:
        The result. Rows that a patch was localised on are left out, which its notes say.

    Raises:
        UsageError: If there is neither a text nor a set of pairs.
        DataError: If the data cannot be used, or all of it was used to localise a patch.
        PatchConflictError: If patches edit a weight in different ways.
        PatchMismatchError: If a patch is for another architecture.
        SelectionError: If a patch is too large for a random control.
        ModelError: If the model gives results that are not finite.
    """
    settings = settings or EvaluationSettings()
    inputs = load_inputs(tokenizer, patches, text=text, pairs=pairs, settings=settings)
    return measure(
        model, inputs, patches, settings=settings, base_model=base_model, progress=progress
    )


def load_inputs(
    tokenizer: Tokenizer,
    patches: Sequence[NeuronPatch],
    *,
    text: str | None,
    pairs: Sequence[PairFiles],
    settings: EvaluationSettings,
) -> EvaluationInputs:
    """Read and tokenise the data, without the rows that the patches were localised on.

    Raises:
        UsageError: If there is neither a text nor a set of pairs, or two sets share a name.
        DataError: If the data cannot be used.
    """
    check_requested(text, pairs)
    used = UsedRows.of(record for patch in patches for record in patch.metadata.datasets)
    return EvaluationInputs(
        None if text is None else load_text_input(text, tokenizer, settings, used),
        tuple(load_pair_input(files, tokenizer, settings, used) for files in pairs),
    )


def check_requested(text: str | None, pairs: Sequence[PairFiles]) -> None:
    """Refuse an evaluation on nothing, or with a name that means two things.

    Raises:
        UsageError: If there is neither a text nor a set of pairs, or two sets share a name.
    """
    if text is None and not pairs:
        raise UsageError(
            "there is nothing to evaluate on",
            hint="give --text FILE, or --pairs NAME=PREFERRED_FILE,DISPREFERRED_FILE",
        )
    names = [files.name for files in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two sets of pairs are called '{name}'", hint="rename one")


def measure(
    model: nn.Module,
    inputs: EvaluationInputs,
    patches: Sequence[NeuronPatch],
    *,
    settings: EvaluationSettings,
    base_model: BaseModel | None = None,
    patch_names: Sequence[str] | None = None,
    warnings: Sequence[str] = (),
    progress: Progress | None = None,
) -> EvaluationResult:
    """Measure a model on inputs that are loaded; see :func:`evaluate` for the rest.

    Args:
        model: A causal language model of transformers that holds none of the patches.
        inputs: What to measure on, see :func:`load_inputs`.
        patches: Several are composed into one; none measures the model alone.
        settings: Sizes and seeds.
        base_model: What the result calls the model.
        patch_names: What the result calls each patch.
        warnings: Sentences that the result passes on beside its own.
        progress: Told how far it is.
    """
    progress = progress or Silent()
    _check_lengths(model, inputs)
    variants = _variants(model, compose_all(patches), settings)
    metrics: list[MetricResult] = []
    if inputs.text is not None:
        windows = inputs.text.windows
        progress.start("text", len(windows) * len(variants))
        scores = measure_text(model, windows, variants, progress)
        metrics += compare_text(scores, settings.seed)
    for one in inputs.pairs:
        progress.start(one.name, 2 * len(one.preferred) * len(variants))
        margin = measure_pairs(
            model, one, variants, batch_tokens=settings.batch_tokens, progress=progress
        )
        metrics += compare_pairs(one.name, margin, one.prompts, settings.seed)
    parameter = next(model.parameters())
    return EvaluationResult(
        model=base_model or BaseModel(),
        patches=_summaries(patches, patch_names),
        control_seeds=settings.control_seeds if patches else (),
        settings=settings.to_json(),
        device=str(parameter.device),
        dtype=str(parameter.dtype).removeprefix("torch."),
        text=None if inputs.text is None else inputs.text.record,
        pairs=tuple(one.record for one in inputs.pairs),
        metrics=tuple(metrics),
        notes=inputs.notes,
        warnings=(*warnings, *_doubts(metrics)),
        versions=library_versions(),
    )


def compose_all(patches: Sequence[NeuronPatch]) -> NeuronPatch | None:
    """One patch that does what all do: a single one as it is, None of none.

    Raises:
        PatchConflictError: If two edit a weight in different ways.
        PatchMismatchError: If they are for different architectures.
    """
    if len(patches) < 2:
        return patches[0] if patches else None
    return compose(*patches)


def _variants(
    model: nn.Module, patch: NeuronPatch | None, settings: EvaluationSettings
) -> list[Variant]:
    """The base, the patched model and each control; everything is checked before a measurement."""
    base = Variant("the model")
    if patch is None:
        return [base]
    patch.check_fits(model_layout(model).signature, what="the model")
    controls = [
        Variant(f"the random control with seed {seed}", random_control(patch, model, seed))
        for seed in settings.control_seeds
    ]
    return [base, Variant("the patch", patch), *controls]


def _doubts(metrics: Sequence[MetricResult]) -> list[str]:
    """What puts the other metrics of a patched model in doubt.

    A model that writes noise prefers any response as often as not, which may look like progress.
    """
    doubts = []
    few = [one for one in metrics if one.count < FEW_ITEMS]
    if few:
        named = ", ".join(f"{one.metric.label} ({one.count})" for one in few)
        doubts.append(
            f"fewer than {FEW_ITEMS} windows or prompts give intervals that are too narrow: {named}"
        )
    patched = [one for one in metrics if one.patched is not None]
    if patched and all(one.metric != PERPLEXITY for one in patched):
        doubts.append("without a text nothing says whether the patch damages the model")
    for rise in (one.relative_difference for one in patched):
        if rise is not None and rise > DAMAGE:
            doubts.append(
                f"perplexity rises by {rise:,.0%}: the patch damages the model, and other changes "
                "may be no more than that"
            )
    return doubts


def _check_lengths(model: nn.Module, inputs: EvaluationInputs) -> None:
    if inputs.text is not None:
        check_lengths(
            model, inputs.text.windows, what="a window", hint="give --window-length {limit} or less"
        )
    for one in inputs.pairs:
        check_lengths(
            model,
            [*one.preferred, *one.dispreferred],
            what=f"a sample of '{one.name}'",
            hint="give --max-length {limit} or less",
        )


def _summaries(
    patches: Sequence[NeuronPatch], names: Sequence[str] | None
) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {
            "name": None if names is None else names[number],
            "edits": len(patch),
            "inverted": patch.inverted,
            "method": dict(patch.metadata.method),
            "base_model": patch.metadata.to_json()["base_model"],
        }
        for number, patch in enumerate(patches)
    )
