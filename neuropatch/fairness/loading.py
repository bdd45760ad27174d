"""Loading a classifier, or the recipe that made it, whatever kind it is."""

from __future__ import annotations

from pathlib import Path

from neuropatch.checkpoint.index import Checkpoint
from neuropatch.errors import ModelError
from neuropatch.fairness.classifier import Trainer
from neuropatch.fairness.tabular import MODEL_TYPE, load_tabular
from neuropatch.fairness.text import find_start, load_text_classifier, recorded_recipe
from neuropatch.fairness.torch_classifier import TorchClassifier
from neuropatch.fairness.training import TabularTrainer, TextTrainer
from neuropatch.models.loading import parse_device


def load_classifier(folder: Path, *, device: str = "auto") -> TorchClassifier:
    """A classifier from its folder.

    Args:
        folder: A tabular model that neuropatch saved, or a transformers sequence classifier: an
            encoder such as BERT, or a causal model with a classification head.
        device: ``auto``, or a torch device.

    Raises:
        CheckpointError: If the folder is no safetensors checkpoint.
        ModelError: If it holds something else, or does not load.
        UsageError: If the device is unknown.
    """
    if Checkpoint.open(folder).config["model_type"] == MODEL_TYPE:
        return load_tabular(folder, parse_device(device))
    return load_text_classifier(folder, device)


def load_recipe(folder: Path, *, device: str = "auto") -> Trainer:
    """What trains more classifiers of the kind of the one in a folder.

    Args:
        folder: A classifier that neuropatch trained.
        device: Where it trains.

    Raises:
        ModelError: If the folder does not say how its classifier was trained.
        NeuropatchError: As :func:`load_classifier`; and if the start of the training is gone.
    """
    checkpoint = Checkpoint.open(folder)
    where = str(parse_device(device))
    if checkpoint.config["model_type"] == MODEL_TYPE:
        return TabularTrainer(load_tabular(folder, parse_device("cpu")).model.config.recipe, where)
    recipe = recorded_recipe(folder, dict(checkpoint.config))
    try:
        start = find_start(recipe, folder)
    except ModelError as error:
        raise ModelError(
            f"{folder}: its training started from '{recipe.start}', which is not there",
            hint="put that model back, or train the classifier again with neuropatch fairtune",
        ) from error
    return TextTrainer(recipe, start.folder, where)
