"""A residual MLP on tabular data, in the checkpoint format of every other model.

``x = embed(row)``; every block adds ``down(relu(up(x)))``; ``head(x)`` is the log odds of label 1.
It is the ResNet of Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data" (NeurIPS
2021), without its normalisation and dropout. A block's hidden activation is its units, as those of
a transformer's MLP are, so patches address both alike.

The folder holds ``config.json``, with the encoding of the features, and ``model.safetensors``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from neuropatch.checkpoint.index import CONFIG, SINGLE, Checkpoint
from neuropatch.errors import ModelError
from neuropatch.fairness.encoding import Feature, damaged, encode, input_size, parse_features
from neuropatch.fairness.examples import Examples, Integers
from neuropatch.fairness.torch_classifier import TorchClassifier, Tuning

MODEL_TYPE = "neuropatch_tabular_mlp"

_SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size")
_MAX_SIZE = 1 << 14


@dataclass(frozen=True)
class TabularRecipe:
    """Architecture and training of a tabular model: all that it takes to train another of its kind.

    Attributes:
        num_hidden_layers: Blocks.
        hidden_size: Width of the residual stream.
        intermediate_size: Units of a block.
        epochs: Most passes over the training rows.
        patience: Training ends after so many epochs without a lower validation loss.
        batch_size: Rows of a batch.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        validation: Share of the rows that early stopping looks at.
    """

    num_hidden_layers: int = 2
    hidden_size: int = 32
    intermediate_size: int = 64
    epochs: int = 30
    patience: int = 4
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    validation: float = 0.2


@dataclass(frozen=True)
class TabularConfig:
    """What ``config.json`` holds.

    Attributes:
        features: How rows are encoded.
        recipe: Architecture and training.
        label: What label 1 says, such as ``income=>50K``.
        sensitive: Name of the sensitive attribute of the training data.
        group_names: Its values.
    """

    features: tuple[Feature, ...]
    recipe: TabularRecipe
    label: str
    sensitive: str
    group_names: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The document; transformers' configs have the same method."""
        recipe = asdict(self.recipe)
        return {
            "model_type": MODEL_TYPE,
            **{name: recipe.pop(name) for name in _SIZES},
            "input_size": input_size(self.features),
            "features": [feature.to_json() for feature in self.features],
            "label": self.label,
            "sensitive": self.sensitive,
            "group_names": list(self.group_names),
            "training": recipe,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], what: str) -> TabularConfig:
        """Read a document, which is untrusted.

        Raises:
            ModelError: If it is not what :meth:`to_dict` gives.
        """
        features = parse_features(document.get("features"), what)
        if document.get("input_size") != input_size(features):
            raise damaged(what, f"input_size is not the {input_size(features)} of its features")
        names = document.get("group_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise damaged(what, "group_names is not a list of texts")
        for name in ("label", "sensitive"):
            if not isinstance(document.get(name), str):
                raise damaged(what, f"{name} is not a text")
        return cls(
            features,
            _parse_recipe(document, what),
            document["label"],
            document["sensitive"],
            tuple(names),
        )


def _parse_recipe(document: Mapping[str, Any], what: str) -> TabularRecipe:
    training = document.get("training")
    if not isinstance(training, Mapping):
        raise damaged(what, "training is not a map")
    given = {**training, **{name: document.get(name) for name in _SIZES}}
    known = {field.name: field.type for field in fields(TabularRecipe)}
    if set(given) != set(known):
        raise damaged(what, f"training has not the fields {', '.join(sorted(known))}")
    for name, kind in known.items():
        value = given[name]
        wanted = int if kind == "int" else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted) or not 0 <= value < 1e9:
            raise damaged(what, f"{name} is {value!r}")
    for name in _SIZES:
        if not 0 < given[name] <= _MAX_SIZE:
            raise damaged(what, f"{name} is {given[name]}, not a size")
    return TabularRecipe(**given)


class TabularBlock(nn.Module):
    """``x + down(relu(up(x)))``."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, intermediate)
        self.down = nn.Linear(intermediate, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[n, hidden]`` to the same."""
        changed: torch.Tensor = x + self.down(F.relu(self.up(x)))
        return changed


class TabularMLP(nn.Module):
    """The module; its parameters are named as in ``model.safetensors``."""

    def __init__(self, config: TabularConfig) -> None:
        super().__init__()
        self.config = config
        recipe = config.recipe
        self.embed = nn.Linear(input_size(config.features), recipe.hidden_size)
        self.blocks = nn.ModuleList(
            TabularBlock(recipe.hidden_size, recipe.intermediate_size)
            for _ in range(recipe.num_hidden_layers)
        )
        self.head = nn.Linear(recipe.hidden_size, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Log odds ``[n]`` of encoded rows, float32 ``[n, inputs]``."""
        x = self.embed(rows)
        for block in self.blocks:
            x = block(x)
        odds: torch.Tensor = self.head(x)[:, 0]
        return odds


class TabularClassifier(TorchClassifier):
    """A tabular model with the encoding of its rows."""

    tuning = Tuning(batch_size=512, learning_rate=1e-3, steps=50, every=5)
    batch_rows = 1 << 16

    def __init__(self, model: TabularMLP) -> None:
        self.model: TabularMLP = model

    def encode(self, examples: Examples) -> torch.Tensor:
        """Float32 ``[n, inputs]`` on the model's device; errors as :func:`encode`."""
        return torch.from_numpy(encode(self.model.config.features, examples)).to(self.device)

    def log_odds(self, encoded: torch.Tensor, index: Integers) -> torch.Tensor:
        """See :meth:`TorchClassifier.log_odds`."""
        odds: torch.Tensor = self.model(encoded[torch.from_numpy(index).to(encoded.device)])
        return odds

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into a folder."""
        text = json.dumps(self.model.config.to_dict(), indent=2, ensure_ascii=False)
        (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")
        weights = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, folder / SINGLE, metadata={"format": "pt"})


def load_tabular(folder: Path, device: torch.device) -> TabularClassifier:
    """Read a tabular model.

    Raises:
        CheckpointError: If the folder is no safetensors checkpoint.
        ModelError: If its config or weights are not those of a tabular model.
    """
    checkpoint = Checkpoint.open(folder)
    config = TabularConfig.from_dict(checkpoint.config, str(folder / CONFIG))
    with torch.device("meta"):
        model = TabularMLP(config)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    header = {name: checkpoint.tensor(name) for name in checkpoint.tensors}
    for name in sorted({*wanted, *header}):
        there = header.get(name)
        if name not in wanted or there is None or there.shape != wanted[name]:
            said = "is not there" if there is None else f"is {list(there.shape)}"
            should = f"should be {list(wanted[name])}" if name in wanted else "should not be there"
            raise damaged(str(folder), f"tensor '{name}' {said}, and {should}")
        if there.dtype != "F32":
            raise ModelError(
                f"{folder}: tensor '{name}' is {there.dtype}, and a tabular model is float32",
                hint="the model is damaged; get it again",
            )
    weights: dict[str, torch.Tensor] = {}
    for shard in checkpoint.headers:
        weights.update(load_file(checkpoint.path(shard)))
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(True)
    return TabularClassifier(model.to(device).eval())
