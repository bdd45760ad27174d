"""The CUDA kernels against PyTorch's ways and against what the GPU can do at most.

Usage: python benchmarks/kernels_cuda.py [--count] [--repeats N] [--json]

For two weight matrices and a batch of 32 samples of 76 tokens:

* ``snip_accumulate_`` beside one product a sample with abs and add, and beside one einsum;
* ``snip_column_norms``, ``product_topk`` and ``snip_accumulate_at_`` (1e-4 of the weights).

Each is set against its roofline on an H100 SXM: operations and bytes that no implementation can do
without, at 989 TFLOP/s (bfloat16 on tensor cores, dense), 67 TFLOP/s (float32) and 3.35 TB/s.
``--count`` prints these counts only, which takes no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from neuropatch.kernels import (
    cuda_kernels,
    product_topk,
    snip_accumulate_,
    snip_accumulate_at_,
    snip_column_norms,
)

SAMPLES, TOKENS = 32, 76
MATRICES = ((576, 1536), (2048, 8192))
DTYPES = (torch.bfloat16, torch.float32)
PEAK_FLOPS = {torch.bfloat16: 989e12, torch.float32: 67e12}
PEAK_BYTES = 3.35e12


@dataclass(frozen=True)
class Work:
    """What one call of an operator must do, whoever does it.

    Attributes:
        flops: Multiplications and additions.
        bytes: Read from and written to the GPU's memory, each operand once.
    """

    op: str
    out: int
    inp: int
    dtype: str
    flops: float
    bytes: float

    @property
    def bound_us(self) -> float:
        """The longer of the two times at the peak rates, in microseconds."""
        peak = PEAK_FLOPS[getattr(torch, self.dtype)]
        return 1e6 * max(self.flops / peak, self.bytes / PEAK_BYTES)

    @property
    def bound_by(self) -> str:
        """What the bound comes from."""
        peak = PEAK_FLOPS[getattr(torch, self.dtype)]
        return "arithmetic" if self.flops / peak > self.bytes / PEAK_BYTES else "memory"


def count(op: str, out: int, inp: int, dtype: torch.dtype) -> Work:
    """Operations and bytes of one call."""
    tokens, weights = SAMPLES * TOKENS, out * inp
    activations = tokens * (out + inp) * dtype.itemsize
    places = weights // 10_000
    touched = (min(out, places) + min(inp, places)) * dtype.itemsize
    flops, moved = {
        "snip_accumulate_": (2 * tokens * weights + SAMPLES * weights, activations + 8 * weights),
        "snip_accumulate_at_": (2 * tokens * places, tokens * touched + 16 * places),
        "snip_column_norms": (2 * tokens * inp, tokens * inp * dtype.itemsize + 4 * SAMPLES * inp),
        "product_topk": (2 * weights, weights * (4 + dtype.itemsize)),
    }[op]
    return Work(op, out, inp, str(dtype).removeprefix("torch."), flops, moved)


def all_work() -> list[Work]:
    """Every operator on every matrix and type."""
    return [
        count(op, out, inp, dtype)
        for op in ("snip_accumulate_", "snip_accumulate_at_", "snip_column_norms", "product_topk")
        for out, inp in MATRICES
        for dtype in DTYPES
    ]


def make_ways(work: Work) -> dict[str, Callable[[], object]]:
    """The operator, and the ways of PyTorch to do the same."""
    dtype = getattr(torch, work.dtype)
    tokens = SAMPLES * TOKENS
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device="cuda").to(dtype)

    grad, x, weight = normal(tokens, work.out), normal(tokens, work.inp), normal(work.out, work.inp)
    offsets = torch.arange(0, tokens + 1, TOKENS)
    score = torch.rand(work.out, work.inp, generator=generator, device="cuda")
    places = work.out * work.inp // 10_000
    if work.op == "snip_column_norms":
        return {"kernel": lambda: snip_column_norms(x, offsets)}
    if work.op == "product_topk":
        k = max(places // 100, 1)
        return {
            "kernel": lambda: product_topk(weight, score, float(SAMPLES), k, 0.0),
            "mul+abs+topk": lambda: torch.topk((score * weight.abs()).view(-1), k),
        }
    if work.op == "snip_accumulate_at_":
        chosen = torch.randperm(score.numel(), device="cuda", generator=generator)[:places]
        flat = chosen.sort().values
        rows, columns = (flat // work.inp).int(), (flat % work.inp).int()
        some = score.view(-1)[flat].contiguous()
        return {"kernel": lambda: snip_accumulate_at_(some, grad, x, offsets, rows, columns)}
    buffer = torch.empty(work.out, work.inp, dtype=dtype, device="cuda")
    padded_grad, padded_x = (a.view(SAMPLES, TOKENS, -1) for a in (grad, x))

    def mm_abs_add() -> None:
        for sample in range(SAMPLES):
            torch.mm(padded_grad[sample].T, padded_x[sample], out=buffer)
            score.add_(buffer.abs_())

    def einsum() -> None:
        score.add_(torch.einsum("bto,bti->boi", padded_grad, padded_x).abs_().sum(0))

    return {
        "kernel": lambda: snip_accumulate_(score, grad, x, offsets),
        "mm+abs+add": mm_abs_add,
        "einsum": einsum,
    }


def measure(work: Work, repeats: int) -> dict[str, list[float]]:
    """Microseconds of every way by the GPU's clock, in turns; the first round warms up."""
    ways = make_ways(work)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            way()
            stop.record()
            stop.synchronize()
            if repeat:
                times[name].append(1e3 * start.elapsed_time(stop))
    return times


def print_counts(works: list[Work]) -> None:
    print("| operator | matrix | type | GFLOP | MB | at least, on an H100 | bound by |")
    print("|---|---|---|---|---|---|---|")
    for work in works:
        print(
            f"| `{work.op}` | {work.out} x {work.inp} | {work.dtype} | {work.flops / 1e9:.3g} "
            f"| {work.bytes / 1e6:.3g} | {work.bound_us:.1f} us | {work.bound_by} |"
        )


def print_times(work: Work, times: dict[str, list[float]]) -> None:
    print(f"\n{work.op}, {work.out} x {work.inp}, {work.dtype}: at least {work.bound_us:.1f} us")
    for name, values in times.items():
        median = statistics.median(values)
        print(
            f"  {name:<14}{median:>10.1f} us ({min(values):.1f} to {max(values):.1f}), "
            f"{1e-6 * work.flops / median:.1f} TFLOP/s, {100 * work.bound_us / median:.0f} % of an "
            "H100's bound"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", action="store_true", help="operations and bytes; takes no GPU")
    parser.add_argument("--repeats", type=int, default=20, help="timed rounds")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    works = all_work()
    if options.count:
        print_counts(works)
        return
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU; --count prints what can be said without one")
    torch.backends.cuda.matmul.allow_tf32 = False
    results: list[dict[str, Any]] = []
    for work in works:
        times = measure(work, options.repeats)
        results.append({**asdict(work), "bound_us": work.bound_us, "times_us": times})
        if not options.json:
            print_times(work, times)
    if options.json:
        machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
        document = {**machine, "kernels": asdict(cuda_kernels()), "results": results}
        json.dump(document, sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
