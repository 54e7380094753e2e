"""SIGTERM and SIGINT as a flag that is read between steps, and in set-up between its parts, so that a run can save and leave cleanly."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

SIGNALS = (signal.SIGTERM, signal.SIGINT)
Item = TypeVar("Item")


class Stopped(Exception):
    """A stop was asked for before the first step, when a run has nothing to save. Caches keep what they hold on its way out."""


def heeding(items: Iterable[Item], check: Callable[[], None]) -> Iterator[Item]:
    """The items, with a call of `check`, which may raise `Stopped`, before each."""
    for item in items:
        check()
        yield item


class StopRequest:
    """Inside `with StopRequest() as stop:` the first signal sets `stop.requested`; a second one ends the process at once.

    On leaving, the previous handlers are back. Outside the main thread Python cannot handle signals; then nothing is installed.
    With several processes each sees its own signals: the caller lets them agree before it acts.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """True once a signal came, or `request` was called."""
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """128 + signal number, as shells report it; 0 if nothing was requested."""
        return 128 + self.signal if self.signal is not None else 0

    def request(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Asks to stop without a signal, for example because another process received one."""
        self.signal = self.signal or number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os.write(2, b"\nSecond signal: leaving without saving.\n")
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        os.write(2, b"\nStopping as soon as what is under way is done, and saving; a second signal leaves at once.\n")

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}
