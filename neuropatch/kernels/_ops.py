"""Registration of the operators and the choice of their implementation.

The compiled extension brings the schemas and the CPU kernels. Without it the same schemas are
declared here. The reference implementation is registered for every device that has no kernel of its
own, so ``torch.ops.neuropatch`` works everywhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from neuropatch.errors import UsageError
from neuropatch.kernels import reference
from neuropatch.kernels._checks import check_snip_accumulate, check_snip_metadata

ENVIRONMENT_VARIABLE = "NEUROPATCH_KERNELS"

# Repeats csrc/common/schemas.cpp for an installation without the extension.
SCHEMAS = {
    "snip_accumulate_": (
        "snip_accumulate_(Tensor(a!) score, Tensor grad, Tensor input, Tensor offsets) -> ()"
    ),
}


@dataclass(frozen=True)
class KernelBackend:
    """The implementation that an operator uses for CPU tensors.

    Attributes:
        op: Name of the operator.
        backend: ``"avx512"``, ``"avx2"``, ``"portable"`` or ``"reference"``.
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
_MISSING = load_extension(EXTENSION_PATH)
_LIBRARY = torch.library.Library("neuropatch", "DEF" if _MISSING else "FRAGMENT")


def available_choices() -> tuple[str, ...]:
    """The values of ``NEUROPATCH_KERNELS`` that this installation on this machine can honour."""
    if _MISSING:
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
        raise UsageError(
            f"{ENVIRONMENT_VARIABLE}={choice} is not available here",
            hint=f"{hint}; {_MISSING}" if _MISSING else hint,
        )
    if choice == "reference":
        return KernelBackend(op, "reference", f"forced by {ENVIRONMENT_VARIABLE}=reference")
    if _MISSING:
        return KernelBackend(op, "reference", _MISSING)
    torch.ops.neuropatch.set_cpu_capability(choice)
    reason = (
        "the widest instruction set that this CPU and the compiled extension share"
        if choice == "auto"
        else f"forced by {ENVIRONMENT_VARIABLE}={choice}"
    )
    return KernelBackend(op, torch.ops.neuropatch.cpu_capability(), reason)


def backends() -> tuple[KernelBackend, ...]:
    """The implementation in use for CPU tensors, for each operator, and why.

    Tensors of other devices and of float64 always take the reference implementation.

    Raises:
        UsageError: ``NEUROPATCH_KERNELS`` asks for something that is not available here.
    """
    return tuple(select_backend(op) for op in SCHEMAS)


def snip_accumulate_(score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor) -> None:
    """Adds the magnitude of each sample's weight gradient to ``score``, for a batch of samples.

    ``score[i, j] += sum over samples b of | sum over tokens t of b: grad[t, i] * input[t, j] |``,
    the sum inside the SNIP score ``mean_b |W * dL_b/dW|`` (Lee et al., arXiv 1810.02340) that SPIN
    (arXiv 2410.16672) uses. No weight gradient is materialised. The order of summation does not
    depend on the number of threads, so neither does any bit of the result.

    Besides its arguments the compiled kernel takes
    ``4 * tokens * (out + 48 * torch.get_num_threads())`` bytes of memory.

    Args:
        score: ``[out, in]``, float32 or float64, contiguous; changed in place.
        grad: ``[tokens, out]``, the gradient at the output of a linear layer; float32, bfloat16,
            float16, or float64 where ``score`` is float64. Any strides.
        input: ``[tokens, in]``, the input of that layer; same type and device as ``grad``.
        offsets: ``[samples + 1]`` int64 on the CPU, from 0 to ``tokens`` and never descending;
            sample ``b`` is rows ``offsets[b]`` to ``offsets[b + 1]``, possibly none.

    Raises:
        UsageError: An argument does not fit, or ``NEUROPATCH_KERNELS`` cannot be honoured.
    """
    check_snip_accumulate(score, grad, input, offsets)
    backend = select_backend("snip_accumulate_").backend
    if backend == "reference" or score.device.type != "cpu" or score.dtype == torch.float64:
        reference.snip_accumulate_(score, grad, input, offsets)
        return
    with torch.no_grad():
        torch.ops.neuropatch.snip_accumulate_(score, grad, input, offsets)


def _snip_accumulate_default(score: Tensor, grad: Tensor, input: Tensor, offsets: Tensor) -> None:
    check_snip_accumulate(score, grad, input, offsets)
    reference.snip_accumulate_(score, grad, input, offsets)


if _MISSING:
    for _schema in SCHEMAS.values():
        _LIBRARY.define(_schema)
_LIBRARY.impl("snip_accumulate_", _snip_accumulate_default, "CompositeExplicitAutograd")
torch.library.register_fake("neuropatch::snip_accumulate_", check_snip_metadata, lib=_LIBRARY)
