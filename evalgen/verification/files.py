"""The files of a dataset as such: columns, the same rows in Arrow and Parquet, ids that stand once; and rows, streamed.

At no time are more rows in memory as Python objects than one batch has; what is looked at as a whole is Arrow's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, load_from_disk

from evalgen.errors import InputError
from evalgen.eval_dataset import FEATURES, EvalDataset
from evalgen.verification.findings import Check, Findings

BATCH_ROWS = 1000
FORBIDDEN = frozenset(("length", "advantage", "doc_ids", "text", "label", "label_ids"))
# Null says something in these alone.
NULLABLE = frozenset(("sample_count", "num_samples", "logprob", "logprob_sampling", "is_prefix_of"))
# In rejects also these: no row weighs anything, and a token may span the boundary to the prompt.
NULLABLE_IN_REJECTS = NULLABLE | {"weight", "input_ids", "labels", "attention_mask", "num_completion_tokens"}
LISTS = ("input_ids", "labels", "attention_mask", "token_ids", "token_logprobs")
# What reading damaged files can raise.
READ_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)

Row = Mapping[str, Any]


def open_rows(directory: Path, findings: Findings) -> Dataset | None:
    """The rows, memory-mapped, if they have the columns that they must have."""
    path = directory / "eval_dataset"
    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # whatever datasets and Arrow make of a broken directory
        findings.fail(Check.SCHEMA, f"{path} cannot be loaded: {one_line(error)}")
        return None
    if not isinstance(dataset, Dataset):
        findings.fail(Check.SCHEMA, f"{path} holds a {type(dataset).__name__}, not one dataset")
        return None
    check_schema(dataset.features.arrow_schema.remove_metadata(), findings, "eval_dataset")
    if findings.failed(Check.SCHEMA):
        return None
    findings.held(Check.SCHEMA, f"{len(dataset.column_names)} columns, {len(dataset):,} rows")
    return dataset


def check_schema(found: pa.Schema, findings: Findings, what: str, check: Check = Check.SCHEMA) -> None:
    """Names, types and order of columns."""
    expected = FEATURES.arrow_schema.remove_metadata()
    forbidden = sorted(FORBIDDEN & set(found.names))
    missing = [name for name in expected.names if name not in found.names]
    unknown = [name for name in found.names if name not in expected.names]
    if forbidden:
        findings.fail(check, f"{what} has columns that a trainer takes for its own: {', '.join(forbidden)}")
    if missing or unknown:
        findings.fail(check, f"{what} lacks columns {missing} and has others {unknown}")
    elif found.names != expected.names:
        first = next(pair for pair in zip(found.names, expected.names, strict=True) if pair[0] != pair[1])
        findings.fail(check, f"{what} has column {first[0]} where {first[1]} belongs")
    else:
        for name in expected.names:
            if not _same_type(found.field(name).type, expected.field(name).type):
                types = f"{found.field(name).type}, expected {expected.field(name).type}"
                findings.fail(check, f"{what}: column {name} is {types}")


def check_functions(directory: Path, findings: Findings) -> None:
    """Reads eval_functions.pkl by its allow-list, which runs nothing."""
    try:
        functions = EvalDataset.load(directory).eval_functions
    except InputError as error:
        findings.fail(Check.FUNCTIONS, str(error))
        return
    findings.held(Check.FUNCTIONS, ", ".join(function.__name__ for function in functions))


def check_parquet(dataset: Dataset, directory: Path, findings: Findings) -> None:
    """`data/0000.parquet` has the same rows in the same order, and opens everywhere."""
    path = directory / "eval_dataset" / "data" / "0000.parquet"
    try:
        parquet = pq.ParquetFile(path)
        if b"huggingface" in (parquet.schema_arrow.metadata or {}):
            findings.fail(Check.PARQUET, f"{path.name} has the huggingface metadata, which older readers cannot read")
        if parquet.metadata.num_rows != len(dataset):
            findings.fail(Check.PARQUET, f"{path.name} has {parquet.metadata.num_rows} rows, not {len(dataset)}")
            return
        names = dataset.column_names
        if parquet.schema_arrow.names != names:
            findings.fail(Check.PARQUET, f"{path.name} has columns {parquet.schema_arrow.names}")
            return
        for start, found in _aligned(parquet):
            expected = dataset.with_format("arrow")[start : start + len(found)].cast(found.schema)
            _compare(expected, found, findings)
    except READ_ERRORS as error:
        findings.fail(Check.PARQUET, f"{path} cannot be read: {one_line(error)}")
        return
    findings.held(Check.PARQUET, "the rows of eval_dataset, in their order")


def check_unique_ids(dataset: Dataset, findings: Findings) -> None:
    counts = pc.value_counts(dataset.with_format("arrow")[:]["id"])
    for repeated in counts.filter(pc.greater(counts.field("counts"), 1)).slice(0, BATCH_ROWS).to_pylist():
        findings.fail(Check.IDS, f"stands {repeated['counts']} times", repeated["values"])


def rows_of(dataset: Dataset, findings: Findings) -> Iterator[Row]:
    """One row after the other; those with a null where there must be none are told, and left out."""
    for table in dataset.with_format("arrow").iter(BATCH_ROWS):
        yield from _whole_rows(table, NULLABLE, findings, Check.SCHEMA)


def rejected_rows(parquet: pq.ParquetFile, findings: Findings) -> Iterator[Row]:
    """As `rows_of`, of the file of rejects."""
    for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
        yield from _whole_rows(pa.Table.from_batches([batch]), NULLABLE_IN_REJECTS, findings, Check.REJECTS)


def _whole_rows(table: pa.Table, nullable: frozenset[str], findings: Findings, check: Check) -> Iterator[Row]:
    strict = [name for name in table.column_names if name not in nullable and table[name].null_count]
    lists = [name for name in LISTS if pc.list_flatten(table[name]).null_count]
    for row in table.to_pylist():
        empty = [name for name in strict if row[name] is None]
        empty += [name for name in lists if None in (row[name] or ())]
        if empty:
            findings.fail(check, f"null in {', '.join(empty)}", row["id"])
        else:
            yield row


def _aligned(parquet: pq.ParquetFile) -> Iterator[tuple[int, pa.Table]]:
    start = 0
    for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
        yield start, pa.Table.from_batches([batch])
        start += len(batch)


def _compare(expected: pa.Table, found: pa.Table, findings: Findings) -> None:
    if found.equals(expected):
        return
    for here, there in zip(expected.to_pylist(), found.to_pylist(), strict=True):
        differing = [name for name in here if not _equal(here[name], there[name])]
        if differing:
            findings.fail(Check.PARQUET, f"{', '.join(differing)} differ from those in Arrow", here["id"])


def _equal(first: Any, second: Any) -> bool:
    """NaN is itself here: it is no difference between two files."""
    return bool(first == second) or (first != first and second != second)


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    """Names of what is in a list differ between writers, and mean nothing."""
    if pa.types.is_list(found) and pa.types.is_list(expected):
        return _same_type(found.value_type, expected.value_type)
    return bool(found == expected)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
