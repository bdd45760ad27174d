"""What an installation can do: versions, devices, memory, kernels, Hub access."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

import torch
from huggingface_hub import constants, get_token

from neuropatch.attribution.plan import available_memory, format_size
from neuropatch.kernels import backends
from neuropatch.provenance import library_versions


def diagnose() -> dict[str, Any]:
    """Describe the installation, in types that JSON knows; never holds the Hub token."""
    return {
        "versions": {"python": platform.python_version(), **library_versions()},
        "memory": f"{format_size(available_memory())} available",
        "devices": _devices(),
        "kernels": [asdict(backend) for backend in backends()],
        "hub": {
            "endpoint": constants.ENDPOINT,
            "offline": bool(constants.HF_HUB_OFFLINE),
            "token": get_token() is not None,
        },
    }


def _devices() -> list[str]:
    cpu = f"cpu: {platform.machine()}, {torch.get_num_threads()} threads"
    return [
        cpu,
        *(
            f"cuda:{index}: {torch.cuda.get_device_name(index)}"
            for index in range(torch.cuda.device_count())
        ),
    ]
