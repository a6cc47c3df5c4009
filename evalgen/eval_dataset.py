"""The dataset that influence runs load: a Hugging Face dataset with the functions that evaluate a model on it."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value, load_from_disk

from evalgen.errors import InputError
from evalgen.eval_functions import eval_accuracy_and_loss

EvalFunction = Callable[..., dict[str, Any]]

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
        "metadata_json": Value("string"),
        "reference_completion": Value("string"),
        "raw_completion": Value("string"),
        "sample_count": Value("int64"),
        "num_samples": Value("int64"),
        "logprob": Value("float64"),
        "logprob_sampling": Value("float64"),
        "tokens_as_drawn": Value("bool"),
        "finish_reason": Value("string"),
        "grader_model": Value("string"),
        "grader_reasoning": Value("string"),
        "run": Value("string"),
        "checkpoint": Value("string"),
    }
)


@dataclass(frozen=True)
class EvalDataset:
    """Rows of `FEATURES` (or of a source eval dataset), and functions `f(model, dataset, ...) -> results`."""

    dataset: Dataset
    eval_functions: Sequence[EvalFunction] = (eval_accuracy_and_loss,)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> EvalDataset:
        """A dataset with exactly the columns of `FEATURES`, also when there is no row."""
        columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
        for row in rows:
            for name, values in columns.items():
                values.append(row[name])
        return cls(Dataset.from_dict(columns, features=FEATURES))

    def save(self, directory: Path) -> None:
        """Writes `eval_dataset/` (save_to_disk, and the rows as `data/0000.parquet`) and `eval_functions.pkl`."""
        path = directory / "eval_dataset"
        self.dataset.save_to_disk(str(path), num_shards=None if len(self.dataset) else 1)  # none is written otherwise
        (path / "data").mkdir(exist_ok=True)
        # Without the `huggingface` schema metadata, which older versions of datasets cannot read.
        rows = self.dataset.with_format("arrow")[:]
        pq.write_table(rows.replace_schema_metadata(None), path / "data" / "0000.parquet")
        (directory / "eval_functions.pkl").write_bytes(pickle.dumps(list(self.eval_functions)))

    @classmethod
    def load(cls, directory: Path | str) -> EvalDataset:
        """Reads what `save` wrote.

        Raises:
            InputError: nothing there, or an eval_functions.pkl that refers to anything but functions of evalgen.
        """
        directory = Path(directory)
        if not (directory / "eval_dataset").is_dir():
            raise InputError(f"{directory} is no evaluation dataset: it has no eval_dataset/")
        dataset = load_from_disk(str(directory / "eval_dataset"))
        assert isinstance(dataset, Dataset)
        return cls(dataset, _load_functions(directory / "eval_functions.pkl"))


class _FunctionsOnly(pickle.Unpickler):
    """Resolves our own functions by name and nothing else: a pickle of someone else's is their code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (eval_accuracy_and_loss.__module__, eval_accuracy_and_loss.__name__):
            return eval_accuracy_and_loss
        raise InputError(
            f"eval_functions.pkl refers to {module}.{name}, which is not a function of evalgen: not loaded"
        )


# What reading and unpickling arbitrary bytes can raise.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    OSError,
    EOFError,
    ValueError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
)
# A list, names, and references to be resolved: nothing that calls, builds or sets anything.
_OPCODES = {"PROTO", "FRAME", "EMPTY_LIST", "MEMOIZE", "MARK", "APPEND", "APPENDS", "STOP"}
_OPCODES |= {"SHORT_BINUNICODE", "BINUNICODE", "STACK_GLOBAL", "GLOBAL", "BINPUT", "BINGET"}


def _load_functions(path: Path) -> list[EvalFunction]:
    try:
        content = path.read_bytes()
        for opcode, _, _ in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                raise InputError(f"{path} is not a list of functions (it has a {opcode.name}): not loaded")
        functions = _FunctionsOnly(io.BytesIO(content)).load()
    except _PICKLE_ERRORS as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(functions, list) or any(function is not eval_accuracy_and_loss for function in functions):
        raise InputError(f"{path} does not hold a list of functions of evalgen: not loaded")
    return functions
