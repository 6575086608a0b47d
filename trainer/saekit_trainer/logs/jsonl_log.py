"""The figures of a run as lines of JSON."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saekit_trainer.logs.metrics_log import Figures, MetricsLog, flat

Record = dict[str, Any]


class JsonlLog(MetricsLog):
    """One line per step that is recorded, in ascending order, each step once.

    A line is complete or the last one, whenever the run is killed. One that goes on from a
    checkpoint drops what was written of later steps and continues behind it. A line that cannot be
    written (a full disk) is lost with a warning, and the run goes on.
    """

    def __init__(self, path: Path, every: int) -> None:
        super().__init__(every)
        self._path = path
        self._last: Record = {}
        self._last_at = 0
        """Where the line of `_last` begins, in bytes."""
        self._end = 0
        self._failing = False

    def began(self, step: int, tokens: int) -> None:
        super().began(step, tokens)
        kept = [record for record in read_records(self._path) if record["step"] <= step]
        lines = [_line(record) for record in kept]
        self._end = sum(map(len, lines))
        self._last_at = self._end - len(lines[-1]) if lines else 0
        self._last = kept[-1] if kept else {}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_name(f".{self._path.name}.new")
        aside.write_bytes(b"".join(lines))
        os.replace(aside, self._path)

    def record(self, step: int, saes: Mapping[str, Figures], run: Figures) -> None:
        values = {name: _number(value) for name, value in flat(saes, run).items()}
        if self._last.get("step") == step:
            self._last, at = {**self._last, **values}, self._last_at
        else:
            self._last, at = {"step": step, **values}, self._end
        line = _line(self._last)
        self._last_at, self._end = at, at + len(line)
        try:
            self._write(at, line)
        except OSError as error:
            if not self._failing:
                warnings.warn(f"{self._path}: not written ({error})", stacklevel=2)
            self._failing = True
            self._last, self._end = {}, at
        else:
            self._failing = False

    def _write(self, at: int, line: bytes) -> None:
        with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
            file.seek(at)
            file.truncate()
            file.write(line)


def read_records(path: Path) -> list[Record]:
    """The records of a file that `JsonlLog` wrote, up to a broken line; none without the file."""
    records: list[Record] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return records
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            break
        records.append(record)
    return records


def _line(record: Record) -> bytes:
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
