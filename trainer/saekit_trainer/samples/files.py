"""The files of a data set, and a reader that goes through them line by line."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from saekit_trainer.errors import DatasetError
from saekit_trainer.samples.reading import Position


def find_files(pattern: str | Path) -> tuple[Path, ...]:
    """The file of that name, or those that match it as a glob (``data/**/*.jsonl``), sorted.

    Raises:
        DatasetError: there are none.
    """
    if Path(pattern).is_file():
        return (Path(pattern),)
    found = sorted(glob.glob(str(pattern), recursive=True))
    paths = tuple(Path(name) for name in found if Path(name).is_file())
    if not paths:
        raise DatasetError(f"dataset_path: no file {pattern}", field="dataset_path")
    return paths


@dataclass(frozen=True)
class FileSet:
    """Files that are read one after the other."""

    paths: tuple[Path, ...]

    @property
    def identity(self) -> Any:
        """The names of the files."""
        return [path.name for path in self.paths]


class LineCursor:
    """Goes through files line by line, as bytes, and knows file, byte and line.

    Attributes:
        path: the file that the last line came from.
        line: its number there, from 1; 0 before the first.
    """

    def __init__(self, paths: tuple[Path, ...], start: Position | None = None) -> None:
        self._paths = paths
        self._file: IO[bytes] | None = None
        self._index, self._offset, self.line = 0, 0, 0
        if start is not None:
            self._index, self._offset, self.line = start["file"], start["byte"], start["line"]

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def path(self) -> Path:
        return self._paths[min(self._index, len(self._paths) - 1)]

    @property
    def at_end(self) -> bool:
        """Whether the last file is finished."""
        return self._index == len(self._paths)

    def position(self) -> Position:
        return {"file": self._index, "byte": self._offset, "line": self.line}

    def read(self, limit: int = -1) -> bytes:
        """The next line of the current file, with its end; at most `limit` bytes of it.

        Returns:
            Nothing at the end of the file.

        Raises:
            DatasetError: the file cannot be read.
        """
        if self.at_end:
            return b""
        try:
            if self._file is None:
                self._file = self.path.open("rb")
                self._file.seek(self._offset)
            data = self._file.readline(limit)
        except OSError as error:
            raise DatasetError(
                f"dataset_path: cannot read {self.path} ({error.strerror})", field="dataset_path"
            ) from error
        self._offset += len(data)
        self.line += data.endswith(b"\n") or (bool(data) and len(data) != limit)
        return data

    def push_back(self, n_bytes: int) -> None:
        """Read the last `n_bytes` of an unfinished line again next time."""
        if n_bytes and self._file is not None:
            self._offset -= n_bytes
            self._file.seek(self._offset)

    def next_file(self) -> None:
        """Go on with the next file."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._index, self._offset, self.line = self._index + 1, 0, 0
