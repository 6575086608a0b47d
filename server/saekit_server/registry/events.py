"""Changes of the registry, told to whoever watches, without waiting for anyone."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Final

from saekit_server.errors import DomainError, unavailable
from saekit_server.registry.loaded import SAEInfo

_log = logging.getLogger(__name__)

MAX_WAITING: Final = 1024
"""Changes that may wait for a subscriber, beside what was loaded when it began."""


class EventKind(Enum):
    """What happened; names as on the wire."""

    PRESENT = "present"
    SYNCED = "synced"
    LOADED = "loaded"
    REPLACED = "replaced"
    UNLOADED = "unloaded"
    FAILED = "failed"


@dataclass(frozen=True, eq=False)
class RegistryEvent:
    """One change."""

    kind: EventKind
    sae_id: str = ""
    """Empty for SYNCED."""
    source: str = ""
    info: SAEInfo | None = None
    """None for SYNCED and FAILED."""
    error: DomainError | None = None
    """Why, for FAILED."""

    @classmethod
    def of(cls, kind: EventKind, info: SAEInfo) -> RegistryEvent:
        return cls(kind, info.sae_id, info.source, info)


class Subscription:
    """The events for one watcher, in order. Close it when done; it is a context manager.

    `notify` is called from the thread of the change, once for each time that `drain` would find
    something new; it must return at once (``loop.call_soon_threadsafe(event.set)``). If it raises,
    the subscription ends.
    """

    def __init__(
        self,
        prefix: str,
        present: Iterable[RegistryEvent],
        notify: Callable[[], None] | None,
        on_close: Callable[[Subscription], None],
    ) -> None:
        self._prefix = prefix
        self._notify = notify
        self._on_close = on_close
        self._changed = threading.Condition()
        self._waiting: deque[RegistryEvent] = deque(present)
        self._limit = len(self._waiting) + MAX_WAITING
        self._fell_behind = False
        self._closed = False

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def drain(self) -> list[RegistryEvent]:
        """Every event that waits; empty if none does.

        Raises:
            DomainError: UNAVAILABLE, if so many waited that some were dropped. Watch anew.
        """
        with self._changed:
            if self._fell_behind:
                raise unavailable("the watcher fell behind; watch again", retry_after_s=0.1)
            events = list(self._waiting)
            self._waiting.clear()
            return events

    def wait(self, timeout_s: float | None = None) -> list[RegistryEvent]:
        """As `drain`, after waiting until there is an event or the subscription is closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._fell_behind or self._closed, timeout_s
            )
        return self.drain()

    def close(self) -> None:
        """End it; nothing is kept for it any longer."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._on_close(self)

    def push(self, event: RegistryEvent) -> bool:
        """Take an event in; False if the subscription is of no more use."""
        if not event.sae_id.startswith(self._prefix):
            return True
        with self._changed:
            if self._closed:
                return False
            if len(self._waiting) >= self._limit:
                self._fell_behind = True
                self._waiting.clear()
            else:
                self._waiting.append(event)
            self._changed.notify_all()
            alive = not self._fell_behind
        try:
            if self._notify is not None:
                self._notify()
        except Exception as error:  # whatever it is, it must not fail the change itself
            _log.warning("a registry watcher could not be notified: %s", error)
            return False
        return alive


class EventHub:
    """Hands every event to every subscription."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: tuple[Subscription, ...] = ()

    def subscribe(
        self, prefix: str, present: Iterable[SAEInfo], notify: Callable[[], None] | None
    ) -> Subscription:
        """A subscription that begins with what is loaded now."""
        events = [
            RegistryEvent.of(EventKind.PRESENT, info)
            for info in present
            if info.sae_id.startswith(prefix)
        ]
        events.append(RegistryEvent(EventKind.SYNCED))
        subscription = Subscription(prefix, events, notify, self._remove)
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def publish(self, event: RegistryEvent) -> None:
        """Hand an event to every subscription that is alive."""
        for subscription in self._subscriptions:
            if not subscription.push(event):
                self._remove(subscription)

    def close(self) -> None:
        """End every subscription."""
        for subscription in self._subscriptions:
            subscription.close()

    @property
    def n_subscriptions(self) -> int:
        return len(self._subscriptions)

    def _remove(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)
