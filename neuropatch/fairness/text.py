"""Transformers sequence classifiers on texts: encoders, and causal models with a head."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from neuropatch.errors import DataError, ModelError
from neuropatch.fairness.examples import Examples, Integers
from neuropatch.fairness.torch_classifier import TorchClassifier, Tuning
from neuropatch.hub.resolve import ResolvedModel
from neuropatch.models.loading import (
    load_sequence_classifier,
    load_tokenizer,
    quiet_transformers,
)
from neuropatch.patch.metadata import BaseModel

TRAINING = "neuropatch_training"
"""Key of ``config.json`` that says how the toolkit trained the classifier."""


@dataclass(frozen=True)
class TextRecipe:
    """How a text classifier is trained: all that it takes to train another of its kind.

    Attributes:
        start: Hub id and commit (``user/name@commit``), or folder relative to the checkpoint's own,
            of the model that training starts from.
        epochs: Passes over the training texts.
        batch_size: Texts of a batch.
        learning_rate: Of AdamW, falling linearly to 0.
        weight_decay: Of AdamW.
        max_length: Tokens kept of a text.
    """

    start: str
    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    max_length: int = 128


class TextClassifier(TorchClassifier):
    """A transformers model with a classification head, and its tokenizer.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        max_length: Tokens kept of a text.
        name: What it is called in messages.
    """

    tuning = Tuning(batch_size=32, learning_rate=1e-4, steps=10, every=5)

    def __init__(self, model: Any, tokenizer: Any, max_length: int, name: str) -> None:
        self.model: Any = model
        self.batch_rows = 32
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._name = name
        self._padding = _padding(model, tokenizer, name)

    def encode(self, examples: Examples) -> Encoded:
        """Token ids of every text.

        Raises:
            DataError: If the examples are no texts, or the model has none of their labels.
        """
        if examples.texts is None:
            raise DataError(
                f"{self._name} classifies texts, and the data are rows of a table",
                hint="name the column of the texts with --text-column, or another model",
            )
        ids: list[list[int]] = self._tokenizer(
            list(examples.texts), truncation=True, max_length=self._max_length
        )["input_ids"]
        if not all(ids):
            empty = next(row for row, tokens in enumerate(ids) if not tokens)
            raise DataError(f"text {empty + 1} has no tokens", hint="leave out empty texts")
        return Encoded(ids, self.positive(examples))

    def positive(self, examples: Examples) -> int:
        """The class of the model that is label 1 of the examples.

        It is the class of that name; a model of one or two classes may call it as it likes.

        Raises:
            DataError: If the model has several classes and none of that name.
        """
        classes: int = self.model.config.num_labels
        names: dict[str, int] = self.model.config.label2id or {}
        for name in (examples.positive, examples.label):
            if name in names:
                return names[name]
        if classes > 2:
            raise DataError(
                f"{self._name} has no class '{examples.positive}'",
                hint=f"its classes are {', '.join(sorted(names))}",
            )
        return classes - 1

    def log_odds(self, encoded: Encoded, index: Integers) -> torch.Tensor:
        """See :meth:`TorchClassifier.log_odds`; the logits are those of the head."""
        rows = [encoded.ids[row] for row in index.tolist()]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._padding, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for position, row in enumerate(rows):
            ids[position, : len(row)] = torch.tensor(row)
            mask[position, : len(row)] = 1
        logits: torch.Tensor = self.model(
            input_ids=ids.to(self.device), attention_mask=mask.to(self.device)
        ).logits.float()
        if logits.shape[1] == 1:
            return logits[:, 0]
        others = torch.cat([logits[:, : encoded.positive], logits[:, encoded.positive + 1 :]], 1)
        return logits[:, encoded.positive] - others.logsumexp(1)

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as transformers does."""
        with quiet_transformers():
            self.model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Encoded:
    """Texts as token ids, and the class of the model that is label 1."""

    ids: Sequence[Sequence[int]]
    positive: int


def load_text_classifier(folder: Path, device: str) -> TextClassifier:
    """Read a sequence classifier, in float32 whatever its files hold.

    Raises:
        ModelError: If it does not load, or has no head.
    """
    model = load_sequence_classifier(folder, dtype="float32", device=device)
    recorded = getattr(model.config, TRAINING, None)
    length = recorded.get("max_length") if isinstance(recorded, dict) else None
    return TextClassifier(model, load_tokenizer(folder), _length(model, length), str(folder))


def new_text_classifier(
    start: Path, recipe: TextRecipe, examples: Examples, device: str, seed: int
) -> TextClassifier:
    """A classifier with a new head on an encoder or causal model, and the recipe in its config.

    Raises:
        ModelError: If the start does not load.
    """
    labels = (f"not {examples.positive}", examples.positive)
    model = load_sequence_classifier(
        start, dtype="float32", device=device, new_labels=labels, seed=seed
    )
    setattr(model.config, TRAINING, asdict(recipe))
    length = _length(model, recipe.max_length)
    return TextClassifier(model, load_tokenizer(start), length, str(start))


def recorded_recipe(folder: Path, config: dict[str, Any]) -> TextRecipe:
    """The recipe in a config, which is untrusted.

    Raises:
        ModelError: If there is none, or it is not what :class:`TextRecipe` holds.
    """
    recorded = config.get(TRAINING)
    if not isinstance(recorded, dict):
        raise ModelError(
            f"{folder} does not say how it was trained, so no other of its kind can be",
            hint="train it with neuropatch fairtune --train-base",
        )
    known = {field.name: field.type for field in fields(TextRecipe)}
    kinds: dict[str, Any] = {"str": str, "int": int, "float": (int, float)}
    if set(recorded) != set(known) or not all(
        isinstance(recorded[name], kinds[str(kind)]) and not isinstance(recorded[name], bool)
        for name, kind in known.items()
    ):
        raise ModelError(
            f"{folder}: {TRAINING} in its config.json is damaged",
            hint="train it with neuropatch fairtune --train-base",
        )
    return TextRecipe(**recorded)


def start_name(start: ResolvedModel, checkpoint: Path) -> str:
    """How a recipe names its start: never by an absolute path, which tells of this machine."""
    if start.base.revision is not None:
        return f"{start.base.name}@{start.base.revision}"
    return os.path.relpath(start.folder.resolve(), checkpoint.resolve())


def find_start(recipe: TextRecipe, checkpoint: Path) -> ResolvedModel:
    """The model that a recipe starts from; errors as :func:`resolve_model`."""
    from neuropatch.hub.resolve import resolve_model

    local = checkpoint.resolve() / recipe.start
    if local.is_dir():
        return ResolvedModel(local, BaseModel(local.resolve().name))
    return resolve_model(recipe.start)


def _padding(model: Any, tokenizer: Any, name: str) -> int:
    """The token that fills up a batch; a causal model with a head needs it in its config."""
    for padding in (model.config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id):
        if padding is not None:
            model.config.pad_token_id = int(padding)
            return int(padding)
    raise ModelError(
        f"{name} has no token for padding", hint="set pad_token in its tokenizer_config.json"
    )


def _length(model: Any, wanted: int | None) -> int:
    """Tokens kept of a text: at most those that the model has positions for."""
    most = [
        size
        for name in ("max_position_embeddings", "n_positions")
        if isinstance(size := getattr(model.config, name, None), int)
    ]
    return min([*most, wanted if wanted is not None else TextRecipe.max_length])
