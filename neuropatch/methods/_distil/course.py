"""What a student is taught: lessons of what is to be forgotten and of what is to stay."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from neuropatch.data.corpus import Corpus
from neuropatch.data.pii.corpus import PiiCorpus
from neuropatch.data.tokenize import Sample, special_prefix
from neuropatch.errors import UsageError
from neuropatch.methods._base import GENERAL, PII, Inputs
from neuropatch.methods._distil.config import DistilConfig
from neuropatch.methods._distil.crops import with_crops
from neuropatch.methods._distil.lookalikes import Lookalikes
from neuropatch.methods._distil.others import teach_from_others
from neuropatch.methods._distil.targets import Lesson, teach
from neuropatch.methods._samples import behaviour_samples
from neuropatch.patch.patch import NeuronPatch


@dataclass(frozen=True)
class Subject:
    """The lessons of one data set.

    Attributes:
        name: The data set's.
        weight: Weight of the divergence from them.
        lessons: A lesson of each sample, and of each of its crops.
    """

    name: str
    weight: float
    lessons: tuple[Lesson, ...]


def make_course(
    inputs: Inputs, config: DistilConfig, teacher: NeuronPatch | None
) -> tuple[Subject, ...]:
    """Ask the teachers.

    Args:
        inputs: Records to forget, and what is kept.
        config: Parameters.
        teacher: The patch whose predictions are learned on what is to be forgotten; None for those
            of other people's prompts.

    Returns:
        What is to be forgotten, and then what is kept.

    Raises:
        DataError: If there are no other people's prompts.
        UsageError: If there are no records, or no tokenizer.
    """
    with precision(inputs, config):
        pii = _records(inputs)
        course = [Subject(PII, 1.0, tuple(_forgetting(inputs, config, pii, teacher)))]
        kept: list[tuple[str, Corpus | PiiCorpus, float]] = [
            (name, corpus, config.retain_weight) for name, corpus in inputs.retain.items()
        ]
        if inputs.general is not None:
            kept.append((GENERAL, inputs.general, config.general_weight))
        for name, corpus, weight in kept:
            lessons = _taught(inputs, config, _copies(inputs, config, corpus))
            course.append(Subject(name, weight, tuple(lessons)))
    return tuple(course)


def precision(inputs: Inputs, config: DistilConfig) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16 where that is asked for; for lessons and training only."""
    device = next(inputs.model.parameters()).device.type
    return torch.autocast(device, dtype=torch.bfloat16, enabled=config.mixed)


def _records(inputs: Inputs) -> PiiCorpus:
    if inputs.pii is None:
        raise UsageError("distil forgets records", hint="give Inputs(pii=...)")
    return inputs.pii


def _forgetting(
    inputs: Inputs, config: DistilConfig, pii: PiiCorpus, teacher: NeuronPatch | None
) -> list[Lesson]:
    """What is learned on the records to forget."""
    copies = _copies(inputs, config, pii)
    if teacher is not None:
        with teacher.applied(inputs.model):
            return _taught(inputs, config, copies)
    lookalikes = None
    if config.teacher == "lookalikes":
        vocabulary = inputs.layout.signature.dimensions["vocabulary"]
        lookalikes = Lookalikes(_tokenizer(inputs), vocabulary)
    retained = [one for one in inputs.retain.values() if isinstance(one, PiiCorpus)]
    lessons = teach_from_others(
        inputs.model,
        pii.samples,
        [sample for corpus in retained for sample in corpus.samples],
        lookalikes=lookalikes,
        prompts=config.prompts,
        tokens=config.tokens,
        batch_tokens=inputs.limits.batch_tokens,
        seed=inputs.seed,
    )
    # A copy lacks some of the prompt, which was exchanged as a whole.
    return [
        Lesson(copy, lesson.target)
        for lesson, mine in zip(lessons, copies, strict=True)
        for copy in mine
    ]


def _copies(inputs: Inputs, config: DistilConfig, corpus: Corpus | PiiCorpus) -> list[list[Sample]]:
    """The samples of a data set, those with personal data each with its crops."""
    samples: Sequence[Sample] = behaviour_samples(corpus)
    if not (isinstance(corpus, PiiCorpus) and config.crops):
        return [[sample] for sample in samples]
    prefix = len(special_prefix(_tokenizer(inputs)))
    return with_crops(samples, config.crops, prefix=prefix, seed=inputs.seed)


def _taught(
    inputs: Inputs, config: DistilConfig, copies: Sequence[Sequence[Sample]]
) -> list[Lesson]:
    """What the model predicts as it is now."""
    return teach(
        inputs.model,
        [sample for mine in copies for sample in mine],
        tokens=config.tokens,
        batch_tokens=inputs.limits.batch_tokens,
    )


def _tokenizer(inputs: Inputs) -> Any:
    if inputs.tokenizer is None:
        raise UsageError(
            "distil cuts records and exchanges the tokens of secrets, and has no tokenizer",
            hint="give Inputs(tokenizer=...), or crops=0 and teacher=others",
        )
    return inputs.tokenizer
