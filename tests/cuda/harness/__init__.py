"""CUDA kernels of this repository, compiled by a C++ compiler and run on the CPU."""

from __future__ import annotations

from .kernels import Kernels, Order
from .toolchain import Toolchain

__all__ = ["Kernels", "Order", "Toolchain"]
