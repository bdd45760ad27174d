"""Ending early: SIGTERM and SIGHUP clean up as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """The process was asked to end by a signal other than Ctrl-C.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP inside the block into what Ctrl-C does, then :class:`Terminated`.

    Whoever catches or defers Ctrl-C (to save a state, to remove half-written files) then does so
    for these signals as well. A signal that is ignored, as under ``nohup``, stays ignored.

    Raises:
        Terminated: If such a signal came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        on_interrupt = signal.getsignal(signal.SIGINT)
        if callable(on_interrupt):
            on_interrupt(signal.SIGINT, frame)
        else:  # a job in the background of a script ignores Ctrl-C
            raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in _SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    except KeyboardInterrupt:
        if came:
            raise Terminated(came[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
