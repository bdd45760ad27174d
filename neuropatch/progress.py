"""How long-running functions tell their caller how far they are."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One task at a time: started with its number of steps, advanced as they are done."""

    def start(self, label: str, total: int) -> None:
        """Begin a task of ``total`` steps; ends the one before."""

    def advance(self, steps: int = 1) -> None:
        """Count steps of the current task as done."""

    def tell(self, standing: str) -> None:
        """Say where the current task stands, in a few words beside its steps."""


class Silent:
    """Progress that nobody watches."""

    def start(self, label: str, total: int) -> None:
        """Ignore the task."""

    def advance(self, steps: int = 1) -> None:
        """Ignore the steps."""

    def tell(self, standing: str) -> None:
        """Ignore the words."""
