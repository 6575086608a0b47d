"""Brings parked SAEs back, one after the other, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from saekit_server.errors import unavailable
from saekit_server.registry.loaded import LoadedSAE, ParkedSAE


class Restorer:
    """One attempt at a time for each revision, however many ask for it."""

    def __init__(self, bring_back: Callable[[ParkedSAE], LoadedSAE]) -> None:
        self._bring_back = bring_back
        self._lock = threading.Lock()
        self._attempts: dict[str, Future[LoadedSAE]] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sae-restore")
        self._closed = False

    def begin(self, parked: ParkedSAE) -> Future[LoadedSAE]:
        """The attempt that is under way, or a new one."""
        with self._lock:
            attempt = self._attempts.get(parked.info.name)
            return attempt if attempt and not attempt.done() else self._start(parked)

    def outcome(self, parked: ParkedSAE) -> LoadedSAE | None:
        """What the last attempt came to; None while one is under way, which this begins.

        Raises:
            DomainError: the last attempt failed. The next call makes another.
        """
        with self._lock:
            attempt = self._attempts.get(parked.info.name) or self._start(parked)
            if not attempt.done():
                return None
            del self._attempts[parked.info.name]
        return attempt.result()

    def forget(self, name: str) -> None:
        """Drop what is known of a revision that was loaded in another way."""
        with self._lock:
            attempt = self._attempts.get(name)
            if attempt is not None and attempt.done():
                del self._attempts[name]

    def close(self) -> None:
        """Make no more attempts; one that runs goes on to its end, unwaited for."""
        with self._lock:
            self._closed = True
        self._worker.shutdown(wait=False)

    def _start(self, parked: ParkedSAE) -> Future[LoadedSAE]:
        if self._closed:
            raise _closing()
        attempt: Future[LoadedSAE] = Future()
        # Several may wait for it, so that none of them may cancel it.
        attempt.set_running_or_notify_cancel()
        self._attempts[parked.info.name] = attempt
        self._worker.submit(self._run, parked, attempt)
        return attempt

    def _run(self, parked: ParkedSAE, attempt: Future[LoadedSAE]) -> None:
        try:
            if self._closed:
                raise _closing()
            attempt.set_result(self._bring_back(parked))
        except BaseException as error:  # whoever waits must hear of it
            attempt.set_exception(error)


def _closing() -> Exception:
    return unavailable("the server is shutting down", retry_after_s=1.0)
