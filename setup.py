"""Build of neuropatch: the packages, and the compiled extension where that is possible.

``NEUROPATCH_BUILD`` decides about the extension: ``auto`` (the default) builds it where a C++
compiler works and otherwise installs pure Python with a notice, ``1`` makes a failure an error,
``0`` leaves it out. The metadata is in ``pyproject.toml``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path
from subprocess import SubprocessError

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.errors import BaseError, CCompilerError

try:
    import torch
    from torch.utils import cpp_extension
except ModuleNotFoundError:
    sys.exit(
        "neuropatch: torch is needed to build: run `pip install torch` first, then "
        "`pip install --no-build-isolation .`"
    )

ROOT = Path(__file__).parent

# The oldest Python and torch that the binary runs on.
PY_LIMITED_API = "cp310"
PY_LIMITED_API_HEX = "0x030A0000"
TORCH_TARGET_VERSION = "0x020d000000000000"
MINIMUM_TORCH = (2, 13)


def notice(message: str) -> None:
    """Writes a line to stderr; pip shows it with ``-v``, and with any failure."""
    print(f"neuropatch: {message}", file=sys.stderr)


def without_extension(reason: str) -> None:
    """Says that the package is installed as pure Python, or stops where that is not allowed."""
    if BUILD == "1":
        sys.exit(f"neuropatch: {reason}, and NEUROPATCH_BUILD=1 asks for the compiled extension")
    notice(f"{reason}; installing pure Python, which is slower and gives the same results")


def build_mode() -> str:
    """Reads ``NEUROPATCH_BUILD``."""
    mode = os.environ.get("NEUROPATCH_BUILD") or "auto"
    if mode not in {"auto", "0", "1"}:
        sys.exit(f"neuropatch: NEUROPATCH_BUILD={mode} is none of auto, 0, 1")
    return mode


def find_compiler() -> str | None:
    """The C++ compiler that the build would call, or None where it is not installed."""
    command = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    return shutil.which(shlex.split(command)[0])


def extensions() -> list[Extension]:
    """The compiled extension, or nothing where it is unwanted or cannot be built."""
    version = torch.torch_version.TorchVersion(torch.__version__)
    if BUILD == "0":
        notice("NEUROPATCH_BUILD=0: installing pure Python without the compiled extension")
        return []
    if version < MINIMUM_TORCH:
        without_extension(f"torch {torch.__version__} is older than 2.13")
        return []
    if find_compiler() is None:
        without_extension("no C++ compiler was found (CXX, or c++ on PATH)")
        return []
    sources = sorted((ROOT / "csrc/common").glob("*.cpp")) + sorted(
        (ROOT / "csrc/cpu").glob("*.cpp")
    )
    headers = sorted((ROOT / "csrc").glob("*/*.h"))
    return [
        cpp_extension.CppExtension(
            "neuropatch.kernels._C",
            [str(path.relative_to(ROOT)) for path in sources],
            depends=[str(path.relative_to(ROOT)) for path in headers],
            define_macros=[
                ("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION),
                ("Py_LIMITED_API", PY_LIMITED_API_HEX),
            ],
            extra_compile_args=["-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=fast"],
            extra_link_args=["-Wl,-s"] if sys.platform == "linux" else [],
            py_limited_api=True,
        )
    ]


class BuildExtension(cpp_extension.BuildExtension):
    """Builds the extension; in ``auto`` mode a failure leaves a pure Python package."""

    def run(self) -> None:
        """Builds, and falls back as ``NEUROPATCH_BUILD`` allows."""
        try:
            super().run()
        # A compiler may fail in distutils, under ninja (RuntimeError), when torch asks for its
        # version, or when it is started.
        except (BaseError, CCompilerError, RuntimeError, SubprocessError, OSError) as error:
            notice(f"the compiled extension could not be built: {error}")
            without_extension("the C++ compiler failed (its output is above)")
            self.distribution.ext_modules = []
            self.extensions = []


class BdistWheel(bdist_wheel):
    """Tags the wheel by what was really built."""

    def run(self) -> None:
        """Builds first, because the tag and the layout depend on the outcome."""
        self.run_command("build")
        self.skip_build = True
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()


BUILD = build_mode()
EXTENSIONS = extensions()

setup(
    packages=[
        *find_packages(include=["neuropatch", "neuropatch.*"]),
        *(f"neuropatch.{name}" for name in find_packages(include=["cli", "cli.*"])),
    ],
    # The command line lives in cli/ and is installed inside the package, so that no package called
    # `cli` is taken.
    package_dir={"neuropatch.cli": "cli"},
    package_data={
        "neuropatch": ["py.typed"],
        "neuropatch.models": ["**/*.json"],
        "neuropatch.fairness": ["_data/**/*.json"],
        "neuropatch.demo": [
            f"_data/**/*.{suffix}" for suffix in ("safetensors", "json", "jsonl", "txt", "csv")
        ],
    },
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": BuildExtension, "bdist_wheel": BdistWheel},
    options={"bdist_wheel": {"py_limited_api": PY_LIMITED_API}} if EXTENSIONS else {},
)
