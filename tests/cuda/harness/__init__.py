"""CUDA kernels of this repository, compiled by a C++ compiler and run on the CPU."""

from __future__ import annotations

from .kernels import ORDERS, Kernels, Order
from .toolchain import CUDA, ROOT, Toolchain, cuda_headers

__all__ = ["CUDA", "ORDERS", "ROOT", "Kernels", "Order", "Toolchain", "cuda_headers"]
