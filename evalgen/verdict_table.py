"""Verdicts as files and in memory: what a file of them holds, how one notices damage, and a lookup by question key.

A million verdicts are to fit beside everything else, so the lookup is Arrow columns and the row of each key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evalgen.errors import JobStopped
from evalgen.files import sha256_of, write_text
from evalgen.records import Verdict

VERDICTS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # digest of the question
        ("grader", pa.string()),
        ("grader_instructions", pa.string()),
        ("grader_options", pa.string()),  # JSON
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("completion", pa.string()),
        ("verdict", pa.string()),  # equivalent | not_equivalent | ungraded
        ("trimmed_completion", pa.string()),  # null: nothing cut
        ("reasoning", pa.string()),
        ("error", pa.string()),  # why it is ungraded
        ("api_calls", pa.int64()),  # the next four: paid by this job, so 0 for a verdict from the cache
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cost_usd", pa.float64()),  # null: the model's price is unknown
        ("votes", pa.list_(pa.string())),  # what the judge said each time, where it was asked several times
        ("ballots", pa.list_(pa.string())),  # JSON: votes that were given, as long as there is no majority
        ("from_cache", pa.bool_()),  # found in an earlier experiment, not asked again
        ("graded_at", pa.float64()),  # Unix time
        ("answer_ids", pa.list_(pa.string())),  # of all answers that are in the row, so that none is added twice
    ]
)
VERDICTS_FILE = "0000.parquet"
VOTING = "not all votes have been given"  # the `error` of a row that has votes and no verdict yet
ASSEMBLED_COLUMNS = (
    *("key", "verdict", "trimmed_completion", "reasoning", "error"),
    *("api_calls", "input_tokens", "output_tokens", "cost_usd", "votes"),
)
BATCH_ROWS = 10_000  # in memory as Python objects; a row group of the file


class VerdictTable(Mapping[str, Verdict]):
    """Verdicts by question key, with as much of them as the columns hold that it is made from."""

    def __init__(self, batches: Iterable[pa.Table]) -> None:
        """`batches` have the columns `key`, `verdict`, `reasoning` and any others. Of equal keys the last counts."""
        self._rows: dict[bytes, int] = {}
        kept = []
        num_rows = 0
        for batch in batches:
            keys = map(bytes.fromhex, batch["key"].to_pylist())
            self._rows.update(zip(keys, range(num_rows, num_rows + len(batch)), strict=True))
            num_rows += len(batch)
            kept.append(_compact(batch.drop_columns("key")))
        table = pa.concat_tables(kept).unify_dictionaries() if kept else pa.table({})
        self._columns: dict[str, pa.Array] = {name: table[name].combine_chunks() for name in table.column_names}
        self._is_used = np.zeros(num_rows, dtype=bool)

    @classmethod
    def of_experiment(cls, directory: Path) -> VerdictTable:
        """All verdicts of an experiment's `verdicts/`, once its store is closed.

        Raises:
            JobStopped: they are missing or damaged.
        """
        path = directory / VERDICTS_FILE
        if not is_intact(path):
            raise JobStopped(f"{path} is missing or damaged")
        return cls(verdict_batches(path, ASSEMBLED_COLUMNS))

    def __getitem__(self, key: str) -> Verdict:
        row = self._rows[bytes.fromhex(key)]
        return verdict_from_row({name: column[row].as_py() for name, column in self._columns.items()})

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return (key.hex() for key in self._rows)

    def is_first_use(self, key: str) -> bool:
        """Whether this was not asked for `key` before. Datasets may share a question, which was paid for once."""
        row = self._rows[bytes.fromhex(key)]
        is_first = not self._is_used[row]
        self._is_used[row] = True
        return is_first


def verdict_from_row(row: Mapping[str, Any]) -> Verdict:
    """A row of `verdicts/*.parquet` as a record. Columns that it lacks have their defaults."""
    fields = {name: row[name] for name in _VERDICT_FIELDS if name in row}
    return Verdict(kind=row["verdict"], **fields | {"votes": tuple(row.get("votes") or ())})


def verdict_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a Parquet file of verdicts, some at a time. Nothing is checked: see `is_intact`."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])


def is_intact(path: Path) -> bool:
    """Whether a Parquet file of verdicts is there and every bit of it as it was written."""
    try:
        return checksum_file(path).read_text(encoding="ascii") == _checksum_line(path)
    except (OSError, ValueError):
        return False


def write_checksum(path: Path) -> None:
    """What `is_intact` compares with, durable when this returns; `sha256sum --check` reads it too."""
    write_text(checksum_file(path), _checksum_line(path))


def checksum_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _checksum_line(path: Path) -> str:
    return f"{sha256_of(path)}  {path.name}\n"


def _compact(batch: pa.Table) -> pa.Table:
    """What many rows share is kept once."""
    for name in ("verdict", "reasoning"):
        index = batch.column_names.index(name)
        batch = batch.set_column(index, name, batch[name].dictionary_encode())
    return batch


_VERDICT_FIELDS = tuple(field.name for field in fields(Verdict) if field.name != "kind")
