"""A progress bar for long batches."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from typing import TypeVar

from saekit_client.batch import StreamItem

R = TypeVar("R")
# Below this many inputs a bar is noise, and is shown only when asked for.
_WORTH_A_BAR = 50


def wants_progress(progress: bool | None, inputs: object) -> bool:
    """Whether to show a bar; None decides by the terminal and by the number of inputs."""
    if progress is not None:
        return progress
    many = not isinstance(inputs, Sized) or len(inputs) >= _WORTH_A_BAR
    return many and sys.stderr.isatty()


class Progress:
    """A bar on stderr: items done, failed, per second, time left. Nothing if not `shown`."""

    def __init__(self, what: str, inputs: object, shown: bool) -> None:
        self._what = what
        self._total = len(inputs) if isinstance(inputs, Sized) else None
        self._shown = shown
        self._failed = 0

    def __enter__(self) -> Progress:
        if self._shown:
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[note]}"),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self._what, total=self._total, note="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._bar.stop()

    def count(self, item: StreamItem[R]) -> StreamItem[R]:
        """One more item is done."""
        self._failed += item.error is not None
        if self._shown:
            task = self._bar.tasks[self._task]
            note = f"{task.speed:,.0f}/s" if task.speed else ""
            if self._failed:
                note += f" {self._failed} failed"
            self._bar.update(self._task, advance=1, note=note)
        return item


def with_progress(
    items: Iterable[StreamItem[R]], what: str, inputs: object, progress: bool | None
) -> Iterator[StreamItem[R]]:
    """The items, counted by a bar while they pass."""
    with Progress(what, inputs, wants_progress(progress, inputs)) as bar:
        for item in items:
            yield bar.count(item)


async def with_progress_async(
    items: AsyncIterable[StreamItem[R]], what: str, inputs: object, progress: bool | None
) -> AsyncIterator[StreamItem[R]]:
    """The items, counted by a bar while they pass."""
    with Progress(what, inputs, wants_progress(progress, inputs)) as bar:
        async for item in items:
            yield bar.count(item)
