"""Samples in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saekit_trainer.errors import DatasetError
from saekit_trainer.samples.arrow_values import values
from saekit_trainer.samples.files import FileSet
from saekit_trainer.samples.reading import Position

_ROWS_AT_ONCE = 256


def parquet_columns(path: Path) -> list[str]:
    """Names of the columns of a file.

    Raises:
        DatasetError: it is no Parquet file.
    """
    return list(_open(path).schema_arrow.names)


@dataclass(frozen=True)
class ParquetFiles(FileSet):
    """Parquet files, of which one column is read."""

    column: str = "text"

    def read(self, start: Position | None = None) -> _RowReader:
        return _RowReader(self.paths, self.column, start or {"file": 0, "group": 0, "row": 0})


class _RowReader:
    def __init__(self, paths: tuple[Path, ...], column: str, start: Position) -> None:
        self._paths = paths
        self._column = column
        self._index, self._group, self._row = start["file"], start["group"], start["row"]
        self._file: pq.ParquetFile | None = None
        self._values: Iterator[Any] | None = None
        self.where = ""

    def position(self) -> Position:
        return {"file": self._index, "group": self._group, "row": self._row}

    def __next__(self) -> Any:
        while self._index < len(self._paths):
            path = self._paths[self._index]
            if self._file is None:
                self._file = _open(path)
                if self._column not in self._file.schema_arrow.names:
                    raise DatasetError(
                        f"dataset_path: {path.name} has no column {self._column!r}, only "
                        f"{', '.join(self._file.schema_arrow.names)}",
                        field="dataset_path",
                    )
            if self._group == self._file.num_row_groups:
                self._file.close()
                self._file = None
                self._index, self._group = self._index + 1, 0
                continue
            try:
                if self._values is None:
                    self._values = islice(self._group_values(self._file), self._row, None)
                value = next(self._values)
            except StopIteration:
                self._values = None
                self._group, self._row = self._group + 1, 0
                continue
            except (pa.ArrowException, OSError) as error:
                raise DatasetError(
                    f"dataset_path: {path.name}, row group {self._group}: cannot be read ({error})",
                    field="dataset_path",
                ) from error
            self._row += 1
            self.where = f"{path.name}, row group {self._group}, row {self._row - 1}"
            return value
        raise StopIteration

    def _group_values(self, file: pq.ParquetFile) -> Iterator[Any]:
        batches = file.iter_batches(
            _ROWS_AT_ONCE, row_groups=[self._group], columns=[self._column], use_threads=False
        )
        for batch in batches:
            yield from values(pa.chunked_array([batch.column(0)]))


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=False)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"dataset_path: {path} is no Parquet file ({error})", field="dataset_path"
        ) from error
