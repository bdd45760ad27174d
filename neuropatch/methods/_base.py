"""What every method declares, what it is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from neuropatch import methods
from neuropatch.errors import UsageError
from neuropatch.patch.metadata import BaseModel
from neuropatch.patch.patch import NeuronPatch
from neuropatch.progress import Progress, Silent
from neuropatch.world import ALONE, World

if TYPE_CHECKING:
    from torch import nn

    from neuropatch.data.corpus import Corpus
    from neuropatch.data.pii.corpus import PiiCorpus
    from neuropatch.data.tokenize import Tokenizer
    from neuropatch.methods._memory import Found, ScoreMemory
    from neuropatch.models.layout import Layout

GENERAL, PII = "general", "pii"
"""Names, in patches and messages, of the two data sets that users do not name."""

DATA: Mapping[str, str] = {
    "datasets": "--dataset NAME=FILE",
    "general": "--general FILE",
    "pii": "--pii FILE",
    "retain": "--retain NAME=FILE",
}
"""Kinds of data that methods use, and the options that give them."""


SHARING = ("samples", "first", "one")
"""What methods do with several processes: each takes its share of the samples; there is so little
to do that the first one does it; or they are refused."""


@dataclass(frozen=True)
class Limits:
    """Resources of a run.

    Attributes:
        batch_tokens: Most tokens of a batch.
        memory: Bytes that the run may take, weights included; None for what the device has free.
        mode: How scores are kept: ``auto``, ``full``, ``windows`` or ``certified``.
        resume: Folder that keeps the run's state, or None to keep none.
    """

    batch_tokens: int = 1024
    memory: int | None = None
    mode: str = "auto"
    resume: Path | None = None


@dataclass(frozen=True)
class Given:
    """What a run is given, as far as it is known before anything is read.

    Attributes:
        datasets: Names of the conflicting data sets.
        general: Whether there is a general data set.
        pii: Whether there are records with personal data.
        retain: Names of the data sets whose behaviour is kept.
        kind: ``causal`` or ``masked``: what the language model predicts.
    """

    datasets: tuple[str, ...] = ()
    general: bool = False
    pii: bool = False
    retain: tuple[str, ...] = ()
    kind: str = "causal"

    def __contains__(self, data: str) -> bool:
        """Whether data of a kind, one of :data:`DATA`, is given."""
        return bool(getattr(self, data))


@dataclass(frozen=True)
class Inputs:
    """What a method works on.

    Attributes:
        model: A language model in evaluation mode.
        datasets: The data sets whose conflict or behaviour is looked for, by the user's names.
        general: The data set whose abilities are kept, or None.
        pii: Records whose personal data is to be forgotten, or None.
        retain: Data sets whose behaviour is kept, by the user's names; of records with personal
            data that is the personal data.
        tokenizer: The model's tokenizer; None where no method's edit reads texts anew.
        base_model: What the patch says it was made from.
        seed: Seed that chose the rows.
        limits: Resources.
        progress: Told how far the run is.
        note: Told sentences for the user, such as the plan before the run.
        memory: Keeps scores for other runs on the same inputs, or None.
        world: The processes that share the work; each has the whole model and all samples.
    """

    model: nn.Module
    datasets: Mapping[str, Corpus] = field(default_factory=dict)
    general: Corpus | None = None
    pii: PiiCorpus | None = None
    retain: Mapping[str, Corpus | PiiCorpus] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    base_model: BaseModel = field(default_factory=BaseModel)
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    progress: Progress = field(default_factory=Silent)
    note: Callable[[str], None] = field(default=lambda sentence: None)
    memory: ScoreMemory | None = None
    world: World = ALONE

    def remember(self, key: Hashable, compute: Callable[[], Found]) -> Found:
        """What ``compute`` gives, from the memory if it is there; not to be changed.

        Args:
            key: Names all that the result depends on besides model and data.
            compute: Computes it.
        """
        return compute() if self.memory is None else self.memory.get(key, compute)

    @cached_property
    def layout(self) -> Layout:
        """The model's layout."""
        # Imported late: declarations are read without torch.
        from neuropatch.models.modules import model_layout

        return model_layout(self.model)

    @property
    def corpora(self) -> tuple[Corpus | PiiCorpus, ...]:
        """All data sets, in the order of a patch's metadata."""
        single = (self.pii, self.general)
        return (
            *self.datasets.values(),
            *(one for one in single if one is not None),
            *self.retain.values(),
        )


@dataclass(frozen=True)
class Localization:
    """What a method found.

    Attributes:
        patch: The patch.
        notes: Sentences for the user, such as warnings about empty matrices.
        statistics: Numbers about the run, in types that JSON knows.
    """

    patch: NeuronPatch
    notes: tuple[str, ...] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A method's declaration.

    Attributes:
        name: Its name on the command line.
        summary: What it does, in one sentence without a full stop.
        paper: Where it is published.
        granularity: What it finds: ``weights``, ``units``, or both.
        config: The frozen dataclass of its parameters, all of which have a default.
        needs: Kinds of data, of :data:`DATA`, that it does not work without.
        takes: Kinds of data that it can use besides.
        check: Refuses, before the model is loaded, what cannot work with a layout, what is given
            and an instance of ``config``.
        run: Finds the patch: inputs and an instance of ``config`` to a localization.
        kinds: Language models that it is for: ``causal``, ``masked``.
        processes: How it runs on several processes: one of :data:`SHARING`.
        splits: Whether, with an instance of ``config``, it also runs on processes that hold a part
            of the weights each.
        resumes: Whether, with an instance of ``config``, it saves its progress and goes on from it.
    """

    name: str
    summary: str
    paper: str
    granularity: str
    config: type[Any]
    needs: frozenset[str]
    takes: frozenset[str]
    check: Callable[[Layout, Given, Any], object]
    run: Callable[[Inputs, Any], Localization]
    kinds: tuple[str, ...] = ("causal",)
    processes: str = "one"
    splits: Callable[[Any], bool] = lambda config: False
    resumes: Callable[[Any], bool] = lambda config: False

    def check_given(self, given: Given) -> None:
        """Refuse data that is missing, and data that would have no effect.

        Raises:
            UsageError: If there is such data, or the model is of another kind.
        """
        for data, option in DATA.items():
            if data in self.needs and data not in given:
                raise UsageError(f"{self.name} needs {option}", hint=f"give {option}")
            if data in given and data not in self.needs | self.takes:
                uses = [DATA[one] for one in DATA if one in self.needs | self.takes]
                raise UsageError(
                    f"{self.name} does not use {option}",
                    hint=f"leave it out; it uses {', '.join(uses) or 'no data'}",
                )
        if given.kind not in self.kinds:
            raise UsageError(
                f"{self.name} is for {' and '.join(self.kinds)} language models, "
                f"and this one is {given.kind}",
                hint="choose another method",
            )

    def check_processes(self, world: World) -> None:
        """Refuse to do the same on several processes.

        Raises:
            UsageError: If the method runs on one process, and there are more.
        """
        if world.size > 1 and self.processes == "one":
            raise UsageError(
                f"method {self.name} runs on one process, and there are {world.size}",
                hint="start it without torchrun or accelerate launch",
            )

    def check_split(self, world: World, config: Any) -> None:
        """Refuse weights that are split among processes where they have to be whole.

        Raises:
            UsageError: If they are split, and the method has to have them whole.
        """
        if world.splits and not self.splits(config):
            raise UsageError(
                f"method {self.name} does not run with --tp on these parameters",
                hint="leave --tp out; spin, and snip of weights, run with it",
            )

    def check_resume(self, limits: Limits, config: Any) -> None:
        """Refuse to save progress where there would be none.

        Raises:
            UsageError: If progress is to be saved, and the method saves none.
        """
        if limits.resume is not None and not self.resumes(config):
            raise UsageError(
                f"method {self.name} saves no progress on these parameters",
                hint="leave --resume out; spin, snip of weights, and lpnl have it",
            )


def method_names() -> tuple[str, ...]:
    """Names of all methods; imports none of them."""
    modules = (module.name for module in iter_modules(methods.__path__))
    return tuple(sorted(name.replace("_", "-") for name in modules if not name.startswith("_")))


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        UsageError: If there is none.
    """
    if name not in method_names():
        raise UsageError(
            f"there is no method '{name}'", hint=f"choose from {', '.join(method_names())}"
        )
    module = import_module(f"neuropatch.methods.{name.replace('-', '_')}")
    method: Method = module.METHOD
    return method
