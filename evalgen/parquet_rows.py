"""Rows to Parquet as they come: what is in memory at once is bounded, and equal rows make equal files.

Files have no `huggingface` schema metadata, which older versions of datasets cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 5_000  # of a row group: what is in memory at once
LOOSE_ROWS = 250  # in memory as Python objects, which take many times as much


class GroupedRows:
    """Collects rows, and hands them on in groups of `GROUP_ROWS`, the last of which may be smaller."""

    def __init__(self, schema: pa.Schema, write_group: Callable[[pa.Table], None]) -> None:
        self._schema = schema.remove_metadata()
        self._write_group = write_group
        self._loose: list[Mapping[str, Any]] = []
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def add_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        assert all(row.keys() == set(self._schema.names) for row in rows[:1]), sorted(rows[0])
        self._loose.extend(rows)
        if len(self._loose) >= LOOSE_ROWS:
            self._add_loose()

    def add_table(self, rows: pa.Table) -> None:
        self._waiting.append(rows.cast(self._schema))
        self._num_waiting += len(rows)
        if self._num_waiting >= GROUP_ROWS:
            waiting = pa.concat_tables(self._waiting)
            num_due = len(waiting) // GROUP_ROWS * GROUP_ROWS
            for start in range(0, num_due, GROUP_ROWS):
                self._write_group(waiting.slice(start, GROUP_ROWS).combine_chunks())
            self._waiting, self._num_waiting = [waiting.slice(num_due)], len(waiting) - num_due

    def flush(self) -> None:
        """Hands on what is left."""
        self._add_loose()
        if self._num_waiting:
            self._write_group(pa.concat_tables(self._waiting).combine_chunks())
        self._waiting, self._num_waiting = [], 0

    def _add_loose(self) -> None:
        self.add_table(pa.Table.from_pylist(self._loose, schema=self._schema))
        self._loose = []


class ParquetRowsWriter:
    """A Parquet file of rows, written some at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = pq.ParquetWriter(path, schema.remove_metadata())
        self._rows = GroupedRows(schema, self._file.write_table)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows.add_rows(rows)

    def __enter__(self) -> ParquetRowsWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._rows.flush()
        self._file.close()
