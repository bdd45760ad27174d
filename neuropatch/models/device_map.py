"""Spreading a model over the GPUs of one process, which accelerate does."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neuropatch.errors import ModelError, UsageError

DEVICE_MAPS = ("auto", "balanced", "sequential")
"""How accelerate spreads a model over all GPUs."""

DeviceMap = str | dict[str, str]
"""One of :data:`DEVICE_MAPS`, or the device of each module by its name."""


def parse_device_map(device_map: DeviceMap | None, device: str) -> None:
    """Refuse a spread of a model over devices that cannot be had.

    Raises:
        UsageError: If it is unknown, contradicts ``--device``, or accelerate is missing.
    """
    if device_map is None:
        return
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
        raise UsageError(
            f"unknown --device-map '{device_map}'", hint=f"choose {', '.join(DEVICE_MAPS)}"
        )
    if device != "auto":
        raise UsageError(
            "--device-map and --device both say where the model goes", hint="give one of them"
        )
    if find_spec("accelerate") is None:
        raise UsageError("--device-map needs accelerate", hint="pip install accelerate")


def check_spread(folder: Path, model: Any) -> None:
    """Refuse a model of which accelerate keeps weights elsewhere and lends them to a device.

    Raises:
        ModelError: If it does: such weights have no place for scores beside them.
    """
    away = [name for name, p in model.named_parameters() if p.device.type == "meta"]
    if away:
        raise ModelError(
            f"{folder} does not fit the devices: {len(away)} weights are on disk or in main "
            f"memory, such as '{away[0]}'",
            hint="use a smaller --dtype or more GPUs, or run it with --device cpu",
        )
