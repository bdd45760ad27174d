"""Registration of the operators with torch.

The compiled extension brings the schemas and the kernels. Without it the same schemas are declared
here. The reference implementation is registered for every device that has no kernel of its own, so
``torch.ops.neuropatch`` works everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from neuropatch.kernels._backend import (
    MISSING,
    CudaKernels,
    KernelBackend,
    cuda_targets,
    has_cuda_kernel,
    select_backend,
)

_LIBRARY = torch.library.Library("neuropatch", "DEF" if MISSING else "FRAGMENT")


@dataclass(frozen=True)
class Operator:
    """One operator: what torch has to know about it.

    Attributes:
        schema: Its declaration; ``csrc/common/schemas.cpp`` has the same text, and a test holds the
            two together.
        check: Takes the operator's arguments; refuses those that do not fit, values included.
        reference: The slow implementation, for every device and type.
        fake: The implementation for tensors without data: checks shapes, types and devices, and
            returns empty results.
        setup_context: For an operator with derivatives: what to keep for them, as
            ``torch.library.register_autograd`` takes it.
        backward: For an operator with derivatives: its backward pass.
    """

    schema: str
    check: Callable[..., None]
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    setup_context: Callable[..., None] | None = None
    backward: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """The name in the schema."""
        return self.schema.partition("(")[0]


OPERATORS: dict[str, Operator] = {}
"""All operators by name, in the order of their registration."""


def register(operator: Operator) -> None:
    """Tell torch of an operator."""

    def default(*arguments: Any) -> Any:
        operator.check(*arguments)
        return operator.reference(*arguments)

    if MISSING:
        _LIBRARY.define(operator.schema)
    _LIBRARY.impl(operator.name, default, "CompositeExplicitAutograd")
    torch.library.register_fake(f"neuropatch::{operator.name}", operator.fake, lib=_LIBRARY)
    if operator.backward is not None:
        torch.library.register_autograd(
            f"neuropatch::{operator.name}",
            operator.backward,
            setup_context=operator.setup_context,
            lib=_LIBRARY,
        )
    OPERATORS[operator.name] = operator


def backends() -> tuple[KernelBackend, ...]:
    """The implementation in use for CPU tensors, for each operator, and why.

    Tensors of float64 always take the reference implementation.

    Raises:
        UsageError: ``NEUROPATCH_KERNELS`` asks for something that is not available here.
    """
    return tuple(select_backend(op) for op in OPERATORS)


def cuda_kernels() -> CudaKernels:
    """The CUDA kernels in the compiled extension, and for which GPUs they were built.

    Other operators, and GPUs that no target serves, take the reference implementation.
    """
    targets = cuda_targets()
    if MISSING:
        reason = MISSING
    elif targets:
        reason = "built into the compiled extension"
    else:
        reason = (
            "the compiled extension was built without them; reinstalling with nvcc on PATH (or "
            "CUDA_HOME) and NEUROPATCH_CUDA=1 builds them or says why they cannot be built"
        )
    return CudaKernels(tuple(op for op in OPERATORS if has_cuda_kernel(op)), targets, reason)
