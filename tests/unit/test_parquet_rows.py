"""Parquet files that are written some rows at a time."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalgen import parquet_rows
from evalgen.parquet_rows import ParquetRowsWriter

SCHEMA = pa.schema([("name", pa.string()), ("ids", pa.list_(pa.int32()))], metadata={"huggingface": "{}"})
ROWS = [{"name": f"é{n}", "ids": None if n % 3 == 0 else list(range(n % 4))} for n in range(53)]


def written(path: Path, sizes: list[int]) -> Path:
    start = 0
    with ParquetRowsWriter(path, SCHEMA) as writer:
        for size in sizes:
            writer.write(ROWS[start : start + size])
            start += size
    return path


def test_equal_rows_make_equal_files_in_groups_of_a_size_however_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_rows, "GROUP_ROWS", 20)
    monkeypatch.setattr(parquet_rows, "LOOSE_ROWS", 3)
    whole = written(tmp_path / "whole", [53])
    for name, sizes in {"single": [1] * 53, "uneven": [0, 2, 41, 0, 10]}.items():
        assert written(tmp_path / name, sizes).read_bytes() == whole.read_bytes()
    assert pq.read_table(whole).to_pylist() == ROWS
    metadata = pq.read_metadata(whole)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [20, 20, 13]
    assert b"huggingface" not in (pq.read_schema(whole).metadata or {})


def test_no_rows_are_a_file_with_all_columns(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path / "none", []))
    assert table.num_rows == 0 and table.schema.equals(SCHEMA.remove_metadata())


def test_a_row_without_one_of_the_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), ParquetRowsWriter(tmp_path / "f", SCHEMA) as writer:
        writer.write([{"name": "x"}])
