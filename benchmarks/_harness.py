"""What the benchmark scripts share: the machine, turns, medians, peaks of memory, tables and JSON.

A script defines its ways, times them with :func:`take_turns`, and hands a :class:`Report` to
:func:`finish`. Nothing here imports torch unless a script asks for threads, so that the scripts
that time whole processes stay small themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from neuropatch.provenance import library_versions

ROUNDS = 5
"""Fewest timed rounds of a number that is published."""


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one way, round by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The shortest and the longest round."""
        return min(self.seconds), max(self.seconds)

    def over(self, other: Timing) -> float:
        """How many times as long this way takes as another one of the same rounds.

        The median of the quotients round by round: both ways of a round meet the same clock and
        the same neighbours, which the quotient of two medians would mix.
        """
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(mine / its for mine, its in pairs)

    def cell(self, scale: float = 1e3, digits: int = 1) -> str:
        """``median (shortest to longest)``, in milliseconds unless scaled otherwise."""
        values = [f"{scale * value:.{digits}f}" for value in (self.median, *self.spread)]
        return f"{values[0]} ({values[1]} to {values[2]})"

    def to_json(self) -> dict[str, Any]:
        low, high = self.spread
        return {"median_s": self.median, "min_s": low, "max_s": high, "rounds_s": self.seconds}


@dataclass(frozen=True)
class Ratio:
    """A ratio to reach, and what was measured.

    Attributes:
        number: Number of the ratio in the list of targets.
        what: What is compared.
        target: The bound.
        measured: What came out.
        at_most: Whether the bound is an upper one.
    """

    number: int
    what: str
    target: float
    measured: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        if self.at_most:
            return self.measured <= self.target
        return self.measured >= self.target

    def to_json(self) -> dict[str, Any]:
        bound = "at most" if self.at_most else "at least"
        return {
            "ratio": self.number,
            "what": self.what,
            "bound": bound,
            "target": self.target,
            "measured": self.measured,
            "reached": self.reached,
        }


@dataclass
class Report:
    """What a script found.

    Attributes:
        title: What was measured, one line.
        settings: What the numbers depend on besides the machine.
        tables: Headline, column names and rows of each table.
        results: Everything measured, in types that JSON knows.
        ratios: The ratios that this script answers for.
    """

    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[Any]]]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every script, described by the first line of its docstring."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed rounds, at least 5")
    parser.add_argument("--quick", action="store_true", help="less of everything: a try, no result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; sets the threads of torch if that was asked for."""
    options = parser.parse_args()
    if options.quick:
        options.rounds = min(options.rounds, 2)
    elif options.rounds < ROUNDS:
        parser.error(f"--rounds must be at least {ROUNDS}; --quick takes fewer")
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    return options


def take_turns(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, Timing]:
    """Time all ways in turns (A B C A B C ...), so that a change of clock or load meets all.

    Args:
        ways: What to time, by name.
        rounds: Timed rounds.
        warm_up: Rounds before them that count for nothing.
        before: Called with a way's name before each of its turns, outside the clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm_up + rounds):
        for name, way in ways.items():
            before(name)
            start = time.perf_counter()
            way()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def peak_memory() -> int:
    """Most bytes of main memory that this process has held since it started (or was reset)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory() -> None:
    """Forget the peak so far, where the system allows it."""
    with contextlib.suppress(PermissionError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


@dataclass
class MemoryGrowth:
    """Bytes held when a block began, and the most that was held in it beyond them."""

    before: int
    growth: int = 0


@contextlib.contextmanager
def memory_growth() -> Iterator[MemoryGrowth]:
    """Measure how far memory rises in a block.

    For a process of its own (:func:`in_child`): memory that earlier work has freed and the
    allocator kept would be taken again unseen.
    """
    from neuropatch.attribution.memory import resident_memory

    reset_peak_memory()
    found = MemoryGrowth(resident_memory())
    yield found
    found.growth = peak_memory() - found.before


_CHILD = """
import json, runpy, sys
from pathlib import Path
script, function, arguments, output = sys.argv[1:]
sys.path.insert(0, str(Path(script).parent))
found = runpy.run_path(script)[function](**json.loads(arguments))
Path(output).write_text(json.dumps(found))
"""


def in_child(script: str | Path, function: str, **arguments: Any) -> Any:
    """Call a function of a script in a process of its own.

    Args:
        script: The script, usually ``__file__``; its ``__name__`` is not ``__main__`` there.
        function: Name of the function.
        arguments: What it is called with, in types that JSON knows.

    Returns:
        What it returns, likewise.
    """
    import tempfile

    with tempfile.NamedTemporaryFile("r", suffix=".json") as output:
        names = [str(Path(script).resolve()), function, json.dumps(arguments), output.name]
        subprocess.run([sys.executable, "-c", _CHILD, *names], check=True)
        return json.load(output)


def environment() -> dict[str, Any]:
    """The machine and the versions that the numbers depend on."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    torch = sys.modules.get("torch")
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads() if torch else None,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "versions": library_versions(),
    }


def _commit() -> str | None:
    """The commit of the checkout that the scripts lie in, None outside of one."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=10"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A Markdown table with aligned columns: readable as it is, and ready to be pasted."""
    cells = [[_cell(value) for value in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    cells.insert(1, ["-" * width for width in widths])
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("| " + " | ".join(padded) + " |")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


RATIO_COLUMNS = ("ratio", "what", "target", "measured", "reached")


def ratio_row(ratio: Mapping[str, Any]) -> tuple[Any, ...]:
    """The row of one ratio, as it stands in a JSON file: target, measured, reached or not."""
    sign = "<=" if ratio["bound"] == "at most" else ">="
    return (
        ratio["ratio"],
        ratio["what"],
        f"{sign} {ratio['target']:g}",
        f"{ratio['measured']:.3g}",
        "yes" if ratio["reached"] else "no",
    )


def print_environment(found: Mapping[str, Any]) -> None:
    """One line for the machine and one for the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    print(
        f"{found['cpu']}, {found['cores']} cores, {found['memory_gb']:g} GB, {found['system']}; "
        f"{found['threads'] or 'no'} threads of torch, load {found['load']}, {found['date']}, "
        f"commit {found['commit']}"
    )
    print(versions)


def finish(report: Report, options: argparse.Namespace, machine: Mapping[str, Any]) -> None:
    """Print a report, and write it where ``--json`` says.

    Args:
        report: What was found.
        options: The parsed command line.
        machine: :func:`environment`, taken before the first measurement: the load that it names
            is that of others, not of the benchmark.
    """
    if options.quick:
        print("--quick: too few rounds and samples for a result\n")
    print_environment(machine)
    print(f"\n{report.title}")
    for name, value in report.settings.items():
        print(f"{name}: {value}")
    for headline, columns, rows in report.tables:
        print(f"\n{headline}")
        print_table(columns, rows)
    if report.ratios:
        print()
        print_table(RATIO_COLUMNS, [ratio_row(ratio.to_json()) for ratio in report.ratios])
    if options.json is not None:
        document = {
            "title": report.title,
            "environment": machine,
            "quick": options.quick,
            "settings": report.settings,
            "results": report.results,
            "ratios": [ratio.to_json() for ratio in report.ratios],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
