"""Compiles the emulation and the kernels; what was compiled before is taken from a cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import pybind11

ROOT = Path(__file__).parents[3]
CUDA = ROOT / "csrc/cuda"
EMULATION = ROOT / "csrc/emulation"

# The scheduler and what computes for a whole warp: never compiled with a sanitizer.
_RUNTIME = ("block", "collectives", "fiber", "library", "runtime", "tensor_core")

# Kernels view the same bytes as several types, which nvcc allows. Hidden symbols keep the libraries
# of one process apart.
_KERNEL_FLAGS = ("-g", "-fno-strict-aliasing", "-fno-omit-frame-pointer")
_LIBRARY_FLAGS = ("-fPIC", "-fvisibility=hidden", "-fno-gnu-unique")
# For each sanitizer: how kernels and how the runtime are compiled. ThreadSanitizer intercepts calls
# of memcpy and memset; what g++ puts in their place it does not see.
SANITIZERS = {
    "thread": (
        ("-O1", "-fsanitize=thread", "-fno-builtin-memcpy", "-fno-builtin-memset"),
        "-DNP_EMULATION_TSAN",
    ),
    "address": (
        ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        "-DNP_EMULATION_ASAN",
    ),
}


def cuda_headers() -> list[Path]:
    """The folders of ``cuda_fp16.h`` and of what it includes: nvcc's own ones, or PyPI's."""
    if nvcc := shutil.which("nvcc"):
        # nvcc may be a script or a link: it is asked where it lives.
        plan = subprocess.run(
            [nvcc, "--dryrun", "-E", "-x", "cu", "/dev/null"], capture_output=True, text=True
        )
        if top := re.search(r"^#\$ TOP=(.*)$", plan.stderr, re.MULTILINE):
            for name in ("include", "targets/x86_64-linux/include"):
                if (folder := Path(top[1]) / name).joinpath("cuda_bf16.h").is_file():
                    return [folder.resolve()]
    package = importlib.util.find_spec("nvidia")
    for location in package.submodule_search_locations or () if package else ():
        folders = sorted(Path(location).glob("*/include"))
        if any((folder / "cuda_bf16.h").is_file() for folder in folders):
            return folders
    raise FileNotFoundError(
        "the CUDA headers are missing: "
        "pip install nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl"
    )


class Toolchain:
    """Builds into a cache folder; the name of each file tells what it was made of."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._compiler = shlex.split(os.environ.get("CXX", "g++"))

    @cached_property
    def _headers(self) -> list[Path]:
        return cuda_headers()

    @cached_property
    def _version(self) -> str:
        command = [*self._compiler, "--version"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def run(self, name: str, arguments: Sequence[str], inputs: Iterable[Path]) -> Path:
        """Runs the compiler, unless it has run before with these arguments and inputs.

        Returns:
            What it made: a file called ``name`` with a digest of everything it was made of.
        """
        digest = hashlib.sha256(repr((self._version, self._headers, arguments)).encode())
        for path in sorted(inputs):
            digest.update(path.read_bytes())
        stem, suffix = os.path.splitext(name)  # noqa: PTH122
        output = self._cache / f"{stem}-{digest.hexdigest()[:20]}{suffix}"
        if output.exists():
            return output
        # Several sessions may build at the same time: the finished file appears at once.
        unfinished = output.with_suffix(f".{os.getpid()}{suffix}")
        command = [*self._compiler, *arguments, "-o", str(unfinished)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")
        for old in self._cache.glob(f"{stem}-{'?' * 20}{suffix}"):
            old.unlink(missing_ok=True)
        unfinished.replace(output)
        return output

    def _object(self, source: Path, flags: Sequence[str], name: str) -> Path:
        """Compiles a source file; headers are those of its folder and of csrc's two."""
        folders = {source.parent, EMULATION}
        if source.parent != EMULATION:
            folders.add(CUDA)
        headers = [
            path for folder in folders for path in folder.iterdir() if path.suffix in (".h", ".cuh")
        ]
        includes = [f"-I{folder}" for folder in (CUDA, EMULATION)]
        includes += [f"-isystem{folder}" for folder in self._headers]
        arguments = ["-std=c++20", *flags, *includes, "-x", "c++", "-c", str(source)]
        return self.run(f"{name}.o", arguments, [source, *headers])

    def _objects(
        self, sources: Sequence[Path], kernel: Sequence[str], runtime: Sequence[str], kind: str
    ) -> list[Path]:
        """Compiles kernels and runtime, on two threads: compilers take much memory."""
        runtimes = [EMULATION / f"{name}.cpp" for name in _RUNTIME]
        jobs = [(path, (*_KERNEL_FLAGS, *kernel)) for path in sources]
        jobs += [(path, ("-O2", *runtime)) for path in runtimes]

        def compile_one(job: tuple[Path, tuple[str, ...]]) -> Path:
            path, flags = job
            return self._object(path, flags, f"{kind}-{path.parent.name}-{path.stem}")

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(compile_one, jobs))

    def library(self, name: str, sources: Sequence[Path]) -> Path:
        """A shared library of kernels, for the module that ``module()`` builds."""
        objects = self._objects(sources, ("-O2", *_LIBRARY_FLAGS), _LIBRARY_FLAGS, "library")
        arguments = ["-shared", "-pthread", *map(str, objects)]
        return self.run(f"{name}.so", arguments, objects)

    def program(self, name: str, sources: Sequence[Path], sanitizer: str) -> Path:
        """A program that runs one of the kernels under a sanitizer."""
        kernel, runtime = SANITIZERS[sanitizer]
        sources = [*sources, EMULATION / "driver.cpp"]
        objects = self._objects(sources, kernel, (runtime,), sanitizer)
        arguments = [*kernel, "-pthread", *map(str, objects)]
        return self.run(f"{name}-{sanitizer}.exe", arguments, objects)

    def module(self) -> Path:
        """The Python module ``emulation``."""
        include = (sysconfig.get_paths()["include"], pybind11.get_include())
        flags = ("-O0", *_LIBRARY_FLAGS, *(f"-isystem{folder}" for folder in include))
        objects = [self._object(EMULATION / "module.cpp", flags, "module")]
        return self.run("emulation.so", ["-shared", *map(str, objects)], objects)
