"""Contenders that take turns, bars that their figures are held against, and files of results."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """How a question is to be measured."""

    device: str = "cpu"
    runs: int = 5
    """Turns that count."""
    peer: Path | None = None
    """A Python that has sae-lens."""


@dataclass(frozen=True)
class Outcome:
    """What one contender did: every counted run, and their median."""

    runs: tuple[float, ...]
    median: float

    @classmethod
    def of(cls, runs: Sequence[float]) -> Outcome:
        return cls(tuple(runs), statistics.median(runs))


@dataclass(frozen=True)
class Bar:
    """A figure that a question asks for, and how far it has to go."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        # Written so that NaN fails.
        return (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )

    @property
    def bound(self) -> str:
        if self.least is not None:
            return f"≥ {self.least:g}"
        return "" if self.most is None else f"≤ {self.most:g}"


@dataclass(frozen=True)
class Report:
    """The answer to one question."""

    row: str
    """Its number in the table of docs/performance.md."""
    question: str
    unit: str
    outcomes: Mapping[str, Outcome]
    bars: tuple[Bar, ...]
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Series and the like, for pictures."""

    @property
    def falls_short(self) -> list[Bar]:
        return [bar for bar in self.bars if not bar.holds]


def alternate(
    contenders: Mapping[str, Callable[[], float]], *, runs: int = 5, warm_up: int = 1
) -> dict[str, Outcome]:
    """Runs each contender in turn, so that a machine whose speed drifts is fair to all.

    Args:
        contenders: by name; each does its work once and returns how many units that was.
        runs: counted turns, after `warm_up` that are not.

    Returns:
        Units per second.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(runs + warm_up):
        for name, run in contenders.items():
            began = time.perf_counter()
            units = run()
            if turn >= warm_up:
                rates[name].append(units / (time.perf_counter() - began))
    return {name: Outcome.of(figures) for name, figures in rates.items()}


def ratio(outcomes: Mapping[str, Outcome], of: str, to: str) -> float:
    """The median over turns of one contender's figure by another's of the same turn."""
    pairs = zip(outcomes[of].runs, outcomes[to].runs, strict=True)
    return statistics.median(a / b for a, b in pairs)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def show(report: Report) -> None:
    """Prints what was measured, and how it stands to the bars."""
    console = Console()
    table = Table(title=f"{report.row}. {report.question}", title_justify="left")
    for column in ("contender", f"{report.unit}, median", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for name, outcome in report.outcomes.items():
        figures = (outcome.median, min(outcome.runs), max(outcome.runs))
        table.add_row(name, *(f"{figure:,.4g}" for figure in figures))
    console.print(table)
    for bar in report.bars:
        sign = "[green]✓[/green]" if bar.holds else "[red]✗[/red]"
        console.print(f"  {sign} {bar.name}: {bar.value:.3g} {bar.bound}", highlight=False)
    for note in report.notes:
        console.print(f"  {note}", highlight=False)


def save(report: Report, *, device: str = "cpu") -> Path:
    """Keeps a report as JSON in `results/`, with the date and the machine."""
    RESULTS.mkdir(exist_ok=True)
    content = {
        "row": report.row,
        "question": report.question,
        "unit": report.unit,
        "date": time.strftime("%Y-%m-%d"),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "outcomes": {name: asdict(outcome) for name, outcome in report.outcomes.items()},
        "bars": [{**asdict(bar), "holds": bar.holds} for bar in report.bars],
        "notes": list(report.notes),
        "extra": dict(report.extra),
    }
    suffix = "" if device == "cpu" else f"-{device}"
    path = RESULTS / f"{report.row}{suffix}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def device_name(device: str) -> str:
    """The machine in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    with_model = Path("/proc/cpuinfo")
    if with_model.exists():
        names = [
            line.partition(":")[2].strip()
            for line in with_model.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {cores} cores"
