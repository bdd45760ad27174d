"""DEPN's integrated gradients on causal models: one pass for all points against whole passes.

    python benchmarks/depn_integrated.py [--model FOLDER] [--tokens 64] [--steps 20]

The ways attribute the probability of one token to all MLP units of all layers:

* ``neuropatch``: the text is read once; every interpolation point is a token that continues it, and
  joins one common pass at its layer.
* ``whole passes``: layer by layer, the text again for every point (a batch a layer), with frozen
  weights, so that the backward pass ends at the layer.
* ``knowledge-neurons``: the package of that name on PyPI, on a randomly initialised GPT-2 small; it
  knows no Llama. It needs ``pip install --no-deps knowledge-neurons==0.0.2`` and ``einops``, and is
  left out where it is missing.

``knowledge-neurons`` scales the output of ``c_fc``, before the activation function, over
``linspace(0, 1, steps)``. With ReLU, and its points but for the first (whose gradient is zero),
that is our integral: ``steps`` of its points are ``steps - 1`` of ours, and its mean is over one
point more. So its GPT-2 has ReLU, and attributions are compared at ``steps - 1``; both are timed at
``steps``.

A round takes some three minutes on two cores, nearly all of it for the slow ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from _harness import Ratio, Report, environment, finish, parse, parser_of, take_turns
from _model import add_options, load_model, read_samples
from transformers import BatchEncoding, GPT2Config, GPT2LMHeadModel

from neuropatch.attribution import reference
from neuropatch.attribution.integrated import Attributions, IntegratedGradients, Question
from neuropatch.models.modules import model_layout

TARGET = 60.0
COLUMNS = ("way", "seconds", "times neuropatch", "error / largest score")
INSTALL = "knowledge-neurons is left out: pip install --no-deps knowledge-neurons==0.0.2 einops"


def question_of(samples: Any, tokens: int) -> Question:
    """The next token behind ``tokens`` tokens of as many samples as that takes."""
    ids = [token for sample in samples for token in sample.ids][: tokens + 1]
    return Question(tuple(ids[:-1]), (tokens - 1,), (ids[-1],))


def scores_of(found: Attributions) -> torch.Tensor:
    """``[layers, units]`` of a question of one token."""
    return torch.stack([scores[0] for scores in found.scores.values()])


def error_of(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest difference, over the largest score."""
    return float((found.double() - exact).abs().max() / exact.abs().max())


def fast_way(model: Any, question: Question, steps: int) -> Callable[[], torch.Tensor]:
    """Neuropatch's way; it must not fall back to whole texts."""

    def refuse(sentence: str) -> None:
        raise SystemExit(sentence)

    gradients = IntegratedGradients(model, model_layout(model), steps=steps, note=refuse)
    return lambda: scores_of(gradients.attribute(question))


def compare(
    title: str,
    ways: dict[str, Callable[[], torch.Tensor]],
    errors: dict[str, float],
    options: argparse.Namespace,
    report: Report,
) -> None:
    """Time ways in turns, and put them into the report against neuropatch's."""
    fast = ways["neuropatch"]
    fast()
    # A slow way warms up in its first second, and has no turn that does not count.
    timings = take_turns(ways, options.rounds, warm_up=0)
    ours = timings["neuropatch"]
    rows = [
        (name, timing.cell(1, 2), timing.over(ours), f"{errors[name]:.1e}")
        for name, timing in timings.items()
    ]
    report.tables.append((title, COLUMNS, rows))
    report.results[title] = {
        name: {**timing.to_json(), "error": errors[name]} for name, timing in timings.items()
    }
    report.ratios += [
        Ratio(5, f"{name} / neuropatch", TARGET, timing.over(ours))
        for name, timing in timings.items()
        if name != "neuropatch"
    ]


def measure_smollm2(options: argparse.Namespace, report: Report) -> None:
    """Against whole passes; float64 attributions tell how exact both are."""
    source, samples = read_samples(options, "privacy")
    question = question_of(samples, options.tokens)
    model = load_model(options)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "neuropatch": fast_way(model, question, options.steps),
        "whole passes": lambda: scores_of(
            reference.integrated_gradients(model, question, steps=options.steps)
        ),
    }
    found = {name: way() for name, way in ways.items()}
    exact = fast_way(load_model(options).double(), question, options.steps)()
    errors = {name: error_of(one, exact) for name, one in found.items()}
    report.settings |= {"text": source, "tokens": options.tokens, "points": options.steps}
    layers, units = exact.shape
    compare(f"{layers} layers of {units} units, float32", ways, errors, options, report)


class Numbers:
    """Stands for the tokenizer that knowledge-neurons asks: ids pass as they are."""

    def __init__(self, question: Question) -> None:
        self._question = question

    def __call__(self, prompt: str, return_tensors: str) -> BatchEncoding:
        """The text, whatever the prompt."""
        ids = torch.tensor([self._question.ids])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def encode(self, target: str) -> list[int]:
        """The token that is attributed, whatever the target."""
        return list(self._question.targets)


def measure_gpt2(options: argparse.Namespace, report: Report) -> None:
    """Against the package on PyPI."""
    from knowledge_neurons import KnowledgeNeurons

    torch.manual_seed(0)
    layers = 2 if options.quick else 12
    config = GPT2Config(activation_function="relu", n_layer=layers)
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    ids = torch.randint(config.vocab_size, (options.tokens + 1,)).tolist()
    question = Question(tuple(ids[:-1]), (options.tokens - 1,), (ids[-1],))
    theirs = KnowledgeNeurons(model, Numbers(question), model_type="gpt2", device="cpu")
    steps = options.steps

    def published() -> torch.Tensor:
        scores: torch.Tensor = theirs.get_scores("", "", steps=steps, batch_size=10, pbar=False)
        return scores

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "neuropatch": fast_way(model, question, steps),
        "knowledge-neurons": published,
    }
    same = fast_way(model, question, steps - 1)()
    mine = published() * steps / (steps - 1)
    exact = fast_way(model.double(), question, steps - 1)()
    model.float()
    errors = {"neuropatch": error_of(same, exact), "knowledge-neurons": error_of(mine, exact)}
    compare(f"GPT-2 small, {layers} layers, float32", ways, errors, options, report)


def main() -> None:
    parser = parser_of(__doc__)
    add_options(parser, samples=32)
    parser.add_argument("--tokens", type=int, default=64, help="length of the text")
    parser.add_argument("--steps", type=int, default=20, help="points of the integral, tens")
    options = parse(parser)
    if options.quick:
        options.rounds, options.tokens, options.steps = 1, 16, 10
    machine = environment()
    report = Report("Integrated gradients of one token with respect to all MLP units")
    measure_smollm2(options, report)
    if find_spec("knowledge_neurons") and find_spec("einops"):
        measure_gpt2(options, report)
    else:
        print(INSTALL)
    finish(report, options, machine)


if __name__ == "__main__":
    main()
