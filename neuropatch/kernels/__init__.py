"""Operators with compiled kernels, a reference in PyTorch, and one dispatch between them.

``NEUROPATCH_KERNELS`` forces an implementation: ``auto`` (the default), ``reference``,
``portable``, ``avx2``, ``avx512``, ``avx512_bf16`` or ``amx``; ``auto`` never takes ``amx``.
"""

from __future__ import annotations

from neuropatch.kernels._backend import KernelBackend
from neuropatch.kernels._registry import backends
from neuropatch.kernels.linear import SparseEdits, add_sparse_linear, masked_linear
from neuropatch.kernels.mlp import gated_mlp, masked_units, plain_mlp
from neuropatch.kernels.snip import snip_accumulate_

__all__ = [
    "KernelBackend",
    "SparseEdits",
    "add_sparse_linear",
    "backends",
    "gated_mlp",
    "masked_linear",
    "masked_units",
    "plain_mlp",
    "snip_accumulate_",
]
