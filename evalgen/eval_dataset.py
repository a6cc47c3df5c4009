"""The dataset that influence runs load: a Hugging Face dataset with the functions that evaluate a model on it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value, load_from_disk

from evalgen.errors import InputError
from evalgen.eval_functions import eval_accuracy_and_loss
from evalgen.files import sha256_of
from evalgen.function_pickle import EvalFunction, load_functions, save_functions
from evalgen.parquet_rows import GroupedRows

FUNCTIONS_FILE = "eval_functions.pkl"
ARROW_FILE = "data-00000-of-00001.arrow"
BATCH_ROWS = 1000  # of the Arrow file: what a reader of one row has to look at, as in what datasets writes

# The first nine are binding for downstream, in names, types and order.
FEATURES = Features(
    {
        "id": Value("string"),
        "prompt_id": Value("string"),
        "prompt": Value("string"),
        "completion": Value("string"),
        "generation_idx": Value("int64"),
        "metadata": {"source_dataset": Value("string")},
        "input_ids": List(Value("int64")),
        "labels": List(Value("int64")),
        "attention_mask": List(Value("int64")),
        "reference_completion": Value("string"),  # what the judge compared with
        "raw_completion": Value("string"),  # as decoded, untrimmed
        "sample_count": Value("int64"),  # draws of all that were merged into the row; null: enumerated
        "num_samples": Value("int64"),  # draws of the prompt; null: enumerated
        "logprob": Value("float64"),  # nats, T=1, of the labelled ids; null where they were not drawn
        "logprob_sampling": Value("float64"),  # the same under the sampling law
        "num_completion_tokens": Value("int64"),  # labelled ids
        "weight": Value("float64"),  # see evalgen.weights; those of a prompt sum to 1
        "is_prefix_of": Value("string"),  # id of the first row of the prompt that goes on where this one ends
        "token_ids": List(Value("int32")),  # as drawn, EOS or stop string included, untrimmed
        "token_logprobs": List(Value("float32")),  # nats, T=1, of token_ids
        "tokens_as_drawn": Value("bool"),  # else the labelled ids are the completion's text, encoded again
        "finish_reason": Value("string"),
        "grader_model": Value("string"),
        "grader_reasoning": Value("string"),
        "run": Value("string"),
        "checkpoint": Value("string"),
        "weights_digest": Value("string"),  # see evalgen.provenance
        "tokenizer_digest": Value("string"),
        "grader_digest": Value("string"),
        "metadata_json": Value("string"),  # the query's other metadata
    }
)


@dataclass(frozen=True)
class EvalDataset:
    """Rows of `FEATURES` (or of a source eval dataset), and functions `f(model, dataset, ...) -> results`."""

    dataset: Dataset
    eval_functions: Sequence[EvalFunction] = (eval_accuracy_and_loss,)

    def save(self, directory: Path) -> None:
        """Writes `eval_dataset/` (as `save_to_disk` does, and as `data/0000.parquet`) and `eval_functions.pkl`."""
        with EvalDatasetWriter(directory, self.dataset.features, self.eval_functions) as writer:
            for batch in self.dataset.with_format("arrow").iter(BATCH_ROWS):
                writer.write_table(batch)

    @classmethod
    def load(cls, directory: Path | str) -> EvalDataset:
        """Reads what `save` wrote.

        Raises:
            InputError: nothing there, files that are damaged, or an eval_functions.pkl that refers to anything but
                functions of evalgen.
        """
        directory = Path(directory)
        if not (directory / "eval_dataset").is_dir():
            raise InputError(f"{directory} is no evaluation dataset: it has no eval_dataset/")
        try:
            dataset = load_from_disk(str(directory / "eval_dataset"))
        except Exception as error:  # whatever datasets and Arrow make of a broken directory
            raise InputError(f"{directory / 'eval_dataset'} cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(dataset, Dataset):
            raise InputError(f"{directory / 'eval_dataset'} is a {type(dataset).__name__}, and no dataset")
        return cls(dataset, load_functions(directory / FUNCTIONS_FILE))


class EvalDatasetWriter:
    """Writes what `EvalDataset.load` reads, some rows at a time: a dataset need not fit into memory.

    Equal rows make equal files, however they are handed over.
    """

    def __init__(
        self,
        directory: Path,
        features: Features = FEATURES,
        eval_functions: Sequence[EvalFunction] = (eval_accuracy_and_loss,),
    ) -> None:
        self._path = directory / "eval_dataset"
        # datasets writes the frame, for no rows; its one file of rows is then written again.
        no_rows = Dataset.from_dict({name: [] for name in features}, features=features)
        no_rows.save_to_disk(str(self._path), num_shards=1)
        (self._path / "data").mkdir(exist_ok=True)
        save_functions(directory / FUNCTIONS_FILE, eval_functions)
        self._arrow = pa.ipc.new_stream(str(self._path / ARROW_FILE), features.arrow_schema)
        self._metadata = features.arrow_schema.metadata
        self._parquet = pq.ParquetWriter(self._path / "data" / "0000.parquet", features.arrow_schema.remove_metadata())
        self._rows = GroupedRows(features.arrow_schema, self._write_group)

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows.add_rows(rows)

    def write_table(self, rows: pa.Table) -> None:
        self._rows.add_table(rows)

    def __enter__(self) -> EvalDatasetWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._rows.flush()
        self._arrow.close()
        self._parquet.close()
        if error is None:
            self._set_fingerprint()

    def _write_group(self, rows: pa.Table) -> None:
        for start in range(0, len(rows), BATCH_ROWS):
            # Taken, not sliced: the bits of its neighbours would stay in the last byte of a slice.
            batch = rows.take(np.arange(start, min(start + BATCH_ROWS, len(rows))))
            self._arrow.write_table(batch.replace_schema_metadata(self._metadata))
        self._parquet.write_table(rows)

    def _set_fingerprint(self) -> None:
        """By which datasets caches what it makes of these rows: that of no rows will not do."""
        path = self._path / "state.json"
        state = json.loads(path.read_text(encoding="utf-8"))
        state["_fingerprint"] = sha256_of(self._path / ARROW_FILE)[:16]
        path.write_text(json.dumps(state, indent=2, sort_keys=True), encoding="utf-8")
