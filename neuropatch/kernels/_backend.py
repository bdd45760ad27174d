"""Which implementation runs an operator, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from neuropatch.errors import UsageError

ENVIRONMENT_VARIABLE = "NEUROPATCH_KERNELS"

INSTRUCTION_SETS = {
    "avx512_bf16": "AVX-512 with bfloat16 dot products",
    "avx512": "AVX-512",
    "avx2": "AVX2",
    "portable": "what every CPU of its architecture has",
    "amx": "AMX with bfloat16 tiles",
}
"""What the compiled CPU kernels may use, best first, and what each one is. ``amx`` is last because
it rounds float32 activations to bfloat16, so it is taken only when asked for."""


@dataclass(frozen=True)
class KernelBackend:
    """The implementation that an operator uses for CPU tensors.

    Attributes:
        op: Name of the operator.
        backend: ``"reference"`` or one of :data:`INSTRUCTION_SETS`.
        reason: Why this one, as a clause that can follow a colon.
    """

    op: str
    backend: str
    reason: str


def load_extension(path: Path) -> str | None:
    """Loads the compiled extension.

    Returns:
        None when it is loaded, else why it is not, as a clause.
    """
    if not path.is_file():
        return (
            f"the compiled extension is missing: {path} does not exist; reinstalling with a C++ "
            "compiler and NEUROPATCH_BUILD=1 builds it or says why it cannot be built"
        )
    try:
        torch.ops.load_library(path)
    except OSError as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        return f"the compiled extension cannot be loaded by torch {torch.__version__}: {cause}"
    return None


EXTENSION_PATH = Path(__file__).with_name("_C.abi3.so")

MISSING = load_extension(EXTENSION_PATH)
"""None with the compiled extension, else why there is none."""


def available_choices() -> tuple[str, ...]:
    """The values of ``NEUROPATCH_KERNELS`` that this installation on this machine can honour."""
    if MISSING:
        return ("auto", "reference")
    return ("auto", "reference", *torch.ops.neuropatch.cpu_capabilities())


def select_backend(op: str) -> KernelBackend:
    """Reads ``NEUROPATCH_KERNELS`` and sets the instruction set of the CPU kernels by it.

    Args:
        op: Name of an operator.

    Raises:
        UsageError: The variable asks for something that is not available here.
    """
    choice = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    available = available_choices()
    if choice not in available:
        hint = f"choose one of {', '.join(available)}"
        message = f"{ENVIRONMENT_VARIABLE}={choice} is not available here"
        if choice in INSTRUCTION_SETS and not MISSING:
            message += f": this CPU, or its operating system, has no {INSTRUCTION_SETS[choice]}"
        raise UsageError(
            message,
            hint=f"{hint}; {MISSING}" if MISSING else hint,
        )
    if choice == "reference":
        return KernelBackend(op, "reference", f"forced by {ENVIRONMENT_VARIABLE}=reference")
    if MISSING:
        return KernelBackend(op, "reference", MISSING)
    torch.ops.neuropatch.set_cpu_capability(choice)
    reason = (
        "the widest instruction set that this CPU and the compiled extension share"
        if choice == "auto"
        else f"forced by {ENVIRONMENT_VARIABLE}={choice}"
    )
    return KernelBackend(op, torch.ops.neuropatch.cpu_capability(), reason)


def compiled(op: str, device: torch.device) -> bool:
    """Whether an operator has a compiled kernel for tensors of a device, and may use it.

    Raises:
        UsageError: ``NEUROPATCH_KERNELS`` cannot be honoured.
    """
    if select_backend(op).backend == "reference":
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        f"neuropatch::{op}", {"cpu": "CPU", "cuda": "CUDA"}.get(device.type, "Undefined")
    )
