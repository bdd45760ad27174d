"""The one way commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from neuropatch.progress import Progress


LOG_SECONDS = 30.0
"""Between two lines of progress where there is no terminal."""

_SILENT_LIBRARIES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True)
class Output:
    """How one command prints.

    Attributes:
        json: One JSON document on stdout instead of text.
        quiet: No notes, no progress; on stdout only the result itself.
    """

    json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.quiet:
            # The libraries read these when they are first imported, which commands do later.
            os.environ.update(_SILENT_LIBRARIES)
            warnings.simplefilter("ignore")

    def note(self, sentence: str) -> None:
        """Tell the user something on stderr that is no result."""
        if not self.quiet:
            print(plain(sentence), file=sys.stderr)

    def warn(self, sentence: str) -> None:
        """Tell the user something on stderr that must not be missed, even when quiet."""
        print(plain(f"warning: {sentence}"), file=sys.stderr)

    def result(
        self,
        document: Mapping[str, Any],
        text: Callable[[], None],
        *,
        essence: str | Sequence[str] | None = None,
    ) -> None:
        """Print a command's result.

        Args:
            document: The result for ``--json``.
            text: Prints it for people.
            essence: The line, or lines, that ``--quiet`` prints, such as the path that was
                written; None for a command whose text is its result.
        """
        if self.json:
            print(_json_text(document))
        elif self.quiet and essence is not None:
            print_lines([essence] if isinstance(essence, str) else essence)
        else:
            text()

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Progress on stderr: bars on a terminal, a line now and then elsewhere, none if quiet."""
        from neuropatch.progress import Silent

        if self.quiet:
            yield Silent()
            return
        if not sys.stderr.isatty():
            yield _Lines()
            return
        from rich import progress as bars
        from rich.console import Console

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=Console(stderr=True)) as display:
            yield _Bars(display)


def plain(text: str) -> str:
    """Text without control characters.

    What a patch or a checkpoint from the Hub says of itself must not move the cursor, style the
    terminal or hide anything.
    """
    # A blank that ties a number to its unit is one, though Python does not call it printable.
    return "".join(c if c.isprintable() or c == "\u00a0" else "\ufffd" for c in text)


def _json_text(document: Mapping[str, Any]) -> str:
    ascii_only = sys.stdout.encoding.lower() not in ("utf-8", "utf8")
    text = json.dumps(document, indent=2, ensure_ascii=ascii_only, allow_nan=False)
    # A file name that is not UTF-8 holds lone surrogates; escaped, they are JSON.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class _Bars:
    """Progress that draws bars with rich."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._task: Any = None
        self._label = ""

    def start(self, label: str, total: int) -> None:
        self._label = label
        self._task = self._display.add_task(label, total=total)

    def advance(self, steps: int = 1) -> None:
        self._display.advance(self._task, steps)

    def tell(self, standing: str) -> None:
        self._display.update(self._task, description=f"{self._label}: {standing}")


class _Lines:
    """Progress for logs: a line when a task first starts, and one every half minute."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._label = self._standing = ""
        self._total = self._done = 0
        self._said = 0.0

    def start(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._standing = ""
        # A method that goes over its data again and again need not say so each time.
        if label not in self._known:
            self._known.add(label)
            self._say(f"{label}: 0 of {total}")

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        if time.monotonic() - self._said >= LOG_SECONDS:
            self._say(f"{self._label}: {self._done} of {self._total}{self._standing}")

    def tell(self, standing: str) -> None:
        self._standing = f", {standing}"

    def _say(self, sentence: str) -> None:
        self._said = time.monotonic()
        print(sentence, file=sys.stderr, flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table on stdout; the first column is text, the others are numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table: Table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for position, column in enumerate(columns):
        # Text, not markup: a name in a patch must not be able to style or hide anything.
        table.add_column(Text(column), justify="right" if position else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # Files and pipes have no width of their own: never cut a number there.
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False).print(table)


def print_lines(lines: Sequence[str]) -> None:
    """Print lines on stdout."""
    for line in lines:
        print(plain(line))
