"""Applying a patch to a checkpoint on disk, against `cp -r` and against transformers.

    python benchmarks/apply_to_files.py MODEL [--patch PATCH] [--runs 5] [--json]

Every way runs as a whole process, in turn, with the model in the page cache and nothing waiting
to be written; times are wall clock, memory is the process's peak. `apply` flushes its output to
the disk before it reports success, which `cp` does not, so `cp` is shown flushed as well. CPU
time is the figure to compare where other work shares the machine.
Targets: at most 1.15x `cp -r` plus 0.5 s, at most 120 MB, at least 20x faster than transformers
(4x for checkpoints of several GB).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from neuropatch.provenance import library_versions

MAKE_PATCH = """
import sys
from pathlib import Path
import numpy as np
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.values import read_values
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
model, path = sys.argv[1:]
checkpoint, rng, edits = Checkpoint.open(model), np.random.default_rng(0), []
for matrix in checkpoint.layout.matrices(("gate", "up", "down")):
    location = checkpoint.locate(matrix)
    rows, columns = location.slot.shape
    flat = np.sort(rng.choice(rows * columns, 80, replace=False)).astype(np.int64)
    pairs = np.divmod(flat, columns)
    offsets = location.slot.offsets(*pairs)
    order = np.argsort(offsets)
    before = np.empty(len(flat), dtype=location.dtype)
    with checkpoint.path(location.shard).open("rb") as file:
        before[order] = read_values(file.fileno(), location.info, location.dtype, offsets[order])
    edits.append(WeightEdit(matrix, "zero", *pairs, before))
NeuronPatch(PatchMetadata(checkpoint.layout.signature), tuple(edits)).save(path)
"""

LIBRARY = """
import sys
from pathlib import Path
from neuropatch.checkpoint.apply import apply_patches
from neuropatch.patch.format import read_patch
model, patch, output = sys.argv[1:]
apply_patches(model, [read_patch(Path(patch))], output)
"""

TRANSFORMERS = """
import sys
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
from neuropatch.patch.format import read_patch
model, patch, output = sys.argv[1:]
loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
read_patch(Path(patch)).apply(loaded)
loaded.save_pretrained(output)
AutoTokenizer.from_pretrained(model).save_pretrained(output)
"""

COMPARE = """
import sys
from neuropatch.checkpoint.diff import diff_checkpoints
from neuropatch.errors import SelectionError
try:
    found = diff_checkpoints(*sys.argv[1:])
except SelectionError:
    sys.exit(0)
sys.exit(f"the ways differ in {len(found.patch)} weights")
"""


WAYS = ("apply", "neuropatch apply", "cp -r", "cp -r, flushed", "transformers")


def commands_of(model: Path, patch: Path, output: Path) -> dict[str, list[str]]:
    """The command of every way."""
    python = [sys.executable, "-c"]
    names = [str(model), str(patch), str(output)]
    # The installed command: `python -m` would find the sources in a checkout's top folder.
    program = str(Path(sys.executable).with_name("neuropatch"))
    command = [program, "apply", *names[:2], "-o", names[2], "--quiet"]
    return {
        "apply": [*python, LIBRARY, *names],
        "neuropatch apply": command,
        "cp -r": ["cp", "-r", str(model), str(output)],
        "cp -r, flushed": ["sh", "-c", 'cp -r "$0" "$1" && sync -f "$1"', str(model), str(output)],
        "transformers": [*python, TRANSFORMERS, *names],
    }


def measure(command: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of CPU and peak MB of a process.

    This process must stay small, since children inherit its peak.
    """
    os.sync()
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[:3]} failed")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def machine(work: Path) -> dict[str, Any]:
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    disk = subprocess.run(
        ["df", "--output=fstype", str(work)], capture_output=True, text=True, check=True
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "file_system": disk.stdout.split()[-1],
        "load": os.getloadavg()[0],
    }


def run(model: Path, patch: Path, work: Path, runs: int, ways: list[str]) -> dict[str, Any]:
    """Time every way `runs` times in turn, after one round that counts for nothing."""
    output, kept = work / "out", work / "kept"
    every = commands_of(model, patch, output)
    commands = {name: every[name] for name in ways}
    times: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    peaks: dict[str, float] = dict.fromkeys(commands, 0.0)
    for number in range(runs + 1):
        for name, command in commands.items():
            seconds, busy, peak = measure(command)
            if number:
                times[name].append(seconds)
                cpu[name].append(busy)
                peaks[name] = max(peaks[name], peak)
            elif name == "transformers" and kept.exists():
                subprocess.run([sys.executable, "-c", COMPARE, str(output), str(kept)], check=True)
            elif name == "apply":
                output.rename(kept)
            shutil.rmtree(output, ignore_errors=True)
    return {
        name: {
            "median_s": statistics.median(seconds),
            "min_s": min(seconds),
            "max_s": max(seconds),
            "cpu_s": statistics.median(cpu[name]),
            "peak_mb": peaks[name],
        }
        for name, seconds in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--patch", type=Path, help="default: 80 weights of every MLP matrix")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder on the disk to write to")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        patch = options.patch or work / "patch.safetensors"
        if options.patch is None:
            subprocess.run(
                [sys.executable, "-c", MAKE_PATCH, str(options.model), str(patch)], check=True
            )
        document = {
            "machine": machine(work),
            "versions": library_versions(),
            "model_bytes": sum(f.stat().st_size for f in options.model.iterdir() if f.is_file()),
            "patch_bytes": patch.stat().st_size,
            "runs": options.runs,
            "ways": run(options.model, patch, work, options.runs, options.ways),
        }
    if options.json:
        print(json.dumps(document, indent=2))
        return
    for key in ("machine", "versions", "model_bytes", "patch_bytes", "runs"):
        print(f"{key}: {document[key]}")
    print(f"\n{'way':18}{'median s':>10}{'min':>8}{'max':>8}{'CPU s':>8}{'peak MB':>10}")
    for way, row in document["ways"].items():
        print(
            f"{way:18}{row['median_s']:10.3f}{row['min_s']:8.3f}{row['max_s']:8.3f}"
            f"{row['cpu_s']:8.3f}{row['peak_mb']:10.0f}"
        )
    if "cp -r" in document["ways"]:
        copy = document["ways"]["cp -r"]["median_s"]
        print(f"\napply may take 1.15x cp -r + 0.5 s = {1.15 * copy + 0.5:.3f} s")


if __name__ == "__main__":
    main()
