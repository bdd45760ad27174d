"""What every method declares, what it is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from neuropatch import methods
from neuropatch.errors import UsageError
from neuropatch.patch.metadata import BaseModel
from neuropatch.patch.patch import NeuronPatch
from neuropatch.progress import Progress, Silent

if TYPE_CHECKING:
    from torch import nn

    from neuropatch.data.corpus import Corpus
    from neuropatch.models.layout import Layout


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
class Inputs:
    """What a method works on.

    Attributes:
        model: A causal language model in evaluation mode.
        datasets: The data sets whose conflict or behaviour is looked for, by the user's names.
        general: The data set whose abilities are kept, or None.
        base_model: What the patch says it was made from.
        seed: Seed that chose the rows.
        limits: Resources.
        progress: Told how far the run is.
        note: Told sentences for the user, such as the plan before the run.
    """

    model: nn.Module
    datasets: Mapping[str, Corpus]
    general: Corpus | None
    base_model: BaseModel = field(default_factory=BaseModel)
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    progress: Progress = field(default_factory=Silent)
    note: Callable[[str], None] = field(default=lambda sentence: None)


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
        paper: Where it is published.
        granularity: ``weights`` or ``units``.
        config: The frozen dataclass of its parameters.
        check: Refuses, before the model is loaded, what cannot work: takes the layout, the names
            of the data sets, whether there is a general one, and an instance of ``config``.
        run: Finds the patch: inputs and an instance of ``config`` to a localization.
    """

    name: str
    paper: str
    granularity: str
    config: type[Any]
    check: Callable[[Layout, Sequence[str], bool, Any], object]
    run: Callable[[Inputs, Any], Localization]


def method_names() -> tuple[str, ...]:
    """Names of all methods; imports none of them."""
    modules = (module.name for module in iter_modules(methods.__path__))
    return tuple(sorted(name for name in modules if not name.startswith("_")))


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        UsageError: If there is none.
    """
    if name not in method_names():
        raise UsageError(
            f"there is no method '{name}'", hint=f"choose from {', '.join(method_names())}"
        )
    method: Method = import_module(f"neuropatch.methods.{name}").METHOD
    return method
