"""Runs kernels by name on NumPy arrays, in this process or under a sanitizer in another one."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .toolchain import Toolchain

# The driver's exit codes (csrc/emulation/driver.cpp) and what the sanitizers are told to return.
_KERNEL_ERROR = 3
_SANITIZER_FOUND = 99


class Order(NamedTuple):
    """In which order threads and blocks run: ascending, descending or shuffled by the seed."""

    threads: str = "ascending"
    blocks: str = "ascending"
    seed: int = 0


# A result that depends on luck differs between these.
ORDERS = (
    Order(),
    Order("descending", "descending"),
    Order("shuffled", "shuffled", 1),
    Order("shuffled", "shuffled", 2),
)
# As np::emulation::Order has them.
_ORDER_NUMBERS = {"ascending": 0, "descending": 1, "shuffled": 2}


class Kernels:
    """The kernels that are bound (NP_BIND) in some sources.

    Arguments of kernels are contiguous arrays, ``None`` for a null pointer, and numbers. A kernel's
    mistake raises ``error``.
    """

    def __init__(self, toolchain: Toolchain, name: str, sources: Sequence[Path]) -> None:
        self._toolchain = toolchain
        self._name = name
        self._sources = sources
        library = toolchain.library(name, sources)
        path = toolchain.module()
        spec = importlib.util.spec_from_file_location("emulation", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._library = module.Library(str(library))
        self.error: type[Exception] = module.KernelError

    def names(self) -> list[str]:
        """The names of all kernels."""
        return self._library.names()

    def run(self, name: str, *arguments: Any, order: Order = ORDERS[0]) -> None:
        """Runs a kernel once, in place."""
        threads, blocks = (_ORDER_NUMBERS[text] for text in order[:2])
        self._library.run(name, *arguments, threads=threads, blocks=blocks, seed=order.seed)

    def results(self, name: str, *arguments: Any) -> list[list[np.ndarray]]:
        """For each of ORDERS, the arrays that the kernel can write, run on copies."""
        written = [writable for _, _, writable in self._library.parameters(name)]
        results = []
        for order in ORDERS:
            copies = _copies(arguments)
            self.run(name, *copies, order=order)
            results.append(
                [
                    copy
                    for copy, writable in zip(copies, written, strict=True)
                    if writable and isinstance(copy, np.ndarray)
                ]
            )
        return results

    def run_in_all_orders(self, name: str, *arguments: Any) -> None:
        """Runs a kernel in place; its results have to be the same, bit by bit, in all orders."""
        written = self.results(name, *arguments)
        for order, arrays in zip(ORDERS[1:], written[1:], strict=True):
            for number, (one, other) in enumerate(zip(written[0], arrays, strict=True)):
                if one.tobytes() != other.tobytes():
                    raise AssertionError(f"written array {number} of {name} differs in {order}")
        self.run(name, *arguments)

    def report(self, sanitizer: str, name: str, *arguments: Any, order: Order = ORDERS[0]) -> str:
        """Runs a kernel in place under a sanitizer, "thread" or "address" (with "undefined").

        The kernel runs in a program of its own: preloading a sanitizer into Python would watch
        Python and NumPy too, takes seconds to start, and hides races behind Python's own locks.

        Returns:
            What the sanitizer reports; empty when it finds nothing.
        """
        program = self._toolchain.program(self._name, self._sources, sanitizer)
        with tempfile.TemporaryDirectory() as folder:
            words = [name, *(str(_ORDER_NUMBERS[text]) for text in order[:2]), str(order.seed)]
            files = {}
            for number, argument in enumerate(arguments):
                if isinstance(argument, np.ndarray):
                    path = Path(folder, str(number))
                    path.write_bytes(argument.tobytes())
                    files[path] = argument
                    words.append(str(path))
                elif argument is None:
                    words.append("null")
                else:
                    exact = float if isinstance(argument, (float, np.floating)) else int
                    words.append(repr(exact(argument)))
            done = _run_watched([str(program), *words])
            if done.returncode == _SANITIZER_FOUND:
                return _with_lines(done.stderr, program)
            if done.returncode == _KERNEL_ERROR:
                raise self.error(done.stderr.strip())
            if done.returncode or done.stderr:
                raise RuntimeError(f"the program ended with {done.returncode}: {done.stderr}")
            for path, array in files.items():
                if array.flags.writeable:
                    array[...] = np.frombuffer(path.read_bytes(), array.dtype).reshape(array.shape)
        return ""


def _copies(arguments: Sequence[Any]) -> list[Any]:
    return [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]


def _with_lines(report: str, program: Path) -> str:
    """Looks up the lines of a report that g++'s sanitizers do not find themselves."""
    unknown = rf"<null> \({re.escape(program.name)}\+(0x[0-9a-f]+)\)"
    addresses = list(dict.fromkeys(re.findall(unknown, report)))
    if not addresses:
        return report
    command = ["addr2line", "-e", str(program), *addresses]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    places = dict(zip(addresses, lines, strict=True))
    return re.sub(unknown, lambda match: places[match[1]], report)


def _run_watched(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a program that stops at the first thing that its sanitizer finds."""
    common = f"exitcode={_SANITIZER_FOUND}:halt_on_error=1"
    environment = os.environ | {
        "TSAN_OPTIONS": common,
        "ASAN_OPTIONS": f"{common}:detect_leaks=0",
        "UBSAN_OPTIONS": f"{common}:print_stacktrace=1",
    }
    options = {"capture_output": True, "text": True, "env": environment}
    done = subprocess.run(command, **options)
    if "unexpected memory mapping" in done.stderr:
        # Older versions of ThreadSanitizer need addresses that are less random than usual.
        done = subprocess.run(["setarch", "--addr-no-randomize", *command], **options)
    return done
