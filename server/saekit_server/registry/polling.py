"""A thread that looks again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Poller:
    """Calls `poll` every `interval_s` seconds on a thread of its own, until stopped."""

    def __init__(self, poll: Callable[[], object], interval_s: float, *, name: str) -> None:
        self._poll = poll
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first poll is one interval away."""
        self._thread.start()

    def stop(self) -> None:
        """End, after a poll that is under way."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._poll()
            except Exception:  # a look that fails must not be the last
                _log.exception("%s failed; it goes on", self._thread.name)
