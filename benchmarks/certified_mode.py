"""The certified mode of SPIN against scores of the whole model in memory: time, memory, sets.

Usage: python benchmarks/certified_mode.py MODEL DATA.csv [DATA.csv ...] [--samples N]
       [--amount A] [--scope matrix|layer|model] [--threads N] [--dtype D] [--json]

For each data set both modes find the top weights of the MLP matrices, in turn, in one process. Time
is that of the CPU, which other programs on the machine disturb least. Score memory is what the
certified mode keeps of scores at the most, bounds and candidates, as a share of the float32 buffers
of the full mode. The script fails if the sets differ in one weight.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from neuropatch.attribution.certified_run import CertifiedRun
from neuropatch.attribution.plan import plan_scores
from neuropatch.attribution.run import TopWeightsRun, Wanted
from neuropatch.attribution.selection import amount_of
from neuropatch.data.columns import ColumnOptions
from neuropatch.data.corpus import load_corpus
from neuropatch.kernels import backends
from neuropatch.models.coordinates import parse_target
from neuropatch.models.loading import load_causal_model, load_tokenizer
from neuropatch.models.modules import model_layout

BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Result:
    """One data set in both modes; times in seconds of CPU."""

    data: str
    samples: int
    tokens: int
    full: float
    certified: float
    passes: float
    score_memory: float
    undecided: int

    def line(self) -> str:
        """A row of the table."""
        return (
            f"| {self.data} | {self.samples} | {self.tokens:,} | {self.full:.1f} | "
            f"{self.certified:.1f} | {self.certified / self.full:.2f} | {self.passes:.2f} | "
            f"{self.score_memory:.2%} | {self.undecided} |"
        )


def measure(model: torch.nn.Module, corpus_file: str, arguments: argparse.Namespace) -> Result:
    layout = model_layout(model)
    matrices = layout.matrices(parse_target("mlp"))
    corpus = load_corpus(
        corpus_file,
        name="data",
        samples=arguments.samples,
        seed=0,
        columns=ColumnOptions(),
        tokenizer=load_tokenizer(Path(arguments.model)),
        max_length=None,
        chat_template=False,
    )
    numel = sum(math.prod(layout.shape(matrix)) for matrix in matrices)
    groups = {"matrix": len(matrices), "layer": len({m.layer for m in matrices}), "model": 1}
    size = numel // groups[arguments.scope]
    wanted = {"data": Wanted(corpus.samples, arguments.amount)}
    sets, seconds = [], []
    for mode, kind in (("full", TopWeightsRun), ("certified", CertifiedRun)):
        plan = plan_scores(
            layout,
            matrices,
            weights=0,
            batch_tokens=BATCH_TOKENS,
            item_size=4,
            budget=1 << 40,
            mode=mode,
            share=amount_of(arguments.amount, size) / size,
        )
        run = kind(
            model, layout, wanted, scope=arguments.scope, plan=plan, batch_tokens=BATCH_TOKENS
        )
        start = time.process_time()
        sets.append(run.run()["data"])
        seconds.append(time.process_time() - start)
    assert isinstance(run, CertifiedRun)
    full, certified = sets
    assert full.keys() == certified.keys()
    assert all(np.array_equal(full[matrix], certified[matrix]) for matrix in full)
    cost = run.costs["data"]
    return Result(
        data=Path(corpus_file).stem,
        samples=len(corpus.samples),
        tokens=cost.tokens,
        full=seconds[0],
        certified=seconds[1],
        passes=cost.run / cost.tokens,
        score_memory=cost.bytes / (4 * numel),
        undecided=cost.undecided,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("data", nargs="+")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--amount", type=float, default=1e-6)
    parser.add_argument("--scope", default="model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_causal_model(Path(arguments.model), dtype=arguments.dtype, device="cpu")
    machine = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "kernels": backends()[0].backend,
        "amount": arguments.amount,
        "scope": arguments.scope,
        "dtype": arguments.dtype,
    }
    if not arguments.json:
        print(", ".join(f"{name} {value}" for name, value in machine.items()))
        print("| data | samples | tokens | full, s | certified, s | ratio | passes | score memory |"
              " second look |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|")
    results = []
    for file in arguments.data:
        results.append(measure(model, file, arguments))
        if not arguments.json:
            print(results[-1].line(), flush=True)
    if arguments.json:
        print(json.dumps({**machine, "results": [asdict(result) for result in results]}))


if __name__ == "__main__":
    main()
