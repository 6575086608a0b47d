"""SIGINT and SIGTERM while a run goes: between steps where that is possible."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

from saekit_trainer.errors import TrainingInterrupted

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Takes both signals while its block runs, if that is in the main thread.

    A signal raises `TrainingInterrupted` at once, but is only noted inside `deferred`, until a
    second SIGINT. A signal that the process ignores stays ignored.

    Attributes:
        requested: the signal that was noted; None without.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._deferring = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for which in _SIGNALS:
                if signal.getsignal(which) is not signal.SIG_IGN:
                    self._before[which] = signal.signal(which, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for which, handler in self._before.items():
            # None: a handler that was not installed from Python, which cannot be had back.
            signal.signal(which, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note signals within the block, which looks at `requested` now and then."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        again = self.requested is not None and number == signal.SIGINT
        self.requested = self.requested or signal.Signals(number)
        if again or not self._deferring:
            raise TrainingInterrupted(signal.Signals(number))
