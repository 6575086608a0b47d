"""Contenders that take turns, and the medians of what they did."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Outcome:
    """Units per second of one contender: every run, and their median."""

    runs: tuple[float, ...]
    median: float


def alternate(
    contenders: Mapping[str, Callable[[], float]], *, runs: int = 5
) -> dict[str, Outcome]:
    """Runs each contender in turn, so that a machine whose speed drifts is fair to all.

    Args:
        contenders: by name; each does its work once and returns how many units that was.
        runs: counted turns, after one that is not.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(runs + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            units = run()
            if turn:
                rates[name].append(units / (time.perf_counter() - began))
    return {n: Outcome(tuple(r), statistics.median(r)) for n, r in rates.items()}


def report(title: str, unit: str, outcomes: Mapping[str, Outcome], baseline: str) -> None:
    """Prints a table with ratios to the baseline, and keeps the figures in `results/`."""
    table = Table(title=title, title_justify="left")
    table.add_column("contender")
    for column in (f"{unit}/s, median", "slowest", "fastest", f"× {baseline}"):
        table.add_column(column, justify="right")
    base = outcomes[baseline].median
    for name, outcome in outcomes.items():
        figures = (outcome.median, min(outcome.runs), max(outcome.runs))
        table.add_row(name, *(f"{f:,.0f}" for f in figures), f"{outcome.median / base:.2f}")
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    content = {
        "title": title,
        "unit": f"{unit}/s",
        "date": time.strftime("%Y-%m-%d"),
        "device": device or platform.machine(),
        "threads": torch.get_num_threads(),
        "baseline": baseline,
        "outcomes": {name: asdict(outcome) for name, outcome in outcomes.items()},
    }
    name = title.split(":", maxsplit=1)[0].lower().replace(" ", "-")
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
