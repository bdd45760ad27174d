"""Kernels of csrc/cuda on the CPU, and small ones that try the emulation itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from .harness import CUDA, Kernels, Toolchain

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def toolchain(pytestconfig, tmp_path_factory):
    """Compiles; what has not changed since the last session comes from pytest's cache."""
    if cache := getattr(pytestconfig, "cache", None):
        return Toolchain(cache.mkdir("cuda-emulation"))
    # pytest -p no:cacheprovider
    return Toolchain(tmp_path_factory.mktemp("cuda-emulation"))


@pytest.fixture(scope="session")
def toys(toolchain):
    """Small kernels, right ones and defective ones."""
    return Kernels(toolchain, "toys", [HERE / "toys/toys.cpp"])


@pytest.fixture(scope="session")
def kernels(toolchain):
    """The kernels of csrc/cuda, as kernels.cpp names them."""
    # runtime.cu asks the CUDA runtime, which is not emulated.
    sources = [path for path in sorted(CUDA.glob("*.cu")) if path.name != "runtime.cu"]
    return Kernels(toolchain, "kernels", [HERE / "kernels.cpp", *sources])
