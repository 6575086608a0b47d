"""An iterator that works in a thread of its own, ahead of who reads it."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Shelf(Generic[T]):
    """What the thread and the reader share, under one condition."""

    items: deque[T] = field(default_factory=deque)
    error: BaseException | None = None
    ended: bool = False
    closed: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)


class ReadAhead(Iterator[T], Generic[T]):
    """Makes items in a thread, at most `depth` of them ahead.

    An error of the maker is raised where its item would have been. The thread ends with `close`,
    or when this object is no longer used: what it makes must not hold on to this object.
    """

    def __init__(self, make: Callable[[], T], depth: int) -> None:
        """
        Args:
            make: gives the next item; StopIteration ends.
            depth: items to make ahead, at least 1.
        """
        self._shelf: _Shelf[T] = _Shelf()
        self._thread = threading.Thread(
            target=_fill, args=(self._shelf, make, depth), name="read-ahead", daemon=True
        )
        # Also before the interpreter ends: a thread in the middle of native code may crash it.
        self._end = weakref.finalize(self, _close, self._shelf, self._thread)
        self._thread.start()

    def __next__(self) -> T:
        shelf = self._shelf
        with shelf.changed:
            shelf.changed.wait_for(lambda: shelf.items or shelf.ended)
            if shelf.items:
                item = shelf.items.popleft()
                shelf.changed.notify_all()
                return item
            if shelf.error is not None:
                raise shelf.error
            raise StopIteration

    def close(self) -> None:
        """Throw away what is made, and wait until the thread has ended."""
        self._end()


def _fill(shelf: _Shelf[T], make: Callable[[], T], depth: int) -> None:
    error: BaseException | None = None
    try:
        while True:
            with shelf.changed:
                shelf.changed.wait_for(lambda: shelf.closed or len(shelf.items) < depth)
                if shelf.closed:
                    return
            item = make()
            with shelf.changed:
                shelf.items.append(item)
                shelf.changed.notify_all()
            del item
    except StopIteration:
        pass
    except BaseException as caught:  # of whatever kind: it belongs to the reader
        error = caught
    finally:
        with shelf.changed:
            shelf.error, shelf.ended = error, True
            shelf.changed.notify_all()


def _close(shelf: _Shelf[T], thread: threading.Thread) -> None:
    with shelf.changed:
        shelf.closed = True
        shelf.items.clear()
        shelf.changed.notify_all()
    if thread is not threading.current_thread():
        thread.join()
    shelf.items.clear()
