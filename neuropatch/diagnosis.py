"""What an installation can do: versions, devices, memory, kernels, Hub access."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants

from neuropatch.attribution.memory import available_memory, format_size
from neuropatch.kernels import backends, cuda_kernels
from neuropatch.provenance import library_versions


def diagnose() -> dict[str, Any]:
    """Describe the installation, in types that JSON knows; never holds the Hub token.

    ``hub.token`` says where the token would be taken from, None if there is none.
    """
    return {
        "versions": {"python": platform.python_version(), **library_versions()},
        "memory": f"{format_size(available_memory())} available",
        "devices": _devices(),
        "kernels": [asdict(backend) for backend in backends()],
        "cuda_kernels": asdict(cuda_kernels()),
        "hub": {
            "endpoint": constants.ENDPOINT,
            "offline": bool(constants.HF_HUB_OFFLINE),
            "token": _token_from(),
        },
    }


def _token_from() -> str | None:
    # The Hub client's own get_token() may ask the network for one.
    for variable in ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(variable, "").strip():
            return variable
    stored = Path(constants.HF_TOKEN_PATH)
    return str(stored) if stored.is_file() and stored.stat().st_size else None


def _devices() -> list[str]:
    cpu = f"cpu: {platform.machine()}, {torch.get_num_threads()} threads"
    return [
        cpu,
        *(
            f"cuda:{index}: {torch.cuda.get_device_name(index)}"
            for index in range(torch.cuda.device_count())
        ),
    ]
