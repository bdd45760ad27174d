"""Linear layers and MLPs with masks, against the ways of computing the same with stock PyTorch.

    python benchmarks/kernel_masked_mlp.py [--threads N] [--rounds N] [--json FILE]

Forward pass of a 2048 x 8192 layer, a ten-thousandth of its weights zeroed:

* ``plain``: the layer itself, all weights as they are;
* ``masked_linear``: ``neuropatch.kernels.masked_linear``;
* ``W*M``: a product with a mask of the weights' size, then the layer;
* ``clone and zero``: a copy of the weights with zeros written into it, then the layer.

Four patches at once, a quarter of the tokens each: ``masked_linear`` against one clone a patch.

Training step of HardConcrete gates (LPNL, arXiv 2405.10989) on 30 MLPs of SmolLM2-135M's shape,
512 tokens, weights frozen: ``stock`` autograd against ``gated_mlp``. Bytes kept for the backward
pass are those of distinct tensors other than weights and masks; the rise of the peak is measured in
a process of its own for each way, after one step has warmed the libraries up.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from _harness import (
    Ratio,
    Report,
    environment,
    finish,
    in_child,
    memory_growth,
    parse,
    parser_of,
    take_turns,
)
from torch import Tensor
from torch.nn import functional

from neuropatch.kernels import SparseEdits, backends, gated_mlp, masked_linear

OUT, INP, ZEROED = 2048, 8192, 1e-4
LAYERS, HIDDEN, UNITS, TOKENS = 30, 576, 1536, 512
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


def zeroing(weight: Tensor, patches: int) -> tuple[SparseEdits, list[Tensor]]:
    """Edits that zero random weights, and their flat positions, for each patch."""
    generator = torch.Generator().manual_seed(0)
    count = int(weight.numel() * ZEROED)
    places = [
        torch.randint(weight.numel(), (count,), generator=generator).unique()
        for _ in range(patches)
    ]
    flat = torch.cat(places)
    width = weight.shape[1]
    offsets = torch.tensor([0, *map(len, places)]).cumsum(0)
    delta = -weight.view(-1)[flat]
    return SparseEdits((flat // width).int(), (flat % width).int(), delta, offsets), places


def linear_ways(tokens: int, patches: int) -> dict[str, Callable[[], Tensor]]:
    """The ways of a layer for ``tokens`` tokens, divided evenly among ``patches`` patches."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(OUT, INP, generator=generator)
    x = torch.randn(tokens, INP, generator=generator)
    edits, places = zeroing(weight, patches)
    share = tokens // patches
    offsets = torch.arange(patches + 1) * share
    numbers = torch.arange(patches)

    def clone_and_zero() -> Tensor:
        results = []
        for patch, flat in enumerate(places):
            edited = weight.clone()
            edited.view(-1)[flat] = 0
            results.append(functional.linear(x[patch * share : (patch + 1) * share], edited))
        return torch.cat(results)

    ways: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: functional.linear(x, weight),
        "masked_linear": lambda: masked_linear(x, weight, None, edits, offsets, numbers),
        "clone and zero": clone_and_zero,
    }
    if patches == 1:
        mask = torch.ones_like(weight)
        mask.view(-1)[places[0]] = 0
        ways["W*M"] = lambda: functional.linear(x, weight * mask)
    return ways


class GatedStack:
    """MLPs with HardConcrete gates and residual connections, one step of training at a time."""

    def __init__(self, layers: int) -> None:
        generator = torch.Generator().manual_seed(2)

        def weight(out: int, inp: int) -> Tensor:
            return torch.randn(out, inp, generator=generator) / inp**0.5

        self.weights = [
            (weight(UNITS, HIDDEN), weight(UNITS, HIDDEN), weight(HIDDEN, UNITS))
            for _ in range(layers)
        ]
        self.x = torch.randn(TOKENS, HIDDEN, generator=generator)
        self.noise = torch.rand(layers, UNITS, generator=generator).clamp(1e-6, 1 - 1e-6).logit()
        self.log_alpha = torch.full((layers, UNITS), 2.0, requires_grad=True)

    def masks(self) -> Tensor:
        """A sample of the gates (Louizos et al. 2018)."""
        s = torch.sigmoid((self.noise + self.log_alpha) / BETA)
        return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def loss(self, masks: Tensor, way: str) -> Tensor:
        """Forward pass by one of the ways."""
        x = self.x
        for (gate, up, down), mask in zip(self.weights, masks, strict=True):
            normed = functional.rms_norm(x, (HIDDEN,))
            if way == "stock":
                hidden = functional.silu(functional.linear(normed, gate))
                hidden = hidden * functional.linear(normed, up) * mask
            else:
                hidden = gated_mlp(normed, gate, up, mask, "silu")
            x = x + functional.linear(hidden, down)
        return x.square().mean()

    def step(self, way: str) -> Tensor:
        """Forward and backward; the gradient of the gates' parameters."""
        (grad,) = torch.autograd.grad(self.loss(self.masks(), way), self.log_alpha)
        return grad

    def saved_bytes(self, way: str) -> int:
        """What the MLPs keep for the backward pass, weights, masks and norms aside."""
        kept: dict[int, int] = {}
        masks = self.masks()
        known = {t.untyped_storage().data_ptr() for layer in self.weights for t in layer}
        known.add(masks.untyped_storage().data_ptr())

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known and tensor.shape[-1] == UNITS:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss(masks, way)
        loss.backward()
        return sum(kept.values())


def peak_growth(way: str, layers: int, threads: int) -> int:
    """Bytes by which a step raises memory, in this process."""
    torch.set_num_threads(threads)
    GatedStack(1).step(way)
    stack = GatedStack(layers)
    with memory_growth() as found:
        stack.step(way)
    return found.growth


def measure_linear(options: argparse.Namespace, report: Report) -> None:
    for tokens, patches in ((1, 1), (64, 1), (64, 4)):
        ways = linear_ways(tokens, patches)
        exact = ways["clone and zero"]()
        error = float((ways["masked_linear"]() - exact).norm() / exact.norm())
        timings = take_turns(ways, options.rounds)
        plain = timings["plain"]
        title = (
            f"{OUT} x {INP}, {tokens} tokens, {patches} patches, {ZEROED:g} of the weights zeroed"
        )
        rows = [(name, t.cell(digits=2), t.over(plain)) for name, t in timings.items()]
        report.tables.append((title, ("way", "ms", "over plain"), rows))
        report.results[title] = {
            "error": error,
            **{name: timing.to_json() for name, timing in timings.items()},
        }
        what = f"masked forward over plain, {tokens} tokens, {patches} patches"
        measured = timings["masked_linear"].over(plain)
        report.ratios.append(Ratio(6, what, 1.2, measured, at_most=True))


def measure_step(options: argparse.Namespace, report: Report) -> None:
    layers = 4 if options.quick else LAYERS
    stack = GatedStack(layers)
    ways: dict[str, Callable[[], Any]] = {
        name: lambda name=name: stack.step(name) for name in ("stock", "gated_mlp")
    }
    error = float((ways["gated_mlp"]() - ways["stock"]()).norm() / ways["stock"]().norm())
    timings = take_turns(ways, options.rounds)
    saved = {name: stack.saved_bytes(name) for name in ways}
    threads = torch.get_num_threads()
    peaks = {
        name: in_child(__file__, "peak_growth", way=name, layers=layers, threads=threads)
        for name in ways
    }
    title = f"HardConcrete step of {layers} MLPs, {HIDDEN} x {UNITS}, {TOKENS} tokens"
    rows = [
        (name, timings[name].cell(), f"{saved[name] / 1e6:.0f}", f"{peaks[name] / 1e6:.0f}")
        for name in ways
    ]
    report.tables.append((title, ("way", "ms", "saved MB", "peak MB"), rows))
    report.results[title] = {
        name: {**timings[name].to_json(), "saved_bytes": saved[name], "peak_bytes": peaks[name]}
        for name in ways
    } | {"difference": error}
    time = timings["gated_mlp"].over(timings["stock"])
    report.ratios += [
        Ratio(6, "stock saved bytes over ours", 1.7, saved["stock"] / saved["gated_mlp"]),
        Ratio(6, "stock peak of a step over ours", 1.7, peaks["stock"] / peaks["gated_mlp"]),
        Ratio(6, "our step time over stock", 1.0, time, at_most=True),
    ]


def main() -> None:
    options = parse(parser_of(__doc__))
    machine = environment()
    backend = {entry.op: entry.backend for entry in backends()}
    report = Report(
        "Linear layers and MLPs with masks, float32",
        {"backend": backend["masked_units"], "layer": f"{OUT} x {INP}"},
    )
    measure_linear(options, report)
    measure_step(options, report)
    finish(report, options, machine)


if __name__ == "__main__":
    main()
