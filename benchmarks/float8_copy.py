"""Write a copy of a checkpoint whose block matrices are float8 with scales, for docs/quantised.md.

    python benchmarks/float8_copy.py smollm2 smollm2-fp8 [--format compressed-tensors|fp8]

compressed-tensors: one bfloat16 scale a row (``weight_scale``), as llm-compressor's FP8_DYNAMIC.
fp8: one float32 scale a block of 64 x 64 (``weight_scale_inv``), transformers' fine-grained fp8.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

LARGEST = 448.0
BLOCK = 64
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "float",
                "symmetric": True,
                "strategy": "channel",
            },
            "input_activations": {
                "num_bits": 8,
                "type": "float",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
    "ignore": ["lm_head"],
}
FINE_GRAINED = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [BLOCK, BLOCK],
}


def by_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float8 numbers ``[out, in]``, and a bfloat16 scale for each row ``[out, 1]``."""
    scale = (weight.abs().amax(1, keepdim=True) / LARGEST).bfloat16()
    numbers = (weight / scale.float()).clamp(-LARGEST, LARGEST)
    return numbers.to(torch.float8_e4m3fn), scale


def by_blocks(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float8 numbers ``[out, in]``, and a float32 scale for each block."""
    rows, columns = (size // BLOCK for size in weight.shape)
    blocks = weight.view(rows, BLOCK, columns, BLOCK)
    scale = blocks.abs().amax((1, 3)) / LARGEST
    numbers = blocks / scale[:, None, :, None]
    return numbers.view_as(weight).to(torch.float8_e4m3fn), scale


def main() -> None:
    """Read the model's one weight file and write the copy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--format", choices=("compressed-tensors", "fp8"), default="fp8")
    options = parser.parse_args()
    quantise, ending, config = (
        (by_rows, "_scale", COMPRESSED)
        if options.format == "compressed-tensors"
        else (by_blocks, "_scale_inv", FINE_GRAINED)
    )
    tensors = load_file(options.model / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        tensors[name], tensors[name + ending] = quantise(tensors[name].float())
    options.output.mkdir()
    for path in options.model.iterdir():
        if path.is_file() and path.suffix not in (".safetensors", ".gguf"):
            shutil.copy(path, options.output)
    save_file(tensors, options.output / "model.safetensors", {"format": "pt"})
    document = json.loads((options.model / "config.json").read_text())
    document["quantization_config"] = config
    (options.output / "config.json").write_text(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
