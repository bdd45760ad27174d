"""The fused score kernel against the ways of computing the same sum in PyTorch.

Usage: python benchmarks/kernel_snip_accumulate.py [--threads N] [--repeats N] [--json] [--profile]

For a batch of ragged samples of about 76 tokens, S += sum_b |G_b^T X_b| is computed by

* ``kernel``: ``neuropatch.kernels.snip_accumulate_`` as it is by default;
* ``exact``, for bfloat16 where the default is the CPU's own bfloat16 arithmetic: the same with
  ``NEUROPATCH_KERNELS=avx512``, which widens to float32;
* ``mm+abs+add``: one matrix product a sample into a buffer, then abs and add, all in place;
* ``einsum``: all products of the padded batch at once, then abs and sum;
* ``gemm``: one product over all tokens. It computes something else (no absolute value a sample),
  with the same number of multiplications, and stands for the speed that torch's GEMM reaches here.

The ways take turns within each repeat, so that a change of clock or load meets all of them.

``--profile`` instead compiles ``snip_profile.cpp``, which says how far the kernel is from the peak
of one core and where its time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from neuropatch.kernels import backends, snip_accumulate_
from neuropatch.kernels._backend import ENVIRONMENT_VARIABLE
from neuropatch.kernels.reference import snip as reference


@dataclass(frozen=True)
class Case:
    """One weight matrix ``[out, inp]``, a number of samples, and the speed-up to reach."""

    out: int
    inp: int
    samples: int
    target_over_mm: float


CASES = (Case(576, 1536, 32, 1.7), Case(2048, 8192, 8, 3.5))


@dataclass(frozen=True)
class Batch:
    """Random activations ``[tokens, out]`` and ``[tokens, inp]`` of samples of 50 to 102 tokens."""

    grad: Tensor
    input: Tensor
    offsets: Tensor

    @classmethod
    def draw(cls, case: Case, dtype: torch.dtype) -> Batch:
        """The same values for the same case, rounded to ``dtype``."""
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(50, 103, (case.samples,), generator=generator)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        tokens = int(offsets[-1])
        grad = torch.randn(tokens, case.out, generator=generator).to(dtype)
        return cls(grad, torch.randn(tokens, case.inp, generator=generator).to(dtype), offsets)


@dataclass(frozen=True)
class Timing:
    """Wall-clock milliseconds of one way over all timed rounds."""

    median_ms: float
    min_ms: float
    max_ms: float
    gflops: float


@dataclass(frozen=True)
class Result:
    """One case in one type of activations."""

    case: Case
    dtype: str
    tokens: int
    ways: dict[str, Timing]
    frobenius_error: float

    def kernel_over(self, way: str) -> float:
        """How many times faster the kernel is than another way."""
        return self.ways[way].median_ms / self.ways["kernel"].median_ms

    def baseline_gigabytes_per_second(self) -> float:
        """What mm+abs+add moves at least, by its time.

        For each sample a product written, then read and written by abs and read by add, which reads
        and writes the score.
        """
        width = 2 if self.dtype == "bfloat16" else 4
        moved = (4 * width + 8) * self.case.out * self.case.inp * self.case.samples
        return 1e-6 * moved / self.ways["mm+abs+add"].median_ms


def make_ways(case: Case, batch: Batch) -> dict[str, Callable[[], None]]:
    """The functions to time. Each owns what it writes, allocated before the clock starts."""
    grad, x, offsets = batch.grad, batch.input, batch.offsets
    bounds = list(pairwise(offsets.tolist()))
    score = torch.zeros(case.out, case.inp)
    buffer = torch.empty(case.out, case.inp, dtype=grad.dtype)
    padded_grad = pad_sequence([grad[a:b] for a, b in bounds], batch_first=True)
    padded_x = pad_sequence([x[a:b] for a, b in bounds], batch_first=True)

    def kernel() -> None:
        snip_accumulate_(score, grad, x, offsets)

    def exact() -> None:
        os.environ[ENVIRONMENT_VARIABLE] = "avx512"
        snip_accumulate_(score, grad, x, offsets)
        del os.environ[ENVIRONMENT_VARIABLE]

    def mm_abs_add() -> None:
        for a, b in bounds:
            torch.mm(grad[a:b].T, x[a:b], out=buffer)
            score.add_(buffer.abs_())

    def einsum() -> None:
        score.add_(torch.einsum("bto,bti->boi", padded_grad, padded_x).abs_().sum(0))

    def gemm() -> None:
        torch.mm(grad.T, x, out=buffer)

    ways = {"kernel": kernel, "mm+abs+add": mm_abs_add, "einsum": einsum, "gemm": gemm}
    if grad.dtype == torch.bfloat16 and backends()[0].backend == "avx512_bf16":
        ways["exact"] = exact
    return ways


def frobenius_error(case: Case, batch: Batch) -> float:
    """Relative error of the kernel against float64 on the same (rounded) activations."""
    score = torch.zeros(case.out, case.inp)
    snip_accumulate_(score, batch.grad, batch.input, batch.offsets)
    exact = torch.zeros(case.out, case.inp, dtype=torch.float64)
    reference.snip_accumulate_(exact, batch.grad, batch.input, batch.offsets)
    return float((score - exact).norm() / exact.norm())


def measure(case: Case, dtype: torch.dtype, repeats: int) -> Result:
    """Times all ways in turns."""
    batch = Batch.draw(case, dtype)
    ways = make_ways(case, batch)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if repeat > 0:  # the first round warms caches and allocators
                seconds[name].append(time.perf_counter() - start)
    tokens = batch.grad.shape[0]
    flops = 2 * case.out * case.inp * tokens
    timings = {
        name: Timing(
            1e3 * statistics.median(values),
            1e3 * min(values),
            1e3 * max(values),
            1e-9 * flops / statistics.median(values),
        )
        for name, values in seconds.items()
    }
    error = frobenius_error(case, batch)
    return Result(case, str(dtype).removeprefix("torch."), tokens, timings, error)


def machine() -> dict[str, object]:
    """What the numbers depend on."""
    cpu_info = Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip()
        for line in (cpu_info.read_text().splitlines() if cpu_info.is_file() else [])
        if line.startswith("model name")
    ]
    return {
        "machine": platform.platform(),
        "cpu": models[0] if models else platform.processor(),
        "cores": len(models) or None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "backend": backends()[0].backend,
    }


def print_table(environment: dict[str, object], results: list[Result]) -> None:
    """Writes what a reader wants to know, medians with the range they come from."""
    for key, value in environment.items():
        print(f"{key}: {value}")
    for result in results:
        case = result.case
        print(
            f"\n{case.out} x {case.inp}, {case.samples} samples, {result.tokens} tokens, "
            f"{result.dtype}"
        )
        print(f"{'way':<12}{'median ms':>10}{'min..max':>18}{'GFLOP/s':>10}")
        for name, timing in result.ways.items():
            spread = f"{timing.min_ms:.1f}..{timing.max_ms:.1f}"
            print(f"{name:<12}{timing.median_ms:>10.1f}{spread:>18}{timing.gflops:>10.0f}")
        target = f" (target {case.target_over_mm})" if result.dtype == "float32" else ""
        print(
            f"kernel: {result.kernel_over('mm+abs+add'):.2f} x mm+abs+add{target}, "
            f"{result.kernel_over('einsum'):.2f} x einsum, {result.kernel_over('gemm'):.2f} x gemm"
        )
        print(f"mm+abs+add moves {result.baseline_gigabytes_per_second():.0f} GB/s")
        print(f"kernel against float64, Frobenius: {result.frobenius_error:.1e} (target 1e-5)")


def profile() -> None:
    """Compiles and runs ``snip_profile.cpp`` on the cases."""
    here = Path(__file__).parent
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        sys.exit("--profile needs a C++ compiler (CXX, or c++ on PATH)")
    sources = [
        here / "snip_profile.cpp",
        *(here.parent / "csrc/cpu" / f"snip_kernels{part}.cpp" for part in ("", "_bf16")),
    ]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "snip_profile"
        flags = ["-std=c++20", "-O3", "-ffp-contract=fast", "-o", str(program)]
        subprocess.run([compiler, *flags, *map(str, sources)], check=True)
        for case in CASES:
            sizes = [str(size) for size in (case.out, case.inp, case.samples)]
            subprocess.run([str(program), *sizes], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    parser.add_argument("--repeats", type=int, default=9, help="timed rounds, at least 5")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--profile", action="store_true", help="one core's peak and the phases")
    options = parser.parse_args()
    if options.profile:
        profile()
        return
    if options.repeats < 5:
        parser.error("--repeats must be at least 5")
    if options.threads is not None:
        torch.set_num_threads(options.threads)

    results = [
        measure(case, dtype, options.repeats)
        for case in CASES
        for dtype in (torch.float32, torch.bfloat16)
    ]
    if options.json:
        json.dump({**machine(), "results": [asdict(r) for r in results]}, sys.stdout, indent=1)
        print()
    else:
        print_table(machine(), results)


if __name__ == "__main__":
    main()
