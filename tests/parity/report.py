"""What a comparison found: tables for the terminal and for ``docs/compatibility.md``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

BEGIN: Final = "<!-- parity: written by `make parity`; do not edit below -->"
END: Final = "<!-- parity: end -->"


@dataclass(frozen=True)
class Section:
    """One table, and what in it is wrong."""

    title: str
    text: str
    """What was compared, and when it counts as equal; Markdown."""
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    failures: Sequence[str] = field(default=())
    """Names of the cells that disagree, each with what is wrong."""

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", self.text, "", _line(self.columns)]
        lines += [_line(["---"] * len(self.columns)), *map(_line, self.rows)]
        if self.failures:
            lines += ["", "**Failing:**", *(f"- {failure}" for failure in self.failures)]
        return "\n".join(lines)

    def show(self, console: Console) -> None:
        table = Table(title=self.title, title_justify="left", caption_justify="left")
        for column in self.columns:
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(*(_STYLED.sub("", cell) for cell in row))
        console.print(table)
        for failure in self.failures:
            console.print(f"[red]FAIL[/red] {failure}", highlight=False)


def write(sections: Sequence[Section], heading: str, path: Path) -> None:
    """Put the tables between the markers of a document.

    Raises:
        ValueError: the document has no markers.
    """
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path}: expected the markers {BEGIN!r} and {END!r} once each")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    body = "\n\n".join([heading, *(section.markdown() for section in sections)])
    path.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}")


_STYLED: Final = re.compile(r"[`*]")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
