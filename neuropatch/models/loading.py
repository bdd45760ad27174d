"""Loading a transformers model and tokenizer from a folder: safetensors only, no remote code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from neuropatch.errors import ModelError, UsageError
from neuropatch.models.device_map import DeviceMap, check_spread, parse_device_map
from neuropatch.models.split import tensor_parallel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)

# Methods of quantisation whose weights transformers can give as they are multiplied out, and the
# class that tells it to. On a GPU it would keep the numbers and the scales apart.
_DEQUANTISING = {
    "compressed-tensors": "CompressedTensorsConfig",
    "fp8": "FineGrainedFP8Config",
    "mxfp4": "Mxfp4Config",
}

# What transformers raises for files that hold nonsense, or that need a package that is missing.
_SPOKEN = (OSError, ValueError, RuntimeError, ImportError, SafetensorError, StrictDataclassError)
_LOADING_ERRORS = (*_SPOKEN, KeyError, TypeError, AttributeError, ArithmeticError)


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
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"{folder} has no tokenizer",
            hint="copy tokenizer.json and tokenizer_config.json of the model into it",
        )
    from transformers import AutoTokenizer

    with loading(f"{folder}: its tokenizer"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_causal_model(
    folder: Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: DeviceMap | None = None,
    split: int = 1,
) -> Any:
    """A causal language model in evaluation mode.

    Args:
        folder: A folder with config.json and safetensors weights.
        dtype: ``auto`` for the stored one, or one of :data:`DTYPES`.
        device: ``auto``, or a torch device.
        device_map: How the model is spread over devices; None for one device.
        split: Number of processes among which the weights are split (tensor parallelism).

    Raises:
        ModelError: If the model does not load whole, or does not fit the devices.
        UsageError: If dtype, device or device map are unknown.
    """
    model, missing = _load(causal_loader(folder), folder, dtype, device, device_map, split)
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} weights are missing, such as '{missing[0]}'",
            hint="the checkpoint is incomplete, or not a causal language model",
        )
    return model


def load_masked_model(
    folder: Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: DeviceMap | None = None,
    split: int = 1,
) -> Any:
    """A masked language model in evaluation mode.

    Args:
        folder: A folder with config.json and safetensors weights.
        dtype: ``auto`` for the stored one, or one of :data:`DTYPES`.
        device: ``auto``, or a torch device.
        device_map: How the model is spread over devices; None for one device.
        split: Number of processes among which the weights are split (tensor parallelism).

    Raises:
        ModelError: If the model does not load whole, or does not fit the devices.
        UsageError: If dtype, device or device map are unknown.
    """
    from transformers import AutoModelForMaskedLM

    model, missing = _load(AutoModelForMaskedLM, folder, dtype, device, device_map, split)
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} weights are missing, such as '{missing[0]}'",
            hint="the checkpoint is incomplete, or not a masked language model",
        )
    return model


def causal_loader(folder: Path, name: str | None = None) -> Any:
    """What loads a checkpoint as a causal language model, images or not.

    Args:
        folder: A folder with config.json.
        name: The model, for messages; the folder if None.

    Raises:
        ModelError: If its config does not load, or it is an encoder-decoder: some of those load as
            a causal model too, as half of what they are.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    with loading(f"{name or folder}: the model"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name or folder} is an encoder-decoder ({config.model_type}), not a causal language "
            "model",
            hint="use a model that continues a text",
        )
    multimodal = type(config) in AutoModelForImageTextToText._model_mapping
    causal = type(config) in AutoModelForCausalLM._model_mapping
    return AutoModelForImageTextToText if multimodal and not causal else AutoModelForCausalLM


def load_sequence_classifier(
    folder: Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    new_labels: tuple[str, str] | None = None,
    seed: int = 0,
) -> Any:
    """A sequence classifier in evaluation mode.

    Args:
        folder: A folder with config.json and safetensors weights.
        dtype: ``auto`` for the stored one, or one of :data:`DTYPES`.
        device: ``auto``, or a torch device.
        new_labels: Names of labels 0 and 1 of a new classification head, whose weights are drawn;
            whatever head the folder has is not used. None loads the head.
        seed: Seed of the new head.

    Raises:
        ModelError: If the model does not load whole, but for a new head.
        UsageError: If dtype or device are unknown.
    """
    from transformers import AutoModelForSequenceClassification

    options: dict[str, Any] = {}
    if new_labels is not None:
        options["id2label"] = dict(enumerate(new_labels))
        options["label2id"] = {name: label for label, name in enumerate(new_labels)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, missing = _load(AutoModelForSequenceClassification, folder, dtype, device, **options)
    # A pooler belongs to the head: encoders that were trained without one lack it.
    body = f"{model.base_model_prefix}."
    lost = [name for name in missing if name.startswith(body) and ".pooler." not in name]
    if lost:
        raise ModelError(
            f"{folder}: {len(lost)} weights are missing, such as '{lost[0]}'",
            hint="the checkpoint is incomplete",
        )
    if missing and new_labels is None:
        raise ModelError(
            f"{folder} has no classification head: '{missing[0]}' is missing",
            hint="train one first, with neuropatch fairtune --train-base",
        )
    return model


def _load(
    loader: Any,
    folder: Path,
    dtype: str,
    device: str,
    device_map: DeviceMap | None = None,
    split: int = 1,
    **options: Any,
) -> tuple[Any, list[str]]:
    """A model in evaluation mode, and the names of weights that its folder lacks."""
    parse_device_map(device_map, device)
    where = parse_device(device)
    if split > 1:
        options["distributed_config"] = tensor_parallel(where, split)
    with loading(f"{folder}: the model"):
        options |= _dequantised(folder)
        model, report = loader.from_pretrained(
            folder,
            dtype=parse_dtype(dtype),
            local_files_only=True,
            use_safetensors=True,
            # Reported instead of raised, so that the message below can name them.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            # False, not left out: transformers would ask on the terminal.
            trust_remote_code=False,
            device_map=device_map,
            **options,
        )
    # Such weights are filled with random numbers, which would decide every result.
    misshapen = sorted(report["mismatched_keys"])
    if misshapen:
        name, stored, wanted = misshapen[0]
        raise ModelError(
            f"{folder}: the shapes of {len(misshapen)} weights are not those of config.json, such "
            f"as '{name}': {list(stored)}, and not {list(wanted)}",
            hint="use the config.json that belongs to these weights",
        )
    if device_map is not None:
        check_spread(folder, model)
    elif split == 1:
        model.to(where)
    return model.eval(), sorted(report["missing_keys"])


def _dequantised(folder: Path) -> dict[str, Any]:
    """Options that make transformers load the weights of a quantised folder as plain numbers."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    declared = getattr(config, "quantization_config", None) or {}
    name = _DEQUANTISING.get(declared.get("quant_method", ""))
    if name is None:
        return {}
    return {"quantization_config": getattr(transformers, name)(dequantize=True)}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Let transformers load or save without notes and bars of its own."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    # One bar a shard of a library's own work is no progress of the user's job.
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # That an option of ours counts beside the folder's own is as it should be.
            warnings.filterwarnings("ignore", message="You passed `quantization_config`")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Let transformers load in silence; what it raises becomes one line about ``what``."""
    try:
        with quiet_transformers():
            yield
    except torch.OutOfMemoryError:
        raise
    except _LOADING_ERRORS as error:
        raise ModelError(
            f"{what} does not load: {_reason(error)}",
            hint="check that transformers loads it from this folder without remote code",
        ) from error


def _reason(error: Exception) -> str:
    said = str(error).strip()
    first = said.splitlines()[0].rstrip(" :") if said else ""
    if first and isinstance(error, _SPOKEN):
        return first
    return f"{type(error).__name__} {first}".rstrip()
