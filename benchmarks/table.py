"""The table of docs/performance.md, made of the results that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import RESULTS

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN: Final = "<!-- measured: begin -->"
FULL: Final = 5
"""Turns of a measurement, where the table does not say another number."""
END: Final = "<!-- measured: end -->"


def write_table() -> None:
    """Puts the results between the two marks of the document."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


def table() -> str:
    """All bars in Markdown, by row."""
    lines = [
        "| row | question | figures (median) | ratio | bar | | when, where |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        lines += _lines(result)
    return "\n".join(lines)


def _lines(result: dict[str, Any]) -> list[str]:
    figures = "; ".join(
        f"{name}: {_figure(outcome['median'])} {result['unit']}"
        for name, outcome in result["outcomes"].items()
    )
    where = f"{result['date']}, {result['device']}"
    if (turns := min(len(outcome["runs"]) for outcome in result["outcomes"].values())) != FULL:
        where += f", {turns} turns"
    row = result["row"].lstrip("0")
    head = [row, result["question"], figures]
    if not result["bars"]:
        return ["| " + " | ".join([*head, "", "", "", where]) + " |"]
    lines = []
    for bar in result["bars"]:
        lines.append(
            "| "
            + " | ".join(
                [
                    *head,
                    f"{bar['name']}: **{_figure(bar['value'])}**",
                    _bound(bar),
                    "✓" if bar["holds"] else "✗",
                    where,
                ]
            )
            + " |"
        )
        head, where = ["", "", ""], ""
    return lines


def _bound(bar: dict[str, Any]) -> str:
    if bar["least"] is not None:
        return f"≥ {bar['least']:g}"
    return "" if bar["most"] is None else f"≤ {bar['most']:g}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
