"""The saved dataset as its readers open it, and pickles that must not run."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, List, Value, concatenate_datasets, load_from_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from evalgen import eval_dataset, parquet_rows
from evalgen.errors import InputError
from evalgen.eval_dataset import FEATURES, EvalDataset, EvalDatasetWriter
from evalgen.eval_functions import eval_accuracy_and_loss
from evalgen.experiment import Experiment
from tests.unit.test_assembly import WRONG, assembled, drawn, enumerated
from tests.unit.tiny import INNER_RUN, query

FIRST_COLUMNS = ["id", "prompt_id", "prompt", "completion", "generation_idx", "metadata"]
TOKEN_COLUMNS = ["input_ids", "labels", "attention_mask"]
FORBIDDEN = {"length", "advantage", "doc_ids", "text", "label", "label_ids"}


@pytest.fixture(scope="module")
def saved(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    queries = [query("Q: São", id="b"), query("Q: x", id="a")]
    texts = [" Grace", " Lucas Foster\ufffd", " 日本"]
    samples = [drawn(tokenizer, text, [n], of=of) for of in queries for n, text in enumerate(texts)]
    _, dataset = assembled(tokenizer, samples, {}, queries)
    experiment = Experiment(tmp_path_factory.mktemp("experiment"))
    return experiment.write_dataset("sampled_x_checkpoint_final", [dataset])


def test_the_files_are_those_of_the_contract(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {
        "eval_dataset",
        "eval_functions.pkl",
        "non_equivalent_completions.json",
        "non_equivalent_completions.parquet",
        "prompts.parquet",
    }
    assert {path.name for path in (saved / "eval_dataset").iterdir()} == {
        "dataset_info.json",
        "state.json",
        "data",
        "data-00000-of-00001.arrow",
    }
    assert (saved / "eval_dataset" / "data" / "0000.parquet").is_file()


TEXT, INTEGER, REAL = pa.string(), pa.int64(), pa.float64()
COLUMNS = {
    "id": TEXT,
    "prompt_id": TEXT,
    "prompt": TEXT,
    "completion": TEXT,
    "generation_idx": INTEGER,
    "metadata": pa.struct([("source_dataset", TEXT)]),
    "input_ids": pa.list_(INTEGER),
    "labels": pa.list_(INTEGER),
    "attention_mask": pa.list_(INTEGER),
    "reference_completion": TEXT,
    "raw_completion": TEXT,
    "sample_count": INTEGER,
    "num_samples": INTEGER,
    "logprob": REAL,
    "logprob_sampling": REAL,
    "num_completion_tokens": INTEGER,
    "weight": REAL,
    "is_prefix_of": TEXT,
    "token_ids": pa.list_(pa.int32()),
    "token_logprobs": pa.list_(pa.float32()),
    "tokens_as_drawn": pa.bool_(),
    "finish_reason": TEXT,
    "grader_model": TEXT,
    "grader_reasoning": TEXT,
    "run": TEXT,
    "checkpoint": TEXT,
    "weights_digest": TEXT,
    "tokenizer_digest": TEXT,
    "grader_digest": TEXT,
    "metadata_json": TEXT,
}


@pytest.mark.parametrize("file", ["eval_dataset/data/0000.parquet", "non_equivalent_completions.parquet"])
def test_the_schema_of_rows_and_rejects_is_this(file: str, saved: Path) -> None:
    schema = pq.read_schema(saved / file)
    assert dict(zip(schema.names, schema.types, strict=True)) == COLUMNS and schema.names == list(COLUMNS)
    assert schema.names[:9] == FIRST_COLUMNS + TOKEN_COLUMNS and not FORBIDDEN & set(schema.names)
    assert b"huggingface" not in (schema.metadata or {})


def test_columns_stand_in_order_with_their_types(saved: Path) -> None:
    dataset = load_from_disk(str(saved / "eval_dataset"))
    assert dataset.column_names == list(COLUMNS)
    assert dataset.features == FEATURES
    assert dataset.features["generation_idx"] == Value("int64")
    assert dataset.features["metadata"] == {"source_dataset": Value("string")}
    assert all(dataset.features[name] == List(Value("int64")) for name in TOKEN_COLUMNS)
    assert dataset["id"][:] == ["b_gen_0", "b_gen_1", "b_gen_2", "a_gen_0", "a_gen_1", "a_gen_2"]


def test_the_schema_of_prompts_is_this(saved: Path) -> None:
    schema = pq.read_schema(saved / "prompts.parquet")
    assert list(zip(schema.names, map(str, schema.types), strict=True)) == [
        ("prompt_id", "string"),
        ("prompt", "string"),
        ("reference_completion", "string"),
        ("num_draws", "int64"),
        ("num_unique", "int64"),
        ("num_equivalent", "int64"),
        ("num_not_equivalent", "int64"),
        ("num_ungraded", "int64"),
        ("num_variations", "int64"),
        ("equivalent_draw_share", "double"),
        ("seen_mass", "double"),
        ("equivalent_mass", "double"),
        ("seen_mass_sampling", "double"),
        ("equivalent_mass_sampling", "double"),
        ("semantic_entropy", "double"),
        ("semantic_entropy_lower", "double"),
        ("unseen_mass", "double"),
        ("greedy_completion", "string"),
        ("greedy_verdict", "string"),
        ("covered_mass", "double"),
        ("greedy_draws", "int64"),
    ]
    assert b"huggingface" not in (schema.metadata or {})


def test_rejects_and_prompts_are_written_beside_the_rows(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [drawn(tokenizer, " Grace", [0, 1]), drawn(tokenizer, " x", [2]), drawn(tokenizer, " y", [3], "eos")]
    _, dataset = assembled(tokenizer, samples, {" x": WRONG, " y": WRONG})
    path = Experiment(tmp_path).write_dataset("sampled_x", [dataset])
    rejects = pq.read_table(path / "non_equivalent_completions.parquet").to_pylist()
    assert rejects == dataset.rejects and [row["completion"] for row in rejects] == [" x", " y"]
    (prompt,) = pq.read_table(path / "prompts.parquet").to_pylist()
    assert prompt == asdict(dataset.prompts[0]) and prompt["num_draws"] == 4
    both = concatenate_datasets([EvalDataset.load(path).dataset, Dataset.from_list(rejects, features=FEATURES)])
    assert both["completion"][:] == [" Grace", " x", " y"]


def test_what_is_to_be_written_after_the_rows_finds_them_and_is_part_of_the_whole(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _, dataset = assembled(tokenizer, [drawn(tokenizer, " x", [0])], {})
    experiment = Experiment(tmp_path)

    def write_card(directory: Path) -> None:
        (directory / "card").write_text(str(len(EvalDataset.load(directory).dataset)))

    path = experiment.write_dataset("sampled_x", [dataset], then=write_card)
    assert (path / "card").read_text() == "1"

    def fail(directory: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        experiment.write_dataset("sampled_x", [], then=fail)
    assert [found.name for found in experiment.datasets.iterdir()] == ["sampled_x"]
    assert (path / "card").read_text() == "1", "the older one is whole"


def test_the_parquet_file_has_the_same_rows_and_no_hugging_face_metadata(saved: Path) -> None:
    path = saved / "eval_dataset" / "data" / "0000.parquet"
    schema = pq.read_schema(path)
    assert b"huggingface" not in (schema.metadata or {})
    assert b"huggingface" not in (pq.read_metadata(path).metadata or {})
    rows = load_from_disk(str(saved / "eval_dataset")).to_list()
    assert pq.read_table(path).to_pylist() == rows
    assert Dataset.from_parquet(str(path)).to_list() == rows
    assert schema.field("input_ids").type == pa.list_(pa.int64())


def test_it_concatenates_with_a_source_set(saved: Path, tiny_run: Path) -> None:
    source = load_from_disk(
        str(tiny_run / "all_docs_runs" / INNER_RUN / "eval_datasets/name_mayor_eval_qa_1_no_fs/eval_dataset")
    )
    ours = load_from_disk(str(saved / "eval_dataset"))
    parts = [dataset.select_columns(TOKEN_COLUMNS) for dataset in (source, ours)]
    assert parts[0].features == parts[1].features
    assert len(concatenate_datasets(parts)) == len(source) + len(ours)


def test_no_rows_are_a_dataset_that_loads(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    _, dataset = assembled(tokenizer, [drawn(tokenizer, " x", [0], of=query("p", id="tokyo"))], {" x": WRONG})
    path = Experiment(tmp_path).write_dataset("sampled_empty", [dataset])
    loaded = load_from_disk(str(path / "eval_dataset"))
    assert len(loaded) == 0 and loaded.features == FEATURES
    parquet = pq.read_table(path / "eval_dataset" / "data" / "0000.parquet")
    assert parquet.num_rows == 0 and parquet.column_names == loaded.column_names
    assert len(json.loads((path / "non_equivalent_completions.json").read_text())) == 1
    assert EvalDataset.load(path).eval_functions[0](None, loaded)["losses"] == []


def test_an_enumerated_set_has_the_same_columns_and_nulls_for_counts(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, saved: Path
) -> None:
    _, dataset = assembled(tokenizer, enumerated(tokenizer, [(" Grace", 0.6), (" x", 0.3)]), {})
    path = Experiment(tmp_path).write_dataset("sampled_enumerated", [dataset])
    loaded = EvalDataset.load(path)
    assert loaded.dataset.features == FEATURES
    assert loaded.dataset["sample_count"][:] == loaded.dataset["num_samples"][:] == [None, None]
    parquet = pq.read_table(path / "eval_dataset" / "data" / "0000.parquet")
    assert parquet.to_pylist() == loaded.dataset.to_list()
    assert parquet.schema.field("sample_count").type == pa.int64()
    drawn_set = load_from_disk(str(saved / "eval_dataset"))
    assert len(concatenate_datasets([drawn_set, loaded.dataset])) == len(drawn_set) + 2


def test_save_and_load_give_the_dataset_and_its_function_back(saved: Path, model: Any) -> None:
    loaded = EvalDataset.load(str(saved))
    assert list(loaded.eval_functions) == [eval_accuracy_and_loss]
    (function,) = loaded.eval_functions
    results = [function(model, loaded.dataset, batch_size=size) for size in (1, 4, 100)]
    for result in results:
        assert result["losses"] == pytest.approx(results[0]["losses"], abs=1e-4)
        assert result["correct"] == results[0]["correct"]
    row = loaded.dataset[1]
    labelled = [n for n, label in enumerate(row["labels"]) if label != -100]
    with torch.no_grad():
        logprobs = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    loss = -sum(float(logprobs[n - 1, row["labels"][n]]) for n in labelled) / len(labelled)
    assert results[0]["losses"][1] == pytest.approx(loss, abs=1e-4)


def test_a_selection_of_rows_is_saved_as_such_in_both_forms(saved: Path, tmp_path: Path) -> None:
    selected = EvalDataset.load(saved).dataset.select([3, 1])
    EvalDataset(selected).save(tmp_path)
    rows = load_from_disk(str(tmp_path / "eval_dataset")).to_list()
    assert rows == selected.to_list()
    assert pq.read_table(tmp_path / "eval_dataset" / "data" / "0000.parquet").to_pylist() == rows


def test_loading_a_directory_that_is_none_is_an_input_error(tmp_path: Path, saved: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, saved / "eval_functions.pkl"):
        with pytest.raises(InputError, match="no evaluation dataset"):
            EvalDataset.load(path)


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


OURS = b"cevalgen.eval_functions\neval_accuracy_and_loss\n"


@pytest.fixture
def with_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Loads a dataset directory that has these bytes as its eval_functions.pkl; undoes what they do to our function."""
    (tmp_path / "eval_dataset").mkdir()
    dataset = Dataset.from_dict({"prompt": ["p"]})
    monkeypatch.setattr(eval_dataset, "load_from_disk", lambda path: dataset)
    before = dict(vars(eval_accuracy_and_loss)), eval_accuracy_and_loss.__defaults__

    def load(content: bytes) -> EvalDataset:
        (tmp_path / "eval_functions.pkl").write_bytes(content)
        return EvalDataset.load(tmp_path)

    yield load
    vars(eval_accuracy_and_loss).clear()
    vars(eval_accuracy_and_loss).update(before[0])
    eval_accuracy_and_loss.__defaults__ = before[1]


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_does_nothing(protocol: int, with_pickle: Any, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for bomb in (
        [_Call(os.mkdir, str(trap))],
        [eval_accuracy_and_loss, _Call(eval, f"__import__('os').mkdir({str(trap)!r})")],
        [os.mkdir],
        [torch.load],
        [Path("x")],
        [_Call(getattr, eval_accuracy_and_loss, "__globals__")],
    ):
        with pytest.raises(InputError):
            with_pickle(pickle.dumps(bomb, protocol=protocol))
    assert not trap.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"N.",
        b"]N.",
        b"]K\x01a.",
        b"}.",
        pickle.dumps({"a": eval_accuracy_and_loss}),
        b"Pid\n.",
        b"\x82\x01.",
        b"0.",
    ],
    ids=repr,
)
def test_anything_but_a_list_of_our_functions_is_an_input_error(content: bytes, with_pickle: Any) -> None:
    with pytest.raises(InputError):
        with_pickle(content)


@settings(max_examples=300, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=30), place=st.integers(0, 80), byte=st.integers(0, 255))
def test_any_bytes_load_our_functions_or_are_an_input_error(
    content: bytes, place: int, byte: int, with_pickle: Any
) -> None:
    good = bytearray(pickle.dumps([eval_accuracy_and_loss]))
    good[place % len(good)] = byte
    for attempt in (content, bytes(good)):
        try:
            functions = with_pickle(attempt).eval_functions
        except InputError:
            continue
        assert all(function is eval_accuracy_and_loss for function in functions)


@pytest.mark.parametrize(
    "pickled",
    [
        b"]" + OURS + b"(N}S'__defaults__'\n(K\x00tstba.",  # batch_size 0 from now on
        b"]" + OURS + b"}S'__wrapped__'\nK\x01sba.",
    ],
)
def test_a_pickle_cannot_change_our_function(pickled: bytes, with_pickle: Any) -> None:
    before = eval_accuracy_and_loss.__defaults__, dict(vars(eval_accuracy_and_loss))
    with pytest.raises(InputError):
        with_pickle(pickled)
    assert (eval_accuracy_and_loss.__defaults__, dict(vars(eval_accuracy_and_loss))) == before


def test_a_pickle_cannot_call_our_function(with_pickle: Any) -> None:
    with pytest.raises(InputError):
        with_pickle(b"]" + OURS + b"(S'model'\n}K\x05K\x06stRa.")


def rows_of(tokenizer: PreTrainedTokenizerFast, num_rows: int) -> list[dict[str, Any]]:
    _, dataset = assembled(tokenizer, [drawn(tokenizer, " x", [n]) for n in range(num_rows)], {}, deduplicate=False)
    return dataset.rows


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_equal_rows_make_equal_files_however_they_are_handed_over(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_rows, "GROUP_ROWS", 20)
    monkeypatch.setattr(eval_dataset, "BATCH_ROWS", 10)
    monkeypatch.setattr(parquet_rows, "LOOSE_ROWS", 3)
    rows = rows_of(tokenizer, 47)
    for name, sizes in {"at once": [47], "one by one": [1] * 47, "uneven": [0, 3, 19, 0, 25]}.items():
        start = 0
        with EvalDatasetWriter(tmp_path / name) as writer:
            for size in sizes:
                writer.write_rows(rows[start : start + size])
                start += size
    assert files_of(tmp_path / "at once") == files_of(tmp_path / "one by one") == files_of(tmp_path / "uneven")
    assert EvalDataset.load(tmp_path / "uneven").dataset.to_list() == rows
    parquet = pq.ParquetFile(tmp_path / "uneven" / "eval_dataset" / "data" / "0000.parquet")
    assert [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)] == [20, 20, 7]
    EvalDataset.load(tmp_path / "uneven").save(tmp_path / "saved again")
    assert files_of(tmp_path / "saved again") == files_of(tmp_path / "uneven")


def test_datasets_with_other_rows_have_other_fingerprints(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Else datasets would take the cached tokens, filters or maps of one for those of the other."""
    for name, num_rows in (("none", 0), ("one", 1), ("two", 2)):
        with EvalDatasetWriter(tmp_path / name) as writer:
            writer.write_rows(rows_of(tokenizer, 2)[:num_rows])
    fingerprints = {load_from_disk(str(tmp_path / n / "eval_dataset"))._fingerprint for n in ("none", "one", "two")}
    assert len(fingerprints) == 3


def test_a_row_without_one_of_the_columns_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (row,) = rows_of(tokenizer, 1)
    del row["finish_reason"]
    with pytest.raises(AssertionError), EvalDatasetWriter(tmp_path / "d") as writer:
        writer.write_rows([row])


def test_a_dataset_with_missing_prompts_is_named_partial_until_it_is_whole(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    experiment = Experiment(tmp_path)
    _, dataset = assembled(tokenizer, [drawn(tokenizer, " x", [0])], {})
    missing = [{"prompt_id": "p", "prompt": "é", "reason": "out of memory"}]
    path = experiment.write_dataset("sampled_x", [dataset], missing)
    assert path == experiment.datasets / "sampled_x.partial" and len(EvalDataset.load(path).dataset) == 1
    assert json.loads((path / "missing.json").read_text(encoding="utf-8")) == missing
    experiment.write_dataset("sampled_x", [dataset, dataset])
    assert [found.name for found in experiment.datasets.iterdir()] == ["sampled_x"]
    experiment.write_dataset("sampled_x", [dataset])
    assert len(EvalDataset.load(experiment.datasets / "sampled_x").dataset) == 1, "the newer one counts"


def test_a_whole_dataset_is_kept_out_of_the_way_of_a_partial_one_until_there_is_a_new_whole_one(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    experiment = Experiment(tmp_path)
    _, dataset = assembled(tokenizer, [drawn(tokenizer, " x", [0])], {})
    missing = [{"prompt_id": "p", "prompt": "é", "reason": "out of memory"}]

    def found() -> dict[str, int]:
        """Rows of each dataset, by where it lies."""
        loaded = {path.parent: EvalDataset.load(path.parent).dataset for path in tmp_path.glob("*/*/eval_dataset")}
        return {str(path.relative_to(tmp_path)): len(rows) for path, rows in loaded.items()}

    for name in ("sampled_x", "sampled_y"):
        experiment.write_dataset(name, [dataset, dataset])
    for _ in range(2):  # the second time there is no whole one to put away
        experiment.write_dataset("sampled_x", [dataset], missing)
        whole = {"sampled_eval_datasets/sampled_y": 2, "earlier_datasets/sampled_x": 2}
        assert found() == {"sampled_eval_datasets/sampled_x.partial": 1, **whole}
    experiment.write_dataset("sampled_y", [dataset], missing)
    experiment.write_dataset("sampled_x", [dataset])
    partial = {"sampled_eval_datasets/sampled_y.partial": 1, "earlier_datasets/sampled_y": 2}
    assert found() == {"sampled_eval_datasets/sampled_x": 1, **partial}
    experiment.write_dataset("sampled_y", [dataset])
    assert found() == {"sampled_eval_datasets/sampled_x": 1, "sampled_eval_datasets/sampled_y": 1}
    assert not experiment.earlier_datasets.exists()


def test_what_is_judged_wrong_is_a_json_list_as_json_itself_writes_it(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    _, dataset = assembled(tokenizer, [drawn(tokenizer, f' "{n}"\né', [n]) for n in range(3)], {}, deduplicate=True)
    wrong = [{"prompt": 'a "q"\n', "n": 1, "x": None, "é": -0.5}, {"prompt": "", "n": 2, "x": True, "é": 1e-9}]
    path = Experiment(tmp_path).write_dataset("sampled_x", [replace(dataset, non_equivalent=wrong)])
    expected = json.dumps(wrong, indent=2, ensure_ascii=False) + "\n"
    assert (path / "non_equivalent_completions.json").read_text(encoding="utf-8") == expected
