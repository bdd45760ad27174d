"""Checkpoints of architectures that have no definition."""

from __future__ import annotations

from pathlib import Path

from neuropatch.checkpoint.index import shapes_of
from neuropatch.errors import UsageError
from neuropatch.models.definition import definitions, parse_definition
from neuropatch.models.introspect import Inferred, infer
from neuropatch.models.own import keep_document


def infer_checkpoint(folder: str | Path) -> Inferred:
    """What can be inferred of the architecture of a checkpoint; nothing is kept.

    Raises:
        CheckpointError: If the folder is no safetensors checkpoint.
        ArchitectureError: If no blocks can be told.
        UsageError: If the architecture has a definition.
    """
    config, shapes = shapes_of(folder)
    if config.get("model_type") in definitions():
        raise UsageError(
            f"the architecture '{config['model_type']}' is known, so nothing is inferred",
            hint="use the model as it is",
        )
    return infer(config, shapes)


def keep_inferred(inferred: Inferred) -> Path:
    """Make an inferred definition count from now on; returns the file that holds it.

    Raises:
        ArchitectureError: If its name cannot be that of a file.
        OutputError: If it cannot be written.
    """
    parse_definition(inferred.document)
    path = keep_document(inferred.document)
    definitions.cache_clear()
    return path
