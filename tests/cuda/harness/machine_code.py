"""What nvcc makes of the kernels: resources and instructions of each, without a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Kernel:
    """One kernel of one architecture.

    Attributes:
        name: As C++ writes it, without parameters.
        architecture: 80 or 90.
        registers: Of a thread.
        stack: Bytes of a thread's local memory.
        shared_bytes: Static shared memory of a block.
        instructions: How often each instruction occurs, whole as in ``LDS.128``.
    """

    name: str
    architecture: int
    registers: int
    stack: int
    shared_bytes: int
    instructions: Counter[str] = field(repr=False)

    def count(self, opcode: str) -> int:
        """Instructions with an opcode, such as ``LDS``, or a beginning of it: ``LDG.E``."""
        start = f"{opcode}."
        return sum(n for name, n in self.instructions.items() if f"{name}.".startswith(start))


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit on PATH, or as PyPI's packages install it."""
    if found := shutil.which(name):
        return found
    package = importlib.util.find_spec("nvidia")
    for location in package.submodule_search_locations or () if package else ():
        for path in sorted(Path(location).glob(f"*/bin/{name}")):
            return str(path)
    return None


def compile_cubin(nvcc: str, source: Path, architecture: int, folder: Path) -> Path:
    """Machine code of one source; a warning or a register that is spilled is an error.

    Raises:
        RuntimeError: nvcc warns or fails; the message is its output.
    """
    output = folder / f"{source.stem}-{architecture}.cubin"
    command = [nvcc, "-cubin", f"-arch=sm_{architecture}", "-O3", "-std=c++17", "-Xptxas"]
    command += ["-v,-warn-spills,-warn-lmem-usage", "-Werror", "all-warnings"]
    command += ["-DNEUROPATCH_CUDA_TARGETS=none", str(source), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return output


def read_cubin(cuobjdump: str, cubin: Path, architecture: int) -> list[Kernel]:
    """The kernels of a file."""
    # cuobjdump starts nvdisasm, which lies beside it.
    path = f"{Path(cuobjdump).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}

    def dump(option: str) -> str:
        command = [cuobjdump, option, str(cubin)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return done.stdout

    instructions: dict[str, Counter[str]] = {}
    for line in dump("-sass").splitlines():
        if match := re.search(r"Function : (\S+)", line):
            current = instructions.setdefault(match[1], Counter())
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", line):
            current[match[1]] += 1
    usage = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", dump("-res-usage"))
    names = _demangled([symbol for symbol, *_ in usage])
    return [
        Kernel(name, architecture, *map(int, numbers), instructions[symbol])
        for name, (symbol, *numbers) in zip(names, usage, strict=True)
    ]


def _demangled(symbols: list[str]) -> list[str]:
    text = "\n".join(symbols)
    done = subprocess.run(["c++filt"], input=text, check=True, capture_output=True, text=True)
    names = [line.removeprefix("void ").partition("(")[0] for line in done.stdout.splitlines()]
    return [name.replace("neuropatch::cuda::", "") for name in names]
