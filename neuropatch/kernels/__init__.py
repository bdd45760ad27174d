"""Operators with compiled kernels, a reference in PyTorch, and one dispatch between them.

``NEUROPATCH_KERNELS`` forces an implementation: ``auto`` (the default), ``reference``,
``portable``, ``avx2``, ``avx512``, ``avx512_bf16`` or ``amx``; ``auto`` never takes ``amx``.
"""

from __future__ import annotations

from neuropatch.kernels._backend import CudaKernels, KernelBackend
from neuropatch.kernels._registry import backends, cuda_kernels
from neuropatch.kernels.linear import SparseEdits, add_sparse_linear, masked_linear
from neuropatch.kernels.mlp import gated_mlp, masked_units, plain_mlp
from neuropatch.kernels.norms import snip_column_norms
from neuropatch.kernels.snip import snip_accumulate_
from neuropatch.kernels.snip_at import snip_accumulate_at_
from neuropatch.kernels.topk import product_topk

__all__ = [
    "CudaKernels",
    "KernelBackend",
    "SparseEdits",
    "add_sparse_linear",
    "backends",
    "cuda_kernels",
    "gated_mlp",
    "masked_linear",
    "masked_units",
    "plain_mlp",
    "product_topk",
    "snip_accumulate_",
    "snip_accumulate_at_",
    "snip_column_norms",
]
