"""Loading a transformers model and tokenizer from a folder: safetensors only, no remote code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from neuropatch.errors import ModelError, UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse_dtype(dtype: str) -> torch.dtype | str:
    """A torch dtype from ``--dtype``; ``auto`` stays ``auto`` (as stored).

    Raises:
        UsageError: If the name is unknown.
    """
    if dtype == "auto":
        return dtype
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype '{dtype}'", hint=f"choose from auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def parse_device(device: str) -> torch.device:
    """A torch device from ``--device``; ``auto`` is the GPU if there is one.

    Raises:
        UsageError: If the device is unknown or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device '{device}' cannot be used: {reason}",
            hint="choose cpu, or a device that exists",
        ) from None
    return chosen


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder.

    Raises:
        ModelError: If the folder has none that loads.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ModelError(
            f"{folder}: its tokenizer does not load, {_first_line(error)}",
            hint="copy tokenizer.json and tokenizer_config.json into the folder",
        ) from error


def load_causal_model(folder: Path, *, dtype: str = "auto", device: str = "auto") -> Any:
    """A causal language model in evaluation mode.

    Args:
        folder: A folder with config.json and safetensors weights.
        dtype: ``auto`` for the stored one, or one of :data:`DTYPES`.
        device: ``auto``, or a torch device.

    Raises:
        ModelError: If the model does not load whole.
        UsageError: If dtype or device are unknown.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    # One bar a shard of a library's own loading is no progress of the user's job.
    logging.disable_progress_bar()
    where = parse_device(device)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=parse_dtype(dtype),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"{folder}: the model does not load, {_first_line(error)}",
            hint="check that transformers loads it as a causal language model",
        ) from error
    # A missing weight would be filled with random numbers, and every result with it.
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} weights are missing, such as '{missing[0]}'",
            hint="the checkpoint is incomplete, or not a causal language model",
        )
    return model.to(where).eval()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
