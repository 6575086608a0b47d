"""What commands print."""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from saekit.codec import CSR

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def jsonable(value: Any) -> Any:
    """Results as what json can write: arrays become lists, CSR its arrays, dataclasses objects."""
    if isinstance(value, CSR):
        return {
            "shape": list(value.shape),
            "indptr": value.indptr.tolist(),
            "indices": value.indices.tolist(),
            "values": value.data.tolist(),
        }
    if dataclasses.is_dataclass(value):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """One JSON document on one line."""
    sys.stdout.write(json.dumps(jsonable(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_error(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"saekit: {' '.join(message.split())}\n")


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> "Table":
    """A table with headings; those named in `right` hold numbers."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left")
    return made


def console() -> "Console":
    """Where people read. A pipe or a file has no width to keep to."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)


def show(*renderables: Any) -> None:
    """Prints for people."""
    out = console()
    for renderable in renderables:
        out.print(renderable)


def link(text: str, url: str) -> "Text":
    """Text that leads to `url` where a terminal can do that; plain without one."""
    from rich.style import Style
    from rich.text import Text

    return Text(text, style=Style(link=url or None), overflow="fold")


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"
