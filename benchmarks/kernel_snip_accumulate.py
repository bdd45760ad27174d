"""The fused score kernel against the ways of computing the same sum in PyTorch.

    python benchmarks/kernel_snip_accumulate.py [--threads N] [--rounds N] [--json FILE] [--profile]

For a batch of ragged samples of about 76 tokens, S += sum_b |G_b^T X_b| is computed by

* ``kernel``: ``neuropatch.kernels.snip_accumulate_`` as it is by default;
* ``exact``, for bfloat16 where the default is the CPU's own bfloat16 arithmetic: the same with
  ``NEUROPATCH_KERNELS=avx512``, which widens to float32;
* ``amx``, for bfloat16 on a CPU that has it: the same with ``NEUROPATCH_KERNELS=amx``;
* ``mm+abs+add``: one matrix product a sample into a buffer, then abs and add, all in place;
* ``einsum``: all products of the padded batch at once, then abs and sum;
* ``gemm``: one product over all tokens. It computes something else (no absolute value a sample),
  with the same number of multiplications, and stands for the speed that torch's GEMM reaches here.

``--profile`` instead compiles ``snip_profile.cpp``, which says how far the kernel is from the peak
of one core and where its time goes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from _harness import Ratio, Report, Timing, environment, finish, parse, parser_of, take_turns
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from neuropatch.kernels import backends, snip_accumulate_
from neuropatch.kernels._backend import ENVIRONMENT_VARIABLE, available_choices
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


@contextmanager
def forced(choice: str) -> Iterator[None]:
    """Kernels of one kind inside the block."""
    os.environ[ENVIRONMENT_VARIABLE] = choice
    yield
    del os.environ[ENVIRONMENT_VARIABLE]


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
        with forced("avx512"):
            snip_accumulate_(score, grad, x, offsets)

    def amx() -> None:
        with forced("amx"):
            snip_accumulate_(score, grad, x, offsets)

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
    if grad.dtype == torch.bfloat16 and "amx" in available_choices():
        ways["amx"] = amx
    return ways


def scores(case: Case, batch: Batch) -> tuple[Tensor, Tensor]:
    """The kernel's scores, and those in float64 of the same (rounded) activations."""
    score = torch.zeros(case.out, case.inp)
    snip_accumulate_(score, batch.grad, batch.input, batch.offsets)
    exact = torch.zeros(case.out, case.inp, dtype=torch.float64)
    reference.snip_accumulate_(exact, batch.grad, batch.input, batch.offsets)
    return score, exact


def baseline_bandwidth(case: Case, dtype: torch.dtype, seconds: float) -> float:
    """Gigabytes a second that mm+abs+add moves at least.

    For each sample a product written, then read and written by abs and read by add, which reads
    and writes the score.
    """
    moved = (4 * dtype.itemsize + 8) * case.out * case.inp * case.samples
    return 1e-9 * moved / seconds


def measure(case: Case, dtype: torch.dtype, rounds: int, report: Report) -> dict[str, Timing]:
    """Times all ways in turns."""
    batch = Batch.draw(case, dtype)
    tokens = batch.grad.shape[0]
    timings = take_turns(make_ways(case, batch), rounds)
    score, exact = scores(case, batch)
    error = float((score - exact).norm() / exact.norm())
    ours = timings["kernel"]
    gigaflop = 2e-9 * case.out * case.inp * tokens
    rows = [
        (name, timing.cell(), f"{gigaflop / timing.median:.0f}", timing.over(ours))
        for name, timing in timings.items()
    ]
    name = str(dtype).removeprefix("torch.")
    moved = baseline_bandwidth(case, dtype, timings["mm+abs+add"].median)
    headline = (
        f"{case.out} x {case.inp}, {case.samples} samples, {tokens} tokens, {name}; error against "
        f"float64 {error:.1e} (Frobenius); mm+abs+add moves {moved:.0f} GB/s"
    )
    columns = ("way", "ms (range)", "GFLOP/s", "times kernel")
    report.tables.append((headline, columns, rows))
    report.results[f"{case.out} x {case.inp}, {name}"] = {
        "case": asdict(case),
        "tokens": tokens,
        "ways": {way: timing.to_json() for way, timing in timings.items()},
        "frobenius_error": error,
    }
    return timings


def float32_ratios(case: Case, timings: dict[str, Timing]) -> list[Ratio]:
    """Of the kernel in float32 over the other ways."""
    ours, size = timings["kernel"], f"{case.out} x {case.inp}"
    return [
        Ratio(
            2,
            f"mm+abs+add over kernel, {size}",
            case.target_over_mm,
            timings["mm+abs+add"].over(ours),
        ),
        Ratio(2, f"einsum over kernel, {size}", 3.5, timings["einsum"].over(ours)),
        Ratio(2, f"kernel's rate over GEMM's, {size}", 0.8, timings["gemm"].over(ours)),
    ]


def amx_ratios(case: Case, single: Timing, amx: Timing) -> list[Ratio]:
    """Of AMX over the kernel in float32, and the largest error over the largest score."""
    size = f"{case.out} x {case.inp}"
    with forced("amx"):
        score, exact = scores(case, Batch.draw(case, torch.bfloat16))
    error = float((score - exact).abs().max() / exact.max())
    return [
        Ratio(2, f"float32 kernel over AMX, {size}", 3.0, single.over(amx)),
        Ratio(2, f"AMX, largest error over largest score, {size}", 2e-3, error, True),
    ]


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
    parser = parser_of(__doc__)
    parser.add_argument("--profile", action="store_true", help="one core's peak and the phases")
    options = parse(parser)
    if options.profile:
        profile()
        return
    machine = environment()
    report = Report("SNIP scores of a batch of samples", {"backend": backends()[0].backend})
    for case in CASES:
        single = measure(case, torch.float32, options.rounds, report)
        report.ratios += float32_ratios(case, single)
        half = measure(case, torch.bfloat16, options.rounds, report)
        if "amx" in half:
            report.ratios += amx_ratios(case, single["kernel"], half["amx"])
    finish(report, options, machine)


if __name__ == "__main__":
    main()
