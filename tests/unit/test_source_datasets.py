"""Source eval datasets are read as the library that saved them reads them, though by Arrow alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, Value, load_from_disk

from evalgen.queries import collect_queries

ROWS = [{"id": f"{n:02d}é\t/", "prompt": f"Q {n}?\n", "completion": f" São {n}", "ids": [1, n]} for n in range(20)]


def save(dataset: Dataset, directory: Path, num_shards: int = 1) -> None:
    dataset.save_to_disk(str(directory), num_shards=num_shards)


def save_as_datasets_1(dataset: Dataset, directory: Path) -> None:
    """One Arrow file, under the name that it had then."""
    save(dataset, directory)
    (arrow,) = directory.glob("*.arrow")
    arrow.rename(directory / "dataset.arrow")
    state = json.loads((directory / "state.json").read_text())
    (directory / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "dataset.arrow"}]}))


SAVED: dict[str, Callable[[Dataset, Path], None]] = {
    "as it is": save,
    "in three shards": lambda dataset, path: save(dataset, path, num_shards=3),
    "by datasets 1": save_as_datasets_1,
    "some rows, in another order": lambda dataset, path: save(dataset.select([7, 3, 5]), path),
    "shuffled, in shards": lambda dataset, path: save(dataset.shuffle(seed=1), path, num_shards=2),
    "a format that shows one column": lambda dataset, path: save(dataset.with_format("numpy", columns=["ids"]), path),
    "long strings": lambda dataset, path: save(dataset.cast_column("prompt", Value("large_string")), path),
}


@pytest.mark.parametrize("save_it", SAVED.values(), ids=SAVED.keys())
def test_rows_are_those_that_the_library_reads(save_it: Callable[[Dataset, Path], None], tmp_path: Path) -> None:
    save_it(Dataset.from_list(ROWS), tmp_path / "s" / "eval_dataset")
    library = load_from_disk(str(tmp_path / "s" / "eval_dataset"))
    assert isinstance(library, Dataset)
    expected = [(row["id"], row["prompt"], row["completion"]) for row in library.with_format(None).to_list()]
    assert len(expected) >= 3
    assert [(it.id, it.prompt, it.reference) for it in collect_queries(None, tmp_path, ("s",))] == expected
