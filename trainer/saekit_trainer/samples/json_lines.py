"""Samples in files with a JSON object per line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from saekit_trainer.samples.files import FileSet, LineCursor
from saekit_trainer.samples.reading import BrokenSampleError, Position


@dataclass(frozen=True)
class JsonLines(FileSet):
    """Files with one JSON object per line, of which one field is read; blank lines are none."""

    column: str = "text"

    def read(self, start: Position | None = None) -> _LineReader:
        return _LineReader(LineCursor(self.paths, start), self.column)


class _LineReader:
    def __init__(self, lines: LineCursor, column: str) -> None:
        self._lines = lines
        self._column = column

    @property
    def where(self) -> str:
        return f"{self._lines.path.name}, line {self._lines.line}"

    def position(self) -> Position:
        return self._lines.position()

    def __next__(self) -> Any:
        while not self._lines.at_end:
            line = self._lines.read()
            if not line:
                self._lines.next_file()
            elif line.strip():
                record = parse_line(line)
                if self._column not in record:
                    raise BrokenSampleError(f"no field {self._column!r} in it")
                return record[self._column]
        raise StopIteration


def parse_line(line: bytes) -> dict[str, Any]:
    """The object on `line`.

    Raises:
        BrokenSampleError: there is none.
    """
    try:
        record = json.loads(line)
    except ValueError as error:  # also of bytes that are not UTF-8
        raise BrokenSampleError(f"not JSON ({error})") from None
    if not isinstance(record, dict):
        raise BrokenSampleError(f"a JSON {type(record).__name__}, expected an object")
    return record
