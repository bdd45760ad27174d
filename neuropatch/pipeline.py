"""From names to a patch: resolve the model, read the data sets, run the method.

What ``neuropatch localize`` does, for programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.plan import make_plan
from neuropatch.data.columns import ColumnOptions
from neuropatch.data.corpus import Corpus, load_corpus
from neuropatch.errors import DataError, ModelError
from neuropatch.hub.resolve import ResolvedModel, resolve_model
from neuropatch.methods._base import Inputs, Limits, Localization, find_method
from neuropatch.patch.patch import NeuronPatch
from neuropatch.progress import Progress, Silent

if TYPE_CHECKING:
    from neuropatch.data.tokenize import Tokenizer


@dataclass(frozen=True)
class DataOptions:
    """How every data set of a run is read.

    Attributes:
        samples: Most rows taken of each.
        seed: Seed of the choice of rows.
        columns: Columns; what is None is guessed, and said.
        max_length: Most tokens kept of a sample; None keeps all.
        chat_template: Put prompts into the model's chat template.
    """

    samples: int = 128
    seed: int = 0
    columns: ColumnOptions = field(default_factory=ColumnOptions)
    max_length: int | None = None
    chat_template: bool = False


def localize(
    model: str,
    *,
    method: str = "spin",
    config: Mapping[str, Any] | None = None,
    datasets: Mapping[str, str],
    general: str | None = None,
    data: DataOptions | None = None,
    dtype: str = "auto",
    device: str = "auto",
    limits: Limits | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> Localization:
    """Find the weights or units behind a behaviour of a model, as a patch.

    Args:
        model: A local folder, or ``user/name[@revision]`` on the Hub.
        method: Name of a method, see :func:`neuropatch.methods._base.method_names`.
        config: The method's parameters; its defaults for those left out.
        datasets: Files or Hub data sets by name.
        general: The data set whose abilities are kept.
        data: How data sets are read.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto``, or a torch device.
        limits: Resources of the run.
        progress: Told how far it is.
        note: Told sentences for the user.

    Returns:
        The patch, whose ``before`` values are those of the model's files.

    Raises:
        NeuropatchError: If anything about the model, the data or the options is wrong.
    """
    chosen = find_method(method)
    parameters = chosen.config(**(config or {}))
    data = data or DataOptions()
    resolved = resolve_model(model)
    checkpoint = Checkpoint.open(resolved.folder)
    chosen.check(checkpoint.layout, list(datasets), general is not None, parameters)
    # Imported late: everything above refuses bad input without loading transformers.
    from neuropatch.models.loading import (
        load_causal_model,
        load_tokenizer,
        parse_device,
        parse_dtype,
    )

    parse_dtype(dtype)
    parse_device(device)
    tokenizer = load_tokenizer(resolved.folder)
    corpora = {name: _corpus(spec, name, tokenizer, data) for name, spec in datasets.items()}
    kept = None if general is None else _corpus(general, "general", tokenizer, data)
    for corpus in [*corpora.values(), *([kept] if kept is not None else [])]:
        _check_fits(corpus, checkpoint)
        for sentence in corpus.notes:
            note(sentence)
    inputs = Inputs(
        model=load_causal_model(resolved.folder, dtype=dtype, device=device),
        datasets=corpora,
        general=kept,
        base_model=resolved.base,
        seed=data.seed,
        limits=limits or Limits(),
        progress=progress or Silent(),
        note=note,
    )
    found = chosen.run(inputs, parameters)
    return replace(found, patch=_as_stored(found.patch, checkpoint, resolved))


def _corpus(spec: str, name: str, tokenizer: Tokenizer, data: DataOptions) -> Corpus:
    return load_corpus(
        spec,
        name=name,
        samples=data.samples,
        seed=data.seed,
        columns=data.columns,
        tokenizer=tokenizer,
        max_length=data.max_length,
        chat_template=data.chat_template,
    )


def _check_fits(corpus: Corpus, checkpoint: Checkpoint) -> None:
    """Refuse samples that the model has no embeddings or positions for.

    Raises:
        ModelError: If the tokenizer has tokens that the model does not have.
        DataError: If a sample is longer than the model's context.
    """
    vocabulary = checkpoint.layout.signature.dimensions["vocabulary"]
    largest = max(max(sample.ids) for sample in corpus.samples)
    if largest >= vocabulary:
        raise ModelError(
            f"the tokenizer of {checkpoint.folder} makes token {largest} of {corpus.source}, and "
            f"the model has {vocabulary} tokens",
            hint="copy the model's own tokenizer files into the folder",
        )
    names = ("max_position_embeddings", "n_positions")
    context = next((size for name in names if (size := checkpoint.config.get(name))), None)
    longest = max(corpus.samples, key=lambda sample: len(sample.ids))
    if isinstance(context, int) and len(longest.ids) > context:
        raise DataError(
            f"{corpus.source}: row {longest.row + 1} has {len(longest.ids)} tokens, and the model "
            f"takes {context}",
            hint=f"cut long samples with --max-length {context}",
        )


def _as_stored(patch: NeuronPatch, checkpoint: Checkpoint, resolved: ResolvedModel) -> NeuronPatch:
    """The patch with the values that the files hold, which another dtype may have rounded."""
    stored = make_plan(checkpoint, [patch]).undo_patch()
    declared = checkpoint.config.get("license")
    metadata = replace(
        patch.metadata,
        base_model=resolved.base,
        license=declared if isinstance(declared, str) else None,
    )
    return replace(stored, metadata=metadata)
