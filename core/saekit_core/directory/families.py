"""How the directory is packed: SAEs whose facts differ in numbers alone are one family.

A family is the facts of its SAEs with ``{0}``, ``{1}``, … for the numbers that differ, and for each
of these a column with a value per SAE, in which ``7*3`` stands for ``7 7 7``::

    {"id": "blocks.{0}.hook_resid_pre", "path": "layer_{0}", "l0": "{1}",
     "columns": ["0 1 2", "30*2 41"]}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

Facts = Mapping[str, str]
"""The facts of one SAE by name, all as text; numbers as Python writes them."""
Family = Mapping[str, Any]

_NUMBER: Final = re.compile(r"(?:^-)?\d+(?:\.\d+)?(?:e-?\d+)?")
_COLUMNS: Final = "columns"


def pack(saes: Iterable[Facts]) -> list[dict[str, Any]]:
    """Families that hold the given facts, in an order of their own.

    Args:
        saes: no two of them the same.

    Raises:
        ValueError: a fact holds a brace, which the packed form has a meaning for.
    """
    alike: dict[tuple[tuple[str, str], ...], list[list[str]]] = {}
    for facts in saes:
        for name, text in facts.items():
            if "{" in text or "}" in text or name == _COLUMNS:
                raise ValueError(f"{name}: {text!r} cannot be packed")
        shape = tuple((name, _NUMBER.sub("{}", text)) for name, text in sorted(facts.items()))
        numbers = [n for _, text in sorted(facts.items()) for n in _NUMBER.findall(text)]
        alike.setdefault(shape, []).append(numbers)
    return [_family(shape, rows) for shape, rows in sorted(alike.items())]


def unpack(family: Family) -> dict[str, list[str]]:
    """The facts of a family's SAEs by name, each with a value per SAE."""
    columns = [_spread(column) for column in family.get(_COLUMNS, ())]
    count = len(columns[0]) if columns else 1
    return {
        # Whole columns at a time: a search spreads out thousands of SAEs.
        name: list(map(text.format, *columns)) if "{" in text else [text] * count
        for name, text in family.items()
        if name != _COLUMNS
    }


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Sorts text as people do: layer_2 before layer_10."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(p)) if i % 2 else (1, p) for i, p in enumerate(parts)]


def _family(shape: Sequence[tuple[str, str]], rows: list[list[str]]) -> dict[str, Any]:
    rows.sort(key=lambda row: [natural_key(number) for number in row])
    columns: list[tuple[str, ...]] = []
    fillers: list[str] = []
    for column in zip(*rows, strict=True):
        if len(set(column)) == 1:
            fillers.append(column[0])
            continue
        if column not in columns:
            columns.append(column)
        fillers.append(f"{{{columns.index(column)}}}")
    following = iter(fillers)
    family: dict[str, Any] = {
        name: re.sub(r"\{\}", lambda _: next(following), template) for name, template in shape
    }
    if columns:
        family[_COLUMNS] = [_gather(column) for column in columns]
    return family


def _gather(column: Sequence[str]) -> str:
    runs = ((value, len(list(run))) for value, run in groupby(column))
    return " ".join(value if count == 1 else f"{value}*{count}" for value, count in runs)


def _spread(column: str) -> list[str]:
    values: list[str] = []
    for token in column.split(" "):
        value, _, count = token.partition("*")
        values += [value] * int(count or 1)
    return values
