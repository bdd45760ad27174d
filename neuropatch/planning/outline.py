"""A model as its config and the headers of its files describe it: no weight is read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from neuropatch.checkpoint.index import CONFIG, INDEX, SINGLE, Checkpoint, read_config
from neuropatch.errors import ModelError, UsageError
from neuropatch.hub.resolve import hub_model, local_path
from neuropatch.models.binding import own_config
from neuropatch.models.kind import model_kind
from neuropatch.models.layout import Layout
from neuropatch.models.loading import DTYPES, causal_loader
from neuropatch.models.outline import outline_model
from neuropatch.models.split import is_cut, rule_of
from neuropatch.storage.safetensors_file import SafetensorsHeader

_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Outline:
    """What is known of a model without its weights.

    Attributes:
        name: The model, as the user named it.
        config: The document in its ``config.json``.
        layout: Its layout.
        numel: Number of its parameters; tied ones count once.
        rules: What the plan of tensor parallelism of its class says of parameters, by name.
        cut: Number of its parameters that this plan cuts into parts.
        stored: Name of the type that it is stored in, or None if nothing says it.
    """

    name: str
    config: Mapping[str, Any]
    layout: Layout
    numel: int
    rules: Mapping[str, str]
    cut: int
    stored: str | None

    def dtype(self, wanted: str) -> str:
        """The type that ``--dtype`` means for this model, one of :data:`DTYPES`.

        Raises:
            UsageError: If that is none of them.
        """
        name = (self.stored or "float32") if wanted == "auto" else wanted
        if name not in DTYPES:
            raise UsageError(
                f"{self.name} in {name} cannot be scored",
                hint=f"choose --dtype {', '.join(DTYPES)}",
            )
        return name


def read_outline(name: str) -> Outline:
    """Outline a model: a folder, a ``config.json`` alone, or one on the Hub.

    Of a model on the Hub config, index and the headers of its weight files are fetched.

    Raises:
        CheckpointError: If files are missing or damaged.
        ArchitectureError: If the architecture is unknown.
        ModelError: If there is no such model, or it is no causal language model.
        HubError: If the Hub refuses, has no such model, or cannot be reached.
    """
    with TemporaryDirectory() as scratch:
        folder, headers = _described(name, Path(scratch))
        config = read_config(folder)
        layout = Layout.from_config(config)
        if model_kind(config) != "causal":
            raise ModelError(
                f"{name} is a masked language model", hint="plan a causal language model"
            )
        causal_loader(folder, name)  # refuses encoder-decoders
        model = outline_model(folder, name)
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        rules = {name: rule for name in sizes if (rule := rule_of(model, name)) is not None}
    cut = sum(sizes[name] for name, rule in rules.items() if is_cut(rule))
    stored = _stored(layout, config, headers)
    return Outline(name, config, layout, sum(sizes.values()), rules, cut, stored)


def _described(name: str, scratch: Path) -> tuple[Path, Mapping[str, SafetensorsHeader]]:
    """A folder with the model's config, and the headers of its files if there are any."""
    path = local_path(name)
    if path.is_dir():
        weights = any((path / file).is_file() for file in (SINGLE, INDEX))
        return path, Checkpoint.open(path).headers if weights else {}
    if path.is_file():
        shutil.copyfile(path, scratch / CONFIG)
        return scratch, {}
    # Imported late: most models are local.
    from neuropatch.hub.client import hub_client
    from neuropatch.hub.model import HubBase

    found = hub_model(name)
    base = HubBase.open(hub_client(), found.repo, found.revision, scratch)
    return scratch, base.checkpoint.headers


def _stored(
    layout: Layout, config: Mapping[str, Any], headers: Mapping[str, SafetensorsHeader]
) -> str | None:
    """The type that transformers takes for ``auto``: the config's, or that of the first weight."""
    _, own = own_config(layout.definition, config)
    for document in (config, own):
        said = document.get("dtype") or document.get("torch_dtype")
        if isinstance(said, str):
            return said.removeprefix("torch.")
    infos = (info for header in headers.values() for info in header.tensors.values())
    return next((_STORED[info.dtype] for info in infos if info.dtype in _STORED), None)
