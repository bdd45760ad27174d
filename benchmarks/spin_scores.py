"""SPIN's scores of a whole model: this package against the released algorithm and other ways.

    python benchmarks/spin_scores.py [--model FOLDER] [--data FOLDER] [--samples N]

All ways end with ``sum over samples of |dL_b/dW|`` of every MLP matrix. They run in turns, and are
compared in milliseconds a token, since the released algorithm runs (whole) on fewer samples:

* ``released``: the data set again for every layer, one sample at a time, with gradients of that
  layer's weights, ``W.grad.abs()`` added up. (So the code that SPIN's authors point to computes
  scores. It takes the attention's gradients as well and leaves them out afterwards; here they are
  not made, in its favour.)
* ``one pass``: one sample at a time, gradients of all matrices at once, ``W.grad.abs()``.
* ``einsum``: batches of 8 padded samples, every sample's gradient from hooks by one einsum.
* ``neuropatch``: the package's scoring run, with its selection of the top weights.
* ``no scores``: forward and backward to the lowest MLP with no weight gradient, one sample at a
  time, as transformers does it: what the gradients of activations alone cost.
* ``no scores, packed``: the same with the package's own batches and logits.

The last way takes all the shortcuts that neuropatch takes, so what neuropatch takes longer is the
scores alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from _harness import (
    Ratio,
    Report,
    Timing,
    environment,
    finish,
    parse,
    parser_of,
    take_turns,
)
from _model import add_options, load_model, read_samples, spread_over, token_count, whole
from torch import Tensor, nn

from neuropatch.attribution.plan import ScorePlan, plan_scores
from neuropatch.attribution.run import TopWeightsRun, Wanted
from neuropatch.attribution.selection import IndexSets, top_indices
from neuropatch.data.batching import batches, packed_batches
from neuropatch.data.tokenize import Sample
from neuropatch.models.coordinates import parse_target
from neuropatch.models.likelihood import packed_losses, sample_losses
from neuropatch.models.modules import ParameterSlot, model_layout, resolve_parameters

EINSUM_SAMPLES = 8
BATCH_TOKENS = 1024
"""The package's default."""

AMOUNT = 1e-4
"""Share of each matrix that is selected, to compare what the ways would select."""


class Ways:
    """The ways to score the MLP matrices of one model.

    Args:
        model: A causal language model, all weights frozen.
        samples: What every way but the released one is run on.
        few: What the released one is run on.
    """

    def __init__(self, model: Any, samples: Sequence[Sample], few: Sequence[Sample]) -> None:
        self.model = model
        self.samples = samples
        self.few = few
        self.layout = model_layout(model)
        self.matrices = self.layout.matrices(parse_target("mlp"))
        self.slots = resolve_parameters(model, self.layout, self.matrices)
        self.sums = [torch.zeros_like(slot.parameter) for slot in self.slots]

    def all(self) -> dict[str, Callable[[], object]]:
        """Every way by its name, in the order of the turns."""
        return {
            "released": self.released,
            "one pass": self.one_pass,
            "einsum": self.einsum,
            "neuropatch": self.neuropatch,
            "no scores": self.no_scores,
            "no scores, packed": self.no_scores_packed,
        }

    def tokens(self, way: str) -> int:
        """Tokens of the samples that a way is run on."""
        return token_count(self.few if way == "released" else self.samples)

    def clear(self, _: str) -> None:
        """Start the next turn with empty sums."""
        for total in self.sums:
            total.zero_()

    def released(self) -> None:
        """One pass over the samples for every layer."""
        layers: dict[int, list[int]] = {}
        for number, slot in enumerate(self.slots):
            layers.setdefault(slot.matrix.layer, []).append(number)
        for numbers in layers.values():
            self._sum_gradients(self.few, numbers)

    def one_pass(self) -> None:
        """One pass over the samples for all layers."""
        self._sum_gradients(self.samples, range(len(self.slots)))

    def _sum_gradients(self, samples: Sequence[Sample], numbers: Sequence[int]) -> None:
        parameters = [self.slots[number].parameter for number in numbers]
        with gradients_of(parameters):
            for sample in samples:
                self.model(**whole(sample), use_cache=False).loss.backward()
                for number, parameter in zip(numbers, parameters, strict=True):
                    assert parameter.grad is not None
                    self.sums[number] += parameter.grad.abs()
                    parameter.grad = None

    def einsum(self) -> None:
        """The gradients of all samples of a batch at once."""
        longest_first = sorted(self.samples, key=lambda sample: -len(sample.ids))
        for start in range(0, len(longest_first), EINSUM_SAMPLES):
            part = longest_first[start : start + EINSUM_SAMPLES]
            (batch,) = batches(part, batch_tokens=len(part) * len(part[0].ids))
            with self._einsum_hooks():
                sample_losses(self.model, batch).sum().backward()

    @contextmanager
    def _einsum_hooks(self) -> Iterator[None]:
        def hook(slot: ParameterSlot, total: Tensor) -> Any:
            def forward(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                inputs = args[0].detach()
                transposed = slot.slot.transposed

                def backward(gradient: Tensor) -> None:
                    pair = (inputs, gradient) if transposed else (gradient, inputs)
                    total.add_(torch.einsum("bto,bti->boi", *pair).abs_().sum(0))

                output.register_hook(backward)

            return forward

        with self._from_the_lowest(), hooks_of(self.model, self.slots, self.sums, hook):
            yield

    def neuropatch(self) -> IndexSets:
        """The package's run; returns the selected weights."""
        run = TopWeightsRun(
            self.model,
            self.layout,
            {"data": Wanted(self.samples, AMOUNT)},
            scope="matrix",
            plan=self._plan(),
            batch_tokens=BATCH_TOKENS,
        )
        return run.run()["data"]

    def _plan(self) -> ScorePlan:
        return plan_scores(
            self.layout,
            self.matrices,
            weights=0,
            batch_tokens=BATCH_TOKENS,
            item_size=self.slots[0].parameter.element_size(),
            budget=1 << 50,
        )

    def no_scores(self) -> None:
        """Gradients of activations, one sample at a time, logits of all positions."""
        for sample in self.samples:
            with self._from_the_lowest():
                self.model(**whole(sample), use_cache=False).loss.backward()

    def no_scores_packed(self) -> None:
        """Gradients of activations, in the package's batches."""
        for batch in packed_batches(self.samples, batch_tokens=BATCH_TOKENS):
            with self._from_the_lowest():
                packed_losses(self.model, batch).sum().backward()

    def common_selection(self) -> float:
        """Share of neuropatch's selected weights that one pass by autograd selects as well."""
        self.clear("one pass")
        self.one_pass()
        common = total = 0
        found = self.neuropatch()
        for slot, score in zip(self.slots, self.sums, strict=True):
            score *= slot.parameter.abs()
            mine = set(found[slot.matrix].tolist())
            common += len(
                mine & set(top_indices(slot.view_of(score).flatten(), len(mine)).tolist())
            )
            total += len(mine)
        return common / total

    @contextmanager
    def _from_the_lowest(self) -> Iterator[None]:
        """The outputs of the lowest gate and up projections start the graph."""

        def start(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                output.requires_grad_()

        with hooks_of(self.model, self.slots, self.sums, lambda slot, total: start):
            yield


@contextmanager
def gradients_of(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Some weights take gradients inside the block."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    yield
    for parameter in parameters:
        parameter.requires_grad_(False)


@contextmanager
def hooks_of(
    model: nn.Module, slots: Sequence[ParameterSlot], sums: Sequence[Tensor], hook: Any
) -> Iterator[None]:
    """Forward hooks ``hook(slot, total)`` on the modules of some matrices."""
    handles = [
        model.get_submodule(slot.name.rpartition(".")[0]).register_forward_hook(hook(slot, total))
        for slot, total in zip(slots, sums, strict=True)
    ]
    yield
    for handle in handles:
        handle.remove()


BOUNDS = {
    "float32": (
        ("released", "neuropatch", 20.0, False),
        ("one pass", "neuropatch", 1.3, False),
        ("neuropatch", "no scores", 1.15, True),
        ("neuropatch", "no scores, packed", 1.15, True),
    ),
    "bfloat16": (("released", "neuropatch", 20.0, False),),
}
"""First way over second way, the bound, and whether it is an upper one, by the model's type."""


def measure(options: argparse.Namespace, dtype: str, report: Report) -> None:
    """Time all ways with a model in one type of number."""
    source, samples = read_samples(options, "privacy")
    few = spread_over(samples, min(options.released_samples, len(samples)))
    ways = Ways(load_model(options, dtype), samples, few)
    raw = take_turns(ways.all(), options.rounds, before=ways.clear)
    timings = {
        name: Timing(tuple(seconds / ways.tokens(name) for seconds in timing.seconds))
        for name, timing in raw.items()
    }
    report.settings |= {
        "data": f"{source}, {len(samples)} samples, {token_count(samples)} tokens",
        "released algorithm": f"{len(few)} of the samples, {token_count(few)} tokens, all layers",
    }
    report.results[dtype] = {
        "ms_per_token": {name: timing.to_json() for name, timing in timings.items()},
        "common_selection": ways.common_selection(),
    }
    ours = timings["neuropatch"]
    rows = [(name, timing.cell(1e3, 2), timing.over(ours)) for name, timing in timings.items()]
    report.tables.append(
        (f"{dtype}, ms a token", ("way", "median (range)", "times neuropatch"), rows)
    )
    report.ratios += [
        Ratio(1, f"{dtype}: {slow} / {fast}", bound, timings[slow].over(timings[fast]), at_most)
        for slow, fast, bound, at_most in BOUNDS[dtype]
    ]


def main() -> None:
    parser = parser_of(__doc__)
    add_options(parser, samples=32)
    parser.add_argument("--released-samples", type=int, default=2, help="rows it is run on")
    parser.add_argument("--dtypes", nargs="+", choices=list(BOUNDS), default=list(BOUNDS))
    options = parse(parser)
    if options.quick:
        options.samples, options.released_samples = min(options.samples, 8), 1
    machine = environment()
    report = Report("SPIN scores of all MLP matrices")
    for dtype in options.dtypes:
        measure(options, dtype, report)
    for dtype, result in report.results.items():
        share = result["common_selection"]
        report.settings[f"selected weights in common with one pass, {dtype}"] = f"{share:.2%}"
    finish(report, options, machine)


if __name__ == "__main__":
    main()
