"""Models without weights: names and shapes, on torch's ``meta`` device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from neuropatch.models.loading import causal_loader, loading


def outline_model(folder: Path, name: str | None = None) -> Any:
    """A model with the modules and names that it has once loaded, and no weights.

    Its class is the one that its config names, or else that of a causal language model.

    Args:
        folder: A folder with config.json.
        name: The model, for messages; the folder if None.

    Raises:
        ModelError: If its config does not load, or names an unknown architecture.
    """
    import transformers

    with loading(f"{name or folder}: the model"):
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    # The names are the folder's own words: only a class of a model is taken for one.
    named: Any = getattr(transformers, next(iter(config.architectures or ()), ""), None)
    known = isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)
    make: Any = named._from_config if known else causal_loader(folder).from_config
    # Any type does, for there are no values: a config may name one that a model cannot be made in.
    options = {"dtype": torch.float32} | ({} if known else {"trust_remote_code": False})
    with loading(f"{name or folder}: the model"), torch.device("meta"):
        return make(config, **options)
