"""A run as it goes, for people: a progress bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from saekit_trainer.results import RunStatus

SECONDS_BETWEEN_LINES = 5.0


class TrainingDisplay:
    """Shows each `RunStatus` it is called with; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._next_line = 0.0
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]training[/bold]"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%  {task.fields[figures]}"),
                console=console,
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("training", figures="", total=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, status: RunStatus) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=status.metrics.step,
                total=status.total_steps,
                figures=figures(status),
            )
        elif status.seconds >= self._next_line or status.metrics.step >= status.total_steps:
            self._next_line = status.seconds + SECONDS_BETWEEN_LINES
            step = f"step {status.metrics.step}/{status.total_steps}"
            self._console.print(f"{step}  {figures(status)}", highlight=False, soft_wrap=True)


def figures(status: RunStatus) -> str:
    """Everything that a person watches, in one line."""
    metrics = status.metrics
    return (
        f"{status.tokens_per_second / 1000:.1f}k tok/s  "
        f"{status.seconds_left:.0f} s left  "
        f"L0 {metrics.l0:.1f}  EV {metrics.explained_variance:.3f}  "
        f"loss {metrics.loss:.3g}  dead {metrics.dead_features}"
    )
