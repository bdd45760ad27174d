"""Which implementation runs an operator, and why."""

from __future__ import annotations

import os
from collections.abc import Sequence
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


@dataclass(frozen=True)
class CudaKernels:
    """The CUDA kernels of an installation, whether or not the machine has a GPU.

    Attributes:
        ops: Names of the operators that have one.
        targets: What they were built for: machine code (``sm_80``) and portable code
            (``compute_90``).
        reason: Where they come from, or why there are none, as a clause that can follow a colon.
    """

    ops: tuple[str, ...]
    targets: tuple[str, ...]
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
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return has_cuda_kernel(op) and runs_on(cuda_targets(), capability)
    return device.type == "cpu" and _has_kernel(op, "CPU")


def has_cuda_kernel(op: str) -> bool:
    """Whether the compiled extension has a CUDA kernel of an operator."""
    return not MISSING and _has_kernel(op, "CUDA")


def _has_kernel(op: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"neuropatch::{op}", key)


def cuda_targets() -> tuple[str, ...]:
    """What the CUDA kernels were built for, such as ``("sm_80", "sm_90", "compute_90")``."""
    return () if MISSING else tuple(torch.ops.neuropatch.cuda_targets())


def runs_on(targets: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether kernels built for some targets run on a GPU of a compute capability.

    Machine code (``sm_XY``) runs on GPUs of its major version that are not older; portable code
    (``compute_XY``) runs on all that are not older. A suffix, as in ``sm_90a``, ties either to
    exactly that version.
    """
    for target in targets:
        kind, _, version = target.partition("_")
        digits = version.rstrip("a")
        built = (int(digits[:-1]), int(digits[-1]))
        if digits != version:
            fits = built == capability
        else:
            fits = built <= capability and (kind == "compute" or built[0] == capability[0])
        if fits:
            return True
    return False
