"""The steps of the demo as they happen: headings, claims that hold or not, seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console


class DemoError(Exception):
    """The demo cannot go on."""


@dataclass
class Step:
    """One step: what it found, and which of its claims hold."""

    title: str
    seconds: float = 0.0
    claims: dict[str, bool] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


class Report:
    """Prints steps and remembers them."""

    def __init__(self, console: Console, steps: int) -> None:
        self.console = console
        self.steps: list[Step] = []
        self._expected = steps
        self._began = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A heading; what happens inside is timed."""
        step = Step(title)
        self.steps.append(step)
        self.console.rule(f"[bold]{len(self.steps)}/{self._expected}  {title}", align="left")
        began = time.monotonic()
        try:
            yield step
        finally:
            step.seconds = round(time.monotonic() - began, 2)
        self.console.print(f"[dim]{step.seconds:.1f} s[/dim]\n")

    def check(self, claim: str, holds: bool) -> None:
        """Shows and records whether a claim of the current step holds."""
        self.steps[-1].claims[claim] = bool(holds)
        mark = "[green]✓[/green]" if holds else "[bold red]✗[/bold red]"
        self.console.print(f"{mark} {claim}", highlight=False)

    @property
    def passed(self) -> bool:
        """Whether every step was made and all its claims hold."""
        done = len(self.steps) == self._expected
        return done and all(s.claims and all(s.claims.values()) for s in self.steps)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return round(time.monotonic() - self._began, 1)
