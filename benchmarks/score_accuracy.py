"""SPIN's scores of a whole model in float32 against autograd in float64, on real rows.

    python benchmarks/score_accuracy.py [--model FOLDER] [--data FOLDER] [--samples N]

The exact scores are those of ``neuropatch.attribution.reference``: a copy of the model in float64,
one whole sample at a time, the weight gradients themselves. The error of a matrix is the Frobenius
norm of the difference over that of the exact scores. Autograd in float32, one sample at a time,
shows how much of the error is the model's own rounding and how much the package's shortcuts add.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from _harness import Ratio, Report, environment, finish, parse, parser_of
from _model import add_options, load_model, read_samples, token_count, whole
from torch import Tensor

from neuropatch.attribution.accumulator import GradientAccumulator
from neuropatch.attribution.reference import snip_scores
from neuropatch.attribution.run import score_batch
from neuropatch.data.batching import packed_batches
from neuropatch.data.tokenize import Sample
from neuropatch.models.coordinates import MatrixId, parse_target
from neuropatch.models.modules import model_layout, resolve_parameters

Scores = Mapping[MatrixId, Tensor]
BOUND = 1e-5


def package_scores(model: Any, samples: Sequence[Sample], matrices: list[MatrixId]) -> Scores:
    """By the package's scoring pass."""
    accumulator = GradientAccumulator(
        model, resolve_parameters(model, model_layout(model), matrices)
    )
    for batch in packed_batches(samples, batch_tokens=1024):
        score_batch(model, accumulator, batch)
    return {matrix: accumulator.score(matrix) for matrix in matrices}


def autograd_scores(model: Any, samples: Sequence[Sample], matrices: list[MatrixId]) -> Scores:
    """By the weight gradients of one sample at a time, in the model's type."""
    slots = resolve_parameters(model, model_layout(model), matrices)
    totals = [torch.zeros_like(slot.parameter, dtype=torch.float32) for slot in slots]
    for slot in slots:
        slot.parameter.requires_grad_(True)
    for sample in samples:
        model(**whole(sample), use_cache=False).loss.backward()
        for slot, total in zip(slots, totals, strict=True):
            assert slot.parameter.grad is not None
            total += (slot.parameter.detach() * slot.parameter.grad).abs()
            slot.parameter.grad = None
    model.requires_grad_(False)
    return {
        slot.matrix: slot.view_of(total) / len(samples)
        for slot, total in zip(slots, totals, strict=True)
    }


def errors(found: Scores, exact: Scores) -> dict[str, float]:
    """Relative Frobenius errors: of the worst matrix, and of all matrices taken as one."""
    difference = {m: float((found[m].double() - exact[m]).norm()) for m in exact}
    size = {m: float(exact[m].norm()) for m in exact}
    whole = sum(d * d for d in difference.values()) / sum(s * s for s in size.values())
    return {"worst": max(difference[m] / size[m] for m in exact), "all": whole**0.5}


def measure(options: argparse.Namespace, report: Report) -> None:
    source, samples = read_samples(options, "privacy")
    model = load_model(options)
    matrices = model_layout(model).matrices(parse_target("mlp"))
    exact = snip_scores(model, samples, matrices)
    found = {
        "neuropatch, float32": errors(package_scores(model, samples, matrices), exact),
        "autograd, float32": errors(autograd_scores(model, samples, matrices), exact),
    }
    del model
    half = load_model(options, "bfloat16")
    found["neuropatch, bfloat16"] = errors(package_scores(half, samples, matrices), exact)
    found["autograd, bfloat16"] = errors(autograd_scores(half, samples, matrices), exact)
    report.settings["data"] = f"{source}, {len(samples)} samples, {token_count(samples)} tokens"
    report.results = found
    rows = [
        (way, *(f"{error:.1e}" for error in (each["worst"], each["all"])))
        for way, each in found.items()
    ]
    columns = ("scores", "worst matrix", "all matrices")
    report.tables.append(("Relative error against float64, Frobenius norm", columns, rows))
    worst = found["neuropatch, float32"]["worst"]
    report.ratios.append(
        Ratio(3, "float32 score against float64, worst matrix", BOUND, worst, True)
    )


def main() -> None:
    parser = parser_of(__doc__)
    add_options(parser, samples=16)
    options = parse(parser)
    if options.quick:
        options.samples = min(options.samples, 3)
    machine = environment()
    report = Report("Accuracy of SPIN scores of all MLP matrices")
    measure(options, report)
    finish(report, options, machine)


if __name__ == "__main__":
    main()
