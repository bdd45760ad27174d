"""From names to a patch: resolve the model, read the data sets, run the method.

What ``neuropatch localize`` does, for programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.stored import as_stored
from neuropatch.data.columns import ColumnOptions
from neuropatch.data.corpus import Corpus, load_corpus
from neuropatch.data.pii.corpus import PiiCorpus, PiiOptions, load_pii
from neuropatch.data.pii.records import is_marked
from neuropatch.data.tables import read_table
from neuropatch.errors import DataError, ModelError, UsageError
from neuropatch.hub.resolve import ResolvedModel, resolve_model
from neuropatch.methods._base import (
    GENERAL,
    PII,
    Given,
    Inputs,
    Limits,
    Localization,
    Method,
    find_method,
)
from neuropatch.methods._parameters import parse_parameters
from neuropatch.models.kind import model_kind
from neuropatch.patch.patch import NeuronPatch
from neuropatch.progress import Progress, Silent
from neuropatch.world import ALONE, World

if TYPE_CHECKING:
    from neuropatch.data.tokenize import Tokenizer


DEFAULT_SAMPLES = 128
"""Rows taken of a data set when the user names no number (SPIN's)."""


@dataclass(frozen=True)
class DataFiles:
    """The data sets of a run: files, or data sets on the Hub.

    Attributes:
        datasets: Conflicting data sets by name.
        general: The data set whose abilities are kept.
        pii: Records with personal data that is to be forgotten.
        retain: Data sets whose behaviour is kept, by name; records with personal data among them.
    """

    datasets: Mapping[str, str] = field(default_factory=dict)
    general: str | None = None
    pii: str | None = None
    retain: Mapping[str, str] = field(default_factory=dict)

    def given(self, kind: str) -> Given:
        """What a method is given, on a model of a kind.

        Raises:
            UsageError: If two data sets have the same name.
        """
        names = [*self.datasets, *self.retain]
        names += [name for name in (PII, GENERAL) if getattr(self, name) is not None]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(
                    f"two data sets are called '{name}'", hint="give each its own NAME"
                )
        return Given(
            tuple(self.datasets),
            self.general is not None,
            self.pii is not None,
            tuple(self.retain),
            kind,
        )


@dataclass(frozen=True)
class DataOptions:
    """How every data set of a run is read.

    Attributes:
        samples: Most rows taken of each; None takes 128, and all records with personal data.
        seed: Seed of the choice of rows.
        columns: Columns; what is None is guessed, and said.
        max_length: Most tokens kept of a sample; None keeps all.
        chat_template: Put prompts into the model's chat template.
        pii_mode: How personal data is told, see :class:`neuropatch.data.pii.corpus.PiiOptions`.
        region: Country of telephone numbers without a country code.
        category: The only category of personal data that is to be forgotten; None for all.
    """

    samples: int | None = None
    seed: int = 0
    columns: ColumnOptions = field(default_factory=ColumnOptions)
    max_length: int | None = None
    chat_template: bool = False
    pii_mode: str = "marked"
    region: str = "US"
    category: str | None = None


@dataclass(frozen=True)
class RunOptions:
    """How a run is done.

    Attributes:
        method: Name of a method, see :func:`neuropatch.methods._base.method_names`.
        config: The method's parameters, as values or as texts; its defaults for those left out.
        data: How data sets are read.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto``, or a torch device.
        limits: Resources of the run.
        progress: Told how far it is.
        note: Told sentences for the user.
        world: The processes that share the work, see :func:`neuropatch.world.launched`.
        device_map: How the model is spread over devices, see
            :func:`neuropatch.models.loading.load_causal_model`; None for one device.
    """

    method: str = "spin"
    config: Mapping[str, Any] = field(default_factory=dict)
    data: DataOptions = field(default_factory=DataOptions)
    dtype: str = "auto"
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)
    progress: Progress = field(default_factory=Silent)
    note: Callable[[str], None] = field(default=lambda sentence: None)
    world: World = ALONE
    device_map: str | None = None


def localize(model: str, files: DataFiles, options: RunOptions | None = None) -> Localization:
    """Find the weights or units behind a behaviour of a model, as a patch.

    Args:
        model: A local folder, or ``user/name[@revision]`` on the Hub.
        files: The data sets.
        options: How the run is done.

    Returns:
        The patch, whose ``before`` values are those of the model's files.

    Raises:
        NeuropatchError: If anything about the model, the data or the options is wrong.
    """
    run = _prepare(model, files, options or RunOptions())
    return run.find(run.inputs)


def localize_categories(
    model: str, files: DataFiles, options: RunOptions | None = None
) -> dict[str, Localization]:
    """A patch for each category of personal data, by category; see :func:`localize`.

    Of each category only its own personal data is to be forgotten; the other categories' count as
    text.

    Raises:
        UsageError: If there are no records with personal data.
        NeuropatchError: As :func:`localize`.
    """
    if files.pii is None:
        raise UsageError(
            "a patch for each category needs records with personal data", hint="give --pii FILE"
        )
    run = _prepare(model, files, options or RunOptions())
    pii = run.inputs.pii
    assert pii is not None  # as its file is
    found = {}
    for category in pii.categories:
        run.inputs.note(f"category {category}")
        limits = run.inputs.limits
        if limits.resume is not None:
            limits = replace(limits, resume=limits.resume / category)
        own = replace(run.inputs, pii=pii.of_category(category), limits=limits)
        found[category] = run.find(own)
    return found


@dataclass(frozen=True)
class _Run:
    """A method, its parameters, and everything that it works on."""

    method: Method
    parameters: Any
    inputs: Inputs
    checkpoint: Checkpoint
    resolved: ResolvedModel

    def find(self, inputs: Inputs) -> Localization:
        """The method's patch for inputs, with the values of the model's files."""
        found = self.method.run(inputs, self.parameters)
        return replace(found, patch=stored_patch(found.patch, self.checkpoint, self.resolved))


def _prepare(model: str, files: DataFiles, options: RunOptions) -> _Run:
    """Check and read everything; what is cheap to refuse comes first."""
    chosen = find_method(options.method)
    chosen.check_processes(options.world)
    parameters = parse_parameters(chosen, options.config)
    chosen.check_split(options.world, parameters)
    chosen.check_resume(options.limits, parameters)
    resolved = resolve_model(model)
    checkpoint = Checkpoint.open(resolved.folder)
    given = files.given(model_kind(checkpoint.config))
    chosen.check_given(given)
    chosen.check(checkpoint.layout, given, parameters)
    # Imported late: everything above refuses bad input without loading transformers.
    from neuropatch.models.device_map import parse_device_map
    from neuropatch.models.loading import (
        load_causal_model,
        load_masked_model,
        load_tokenizer,
        parse_device,
        parse_dtype,
    )
    from neuropatch.models.split import check_heads

    parse_dtype(options.dtype)
    parse_device(options.device)
    parse_device_map(options.device_map, options.device)
    if options.device_map is not None and options.world.size > 1:
        raise UsageError(
            "--device-map gives all GPUs to one process, and there are "
            f"{options.world.size} processes",
            hint="leave --device-map out, or start it without torchrun or accelerate launch",
        )
    split = options.world.size if options.world.splits else 1
    check_heads(checkpoint.layout, split)
    tokenizer = load_tokenizer(resolved.folder)
    reader = DataReader(checkpoint, tokenizer, options.data, options.note)
    # Read before the model is loaded, so that bad data is refused at once.
    datasets = {name: reader.corpus(spec, name) for name, spec in files.datasets.items()}
    general = None if files.general is None else reader.corpus(files.general, GENERAL)
    pii = None if files.pii is None else reader.forgotten(files.pii)
    retain = {name: reader.kept(spec, name) for name, spec in files.retain.items()}
    load = {"causal": load_causal_model, "masked": load_masked_model}[given.kind]
    inputs = Inputs(
        model=load(
            resolved.folder,
            dtype=options.dtype,
            device=options.world.device(options.device),
            device_map=options.device_map,
            split=split,
        ),
        datasets=datasets,
        general=general,
        pii=pii,
        retain=retain,
        tokenizer=tokenizer,
        base_model=resolved.base,
        seed=options.data.seed,
        limits=options.limits,
        progress=options.progress,
        note=options.note,
        world=options.world,
    )
    return _Run(chosen, parameters, inputs, checkpoint, resolved)


@dataclass(frozen=True)
class DataReader:
    """Reads the data sets of a run, checks that they fit the model, and passes on their notes."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    data: DataOptions
    note: Callable[[str], None]

    def corpus(self, spec: str, name: str) -> Corpus:
        """Prompts and responses, or plain texts."""
        data = self.data
        corpus = load_corpus(
            spec,
            name=name,
            samples=DEFAULT_SAMPLES if data.samples is None else data.samples,
            seed=data.seed,
            columns=data.columns,
            tokenizer=self.tokenizer,
            max_length=data.max_length,
            chat_template=data.chat_template,
        )
        self._accept(corpus)
        return corpus

    def forgotten(self, spec: str) -> PiiCorpus:
        """Records whose personal data is to be forgotten."""
        found = self._records(spec, PII, self.data.pii_mode)
        return found if self.data.category is None else found.of_category(self.data.category)

    def kept(self, spec: str, name: str) -> Corpus | PiiCorpus:
        """A data set to retain: records if its columns mark personal data, else a corpus."""
        if is_marked(read_table(spec)):
            return self._records(spec, name, "marked")
        return self.corpus(spec, name)

    def _records(self, spec: str, name: str, mode: str) -> PiiCorpus:
        data = self.data
        corpus = load_pii(
            spec,
            name=name,
            samples=data.samples,
            seed=data.seed,
            options=PiiOptions(mode, data.region, data.columns),
            tokenizer=self.tokenizer,
            max_length=data.max_length,
        )
        self._accept(corpus)
        return corpus

    def _accept(self, corpus: Corpus | PiiCorpus) -> None:
        _check_fits(corpus, self.checkpoint)
        for sentence in corpus.notes:
            self.note(sentence)


def _check_fits(corpus: Corpus | PiiCorpus, checkpoint: Checkpoint) -> None:
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


def stored_patch(
    patch: NeuronPatch, checkpoint: Checkpoint, resolved: ResolvedModel
) -> NeuronPatch:
    """The patch with the values that the files hold, which another dtype may have rounded."""
    declared = checkpoint.config.get("license")
    metadata = replace(
        patch.metadata,
        base_model=resolved.base,
        license=declared if isinstance(declared, str) else None,
    )
    return as_stored(replace(patch, metadata=metadata), checkpoint)
