"""Apply, compare and revert on a checkpoint that is larger than memory.

    python benchmarks/large_files.py [--gigabytes 42] [--work FOLDER] [--json FILE]

The checkpoint is a Llama of real widths (hidden 8192, MLP 28672, bfloat16) in shards of 5 GB with
real headers, as deep as the size asks for. Its files are sparse: their zeros take no space on the
disk, so that the size is bounded by none, and whoever reads one reads all its bytes. The patch sets
weights in every MLP matrix. Each command is a process of its own; memory is its peak, of which
120 MB are allowed whatever the size. `apply` and `revert` write to new folders; `diff` reads both
checkpoints in full, and must give back the patch's own weights.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from _harness import Ratio, Report, environment, finish, parse, parser_of

HIDDEN, UNITS, VOCABULARY, HEADS, KEY_HEADS = 8192, 28672, 128256, 64, 8

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": UNITS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": VOCABULARY,
}
SHARD_BYTES = 5_000_000_000
WEIGHTS_EACH = 80
"""Weights that the patch sets in every matrix."""

MAKE_PATCH = """
import sys
import numpy as np
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
model, path, each = sys.argv[1], sys.argv[2], int(sys.argv[3])
checkpoint, rng, edits = Checkpoint.open(model), np.random.default_rng(0), []
for matrix in checkpoint.layout.matrices(("gate", "up", "down")):
    location = checkpoint.locate(matrix)
    rows, columns = location.slot.shape
    flat = np.sort(rng.choice(rows * columns, each, replace=False)).astype(np.int64)
    after = rng.uniform(1, 2, each).astype(location.dtype)
    before = np.zeros(each, dtype=location.dtype)
    edits.append(WeightEdit(matrix, "set", *np.divmod(flat, columns), before, after))
NeuronPatch(PatchMetadata(checkpoint.layout.signature), tuple(edits)).save(path)
"""

SAME_WEIGHTS = """
import sys
from pathlib import Path
import numpy as np
from neuropatch.patch.format import read_patch
mine, theirs = ({e.matrix: e for e in read_patch(Path(name)).weights} for name in sys.argv[1:])
assert mine.keys() == theirs.keys(), "the difference is in other matrices"
for matrix, edit in mine.items():
    for name in ("rows", "columns", "before", "after"):
        a, b = getattr(edit, name), getattr(theirs[matrix], name)
        assert np.array_equal(a, b), f"{name} of {matrix} differ"
"""


def shapes(gigabytes: float) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a model of at least this size."""
    keys = HIDDEN // HEADS * KEY_HEADS
    layer = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (keys, HIDDEN),
        "self_attn.v_proj": (keys, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (UNITS, HIDDEN),
        "mlp.up_proj": (UNITS, HIDDEN),
        "mlp.down_proj": (HIDDEN, UNITS),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    words = (VOCABULARY, HIDDEN)
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": words}
    number = 0
    while 2 * sum(map(math.prod, found.values())) < gigabytes * 1e9:
        found |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
        number += 1
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": words}


def write_checkpoint(folder: Path, gigabytes: float) -> int:
    """Write a sparse sharded checkpoint; return its size in bytes."""
    folder.mkdir()
    tensors = shapes(gigabytes)
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if ".layers." in name)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in tensors.items():
        if size + 2 * math.prod(shape) > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += 2 * math.prod(shape)
    total, where = 0, {}
    for number, shard in enumerate(shards, 1):
        file = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header, offset = {}, 0
        for name, shape in shard.items():
            stop = offset + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, stop]}
            where[name], offset = file.name, stop
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + offset)
        total += file.stat().st_size
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def on_disk(folder: Path) -> int:
    """Bytes that a folder's files take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def measure(options: argparse.Namespace, work: Path, report: Report) -> None:
    model, patch, patched = work / "model", work / "patch.safetensors", work / "patched"
    size = write_checkpoint(model, options.gigabytes)
    shards = len(list(model.glob("*.safetensors")))
    subprocess.run(
        [sys.executable, "-c", MAKE_PATCH, str(model), str(patch), str(WEIGHTS_EACH)], check=True
    )
    program = str(Path(sys.executable).with_name("neuropatch"))
    found, restored = work / "diff.safetensors", work / "restored"
    commands = {
        "apply": ["apply", model, patch, "-o", patched],
        "diff": ["diff", model, patched, "-o", found],
        "revert": ["revert", patched, patch, "-o", restored],
    }
    rows = []
    for name, command in commands.items():
        start = time.perf_counter()
        process = subprocess.Popen(
            [program, *map(str, command), "--quiet"], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{name} failed")
        seconds = time.perf_counter() - start
        busy, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
        report.results[name] = {"seconds": seconds, "cpu_s": busy, "peak_mb": peak}
        report.ratios.append(Ratio(7, f"peak memory of {name}, MB", 120, peak, True))
        rows.append((name, f"{seconds:.2f}", f"{busy:.2f}", f"{peak:.0f}"))
    subprocess.run([sys.executable, "-c", SAME_WEIGHTS, str(patch), str(found)], check=True)
    check_restored(model, restored)
    report.settings = {
        "model": f"{size / 1e9:.1f} GB in {shards} shards",
        "on the disk": f"{on_disk(model) / 1e6:.1f} MB, patched {on_disk(patched) / 1e6:.1f} MB",
        "patch": f"{patch.stat().st_size} bytes",
    }
    report.tables.append(("Whole processes", ("command", "seconds", "CPU s", "peak MB"), rows))


def check_restored(model: Path, restored: Path) -> None:
    """End the script if a file is not as it was; holes are equal where both have them."""
    for path in sorted(model.iterdir()):
        other = restored / path.name
        if path.stat().st_size != other.stat().st_size:
            sys.exit(f"{other} has another size than {path}")
        with path.open("rb") as left, other.open("rb") as right:
            for start, stop in sorted({*_data(path), *_data(other)}):
                for file in (left, right):
                    file.seek(start)
                if left.read(stop - start) != right.read(stop - start):
                    sys.exit(f"{other} differs from {path}")


def _data(path: Path) -> Iterator[tuple[int, int]]:
    """Where a file has data, in pieces of at most 64 MiB."""
    with path.open("rb") as file:
        size, stop = path.stat().st_size, 0
        while stop < size:
            try:
                start = os.lseek(file.fileno(), stop, os.SEEK_DATA)
            except OSError:  # a hole up to the end
                return
            stop = min(os.lseek(file.fileno(), start, os.SEEK_HOLE), start + (64 << 20))
            yield start, stop


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--gigabytes", type=float, default=42, help="size of the checkpoint (42)")
    parser.add_argument("--work", type=Path, help="folder on the disk to write to")
    options = parse(parser)
    machine = environment()
    report = Report("A checkpoint larger than memory")
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        measure(options, Path(name), report)
    finish(report, options, machine)


if __name__ == "__main__":
    main()
