"""The one way commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from neuropatch.progress import Progress


@dataclass(frozen=True)
class Output:
    """How one command prints.

    Attributes:
        json: One JSON document on stdout instead of text.
        quiet: No notes, no progress; on stdout only the result itself.
    """

    json: bool = False
    quiet: bool = False

    def note(self, sentence: str) -> None:
        """Tell the user something on stderr that is no result."""
        if not self.quiet:
            print(sentence, file=sys.stderr)

    def warn(self, sentence: str) -> None:
        """Tell the user something on stderr that must not be missed, even when quiet."""
        print(f"warning: {sentence}", file=sys.stderr)

    def result(
        self, document: Mapping[str, Any], text: Callable[[], None], *, essence: str | None = None
    ) -> None:
        """Print a command's result.

        Args:
            document: The result for ``--json``.
            text: Prints it for people.
            essence: The one line that ``--quiet`` prints, such as the path that was written;
                None for a command whose text is its result.
        """
        if self.json:
            json.dump(document, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
            print()
        elif self.quiet and essence is not None:
            print(essence)
        else:
            text()

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Progress bars on stderr, one a task; silent when quiet or not on a terminal."""
        from neuropatch.progress import Silent

        if self.quiet or not sys.stderr.isatty():
            yield Silent()
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


class _Bars:
    """Progress that draws bars with rich."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._task: Any = None

    def start(self, label: str, total: int) -> None:
        self._task = self._display.add_task(label, total=total)

    def advance(self, steps: int = 1) -> None:
        self._display.advance(self._task, steps)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table on stdout; the first column is text, the others are numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table: Table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left")
    for row in rows:
        # Text, not markup: a name in a patch must not be able to style or hide anything.
        table.add_row(*(Text(cell) for cell in row))
    # Files and pipes have no width of their own: never cut a number there.
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False).print(table)


def print_lines(lines: Sequence[str]) -> None:
    """Print lines on stdout."""
    for line in lines:
        print(line)
