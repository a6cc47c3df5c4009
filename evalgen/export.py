"""A dataset in other forms: padded, three columns, JSON lines, or as `datasets` 3.x reads it. Row by row, in order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, load_from_disk

from evalgen.errors import InputError
from evalgen.eval_dataset import ARROW_FILE, EvalDatasetWriter
from evalgen.files import sha256_of, whole_directory
from evalgen.tokenization import IGNORED_LABEL

Form = Literal["padded", "three_column", "jsonl", "datasets3"]
TOKEN_COLUMNS = ("input_ids", "labels", "attention_mask")
JSONL_FILE = "rows.jsonl"
BATCH_ROWS = 1000
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Export:
    """What to make of a dataset."""

    form: Form
    max_length: int | None = None  # to which rows are padded; None: to the longest
    pad_id: int = 0  # no reader looks at it: the mask is 0 there


def export_dataset(source: Path, target: Path, export: Export) -> int:
    """Writes the dataset in `source` to the directory `target`, whole or not at all. Returns how many rows it has.

    Raises:
        InputError: there is no dataset in `source`, or it cannot have that form.
    """
    dataset = _loaded(source)
    length = _padded_length(dataset, export.max_length) if export.form == "padded" else 0
    num_rows = 0
    with whole_directory(target) as directory:
        if export.form == "jsonl":
            with (directory / JSONL_FILE).open("w", encoding="utf-8") as file:
                for row in _rows(dataset):
                    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                    num_rows += 1
            return num_rows
        names = TOKEN_COLUMNS if export.form == "three_column" else dataset.column_names
        features = Features({name: dataset.features[name] for name in names})
        with EvalDatasetWriter(directory, features) as writer:
            for row in _rows(dataset):
                padded = _padded(row, length, export.pad_id) if export.form == "padded" else row
                writer.write_rows([{name: padded[name] for name in names}])
                num_rows += 1
        if export.form == "datasets3":
            _describe_for_datasets3(directory / "eval_dataset")
    return num_rows


def _loaded(source: Path) -> Dataset:
    path = source / "eval_dataset"
    if not path.is_dir():
        raise InputError(f"{source} is no dataset: it has no eval_dataset/; give .../sampled_eval_datasets/<name>")
    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # whatever datasets and Arrow make of a broken directory
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    missing = [name for name in ("id", *TOKEN_COLUMNS) if name not in dataset.column_names]
    if missing or not isinstance(dataset, Dataset):
        raise InputError(f"{path} is no dataset of evalgen: it lacks {', '.join(missing) or 'rows'}")
    return dataset


def _rows(dataset: Dataset) -> Iterator[Row]:
    for table in dataset.with_format("arrow").iter(BATCH_ROWS):
        yield from table.to_pylist()


def _padded_length(dataset: Dataset, max_length: int | None) -> int:
    """The length of every row.

    Raises:
        InputError: a row is longer than `max_length`: cutting it would take away what is labelled.
    """
    longest, row_id = 0, None
    for table in dataset.with_format("arrow").iter(BATCH_ROWS):
        lengths = pc.list_value_length(table["input_ids"])
        if (longest_here := pc.max(lengths).as_py() or 0) > longest:
            longest, row_id = longest_here, table["id"][pc.index(lengths, longest_here).as_py()].as_py()
    if max_length is not None and longest > max_length:
        raise InputError(f"max_length: row {row_id!r} has {longest} tokens, more than {max_length}; give at least that")
    return max_length or longest


def _padded(row: Row, length: int, pad_id: int) -> Row:
    """On the right, as source eval sets are."""
    missing = length - len(row["input_ids"])
    return {
        **row,
        "input_ids": row["input_ids"] + [pad_id] * missing,
        "labels": row["labels"] + [IGNORED_LABEL] * missing,
        "attention_mask": row["attention_mask"] + [0] * missing,
    }


def _describe_for_datasets3(directory: Path) -> None:
    """Calls lists `Sequence` in all metadata, as `datasets` before 4 did, and later ones still read; no row changes."""
    info = directory / "dataset_info.json"
    content = _with_sequences(json.loads(info.read_text(encoding="utf-8")))
    info.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
    path = directory / ARROW_FILE
    older = path.with_name(f"{ARROW_FILE}.older")
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as batches:
        described = json.loads(batches.schema.metadata[b"huggingface"])
        schema = batches.schema.with_metadata({"huggingface": json.dumps(_with_sequences(described))})
        with pa.ipc.new_stream(str(older), schema) as writer:
            for batch in batches:
                writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    older.replace(path)
    state = directory / "state.json"
    fingerprinted = json.loads(state.read_text(encoding="utf-8")) | {"_fingerprint": sha256_of(path)[:16]}
    state.write_text(json.dumps(fingerprinted, indent=2, sort_keys=True), encoding="utf-8")


def _with_sequences(content: Any) -> Any:
    if isinstance(content, list):
        return [_with_sequences(item) for item in content]
    if not isinstance(content, dict):
        return content
    renamed = {key: _with_sequences(value) for key, value in content.items()}
    return renamed | {"_type": "Sequence"} if renamed.get("_type") == "List" else renamed
