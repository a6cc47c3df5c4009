"""Exports hold the dataset's rows in another form, whole or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, List, Value, concatenate_datasets, load_from_disk

from evalgen import export as export_module
from evalgen.errors import InputError
from evalgen.eval_dataset import FEATURES, EvalDataset
from evalgen.eval_functions import eval_accuracy_and_loss
from evalgen.export import JSONL_FILE, TOKEN_COLUMNS, Export, export_dataset
from ray_jobs.export_dataset import main
from tests.unit.sampled_experiment import sampled_experiment
from tests.unit.tampering import Touched
from tests.unit.test_eval_dataset import files_of
from tests.unit.tiny import INNER_RUN, PAD

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Touched(sampled_experiment(tiny_run, tmp_path_factory.mktemp("sampled"))).directory


def rows_of(directory: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = EvalDataset.load(directory).dataset.to_list()
    return rows


def unpadded(row: dict[str, Any]) -> dict[str, Any]:
    length = sum(row["attention_mask"])
    return row | {name: row[name][:length] for name in TOKEN_COLUMNS}


@pytest.mark.parametrize("max_length", [None, 64])
def test_padded_rows_have_one_length_and_are_the_same_without_their_padding(
    max_length: int | None, source: Path, tmp_path: Path
) -> None:
    rows = rows_of(source)
    num = export_dataset(source, tmp_path / "padded", Export(form="padded", max_length=max_length, pad_id=PAD))
    padded = rows_of(tmp_path / "padded")
    length = max_length or max(len(row["input_ids"]) for row in rows)
    assert num == len(rows) == len(padded)
    assert {len(row[name]) for row in padded for name in TOKEN_COLUMNS} == {length}
    assert [unpadded(row) for row in padded] == rows
    for row in padded:
        num_padded = row["attention_mask"].count(0)
        assert row["input_ids"][length - num_padded :] == [PAD] * num_padded
        assert row["labels"][length - num_padded :] == [-100] * num_padded
    assert pq.read_table(tmp_path / "padded/eval_dataset/data/0000.parquet").to_pylist() == padded


def test_a_padded_copy_is_evaluated_as_the_dataset_is(source: Path, tmp_path: Path, model: Any) -> None:
    export_dataset(source, tmp_path / "padded", Export(form="padded"))
    found, expected = (
        eval_accuracy_and_loss(model, EvalDataset.load(path).dataset) for path in (tmp_path / "padded", source)
    )
    assert found["logprobs"] == pytest.approx(expected["logprobs"], abs=1e-4)


def test_a_row_that_is_too_long_is_refused_and_nothing_is_left(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has \d+ tokens, more than 12"):
        export_dataset(source, tmp_path / "padded", Export(form="padded", max_length=12))
    assert list(tmp_path.iterdir()) == []


def test_three_columns_concatenate_with_a_source_set(source: Path, tiny_run: Path, tmp_path: Path) -> None:
    export_dataset(source, tmp_path / "three", Export(form="three_column"))
    loaded = EvalDataset.load(tmp_path / "three").dataset
    assert loaded.column_names == list(TOKEN_COLUMNS)
    assert loaded.to_list() == [{name: row[name] for name in TOKEN_COLUMNS} for row in rows_of(source)]
    sets = tiny_run / "all_docs_runs" / INNER_RUN / "eval_datasets"
    theirs = load_from_disk(str(sets / "name_mayor_eval_qa_1_no_fs" / "eval_dataset")).select_columns(TOKEN_COLUMNS)
    assert theirs.features == loaded.features and concatenate_datasets([theirs, loaded])


def test_json_lines_have_every_column_and_character(source: Path, tmp_path: Path) -> None:
    export_dataset(source, tmp_path / "lines", Export(form="jsonl"))
    content = (tmp_path / "lines" / JSONL_FILE).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in content.splitlines()]
    assert rows == rows_of(source) and list(rows[0]) == list(FEATURES)
    assert "São Paulo" in content, "not as escapes"


def test_a_copy_for_datasets_3_names_no_type_that_it_lacks_and_has_the_same_rows(source: Path, tmp_path: Path) -> None:
    export_dataset(source, tmp_path / "older", Export(form="datasets3"))
    path = tmp_path / "older" / "eval_dataset"
    features = json.loads((path / "dataset_info.json").read_text(encoding="utf-8"))["features"]
    with pa.memory_map(str(path / "data-00000-of-00001.arrow")) as file, pa.ipc.open_stream(file) as stream:
        in_arrow = json.loads(stream.schema.metadata[b"huggingface"])["info"]["features"]
        table = stream.read_all()
    assert features == in_arrow and list(in_arrow) == list(FEATURES)
    assert features["input_ids"] == {"_type": "Sequence", "feature": {"_type": "Value", "dtype": "int64"}}
    assert '"List"' not in json.dumps([features, in_arrow])
    assert table.to_pylist() == rows_of(source) == rows_of(tmp_path / "older")
    loaded = load_from_disk(str(path))
    assert loaded.features == FEATURES and loaded.features["labels"] == List(Value("int64")), "later ones read it too"
    assert loaded._fingerprint != load_from_disk(str(source / "eval_dataset"))._fingerprint


@pytest.mark.parametrize("form", ["padded", "three_column", "jsonl", "datasets3"])
def test_an_export_does_not_depend_on_how_rows_are_read(
    form: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, batch_rows in (("large", 1000), ("small", 7)):
        monkeypatch.setattr(export_module, "BATCH_ROWS", batch_rows)
        export_dataset(source, tmp_path / name, Export(form=form))
    assert files_of(tmp_path / "small") == files_of(tmp_path / "large")


@pytest.mark.parametrize("form", ["padded", "three_column", "jsonl", "datasets3"])
def test_a_dataset_without_rows_has_every_form(form: Any, source: Path, tmp_path: Path) -> None:
    EvalDataset(EvalDataset.load(source).dataset.select([])).save(tmp_path / "empty")
    assert export_dataset(tmp_path / "empty", tmp_path / "out", Export(form=form)) == 0
    if form != "jsonl":
        assert rows_of(tmp_path / "out") == []


def test_what_is_no_dataset_of_ours_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no eval_dataset/"):
        export_dataset(tmp_path, tmp_path / "out", Export(form="jsonl"))
    Dataset.from_dict({"id": ["a"], "input_ids": [[1]]}).save_to_disk(str(tmp_path / "eval_dataset"))
    with pytest.raises(InputError, match="lacks labels, attention_mask"):
        export_dataset(tmp_path, tmp_path / "out", Export(form="jsonl"))
    shutil.rmtree(tmp_path / "eval_dataset")
    (tmp_path / "eval_dataset").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        export_dataset(tmp_path, tmp_path / "out", Export(form="jsonl"))
    assert not (tmp_path / "out").exists()


def test_the_command_pads_with_the_tokenizers_id_and_says_what_it_wrote(
    source: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tiny_run / "all_docs_runs" / INNER_RUN / "tokenizer.json"
    output = tmp_path / "deeper" / "padded"
    flags = [str(source), "--to=padded", f"--output={output}", f"--tokenizer={tokenizer}", "--max-length=64"]
    before = files_of(source)
    assert main(flags) == 0
    assert f"{len(rows_of(source))} rows: {output}" in capsys.readouterr().out
    assert all(row["input_ids"][-1] == PAD for row in rows_of(output))
    assert files_of(source) == before, "the dataset stays as it is"
    assert main(flags) == 2 and "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--to=jsonl", "--output=out"], "directory: missing"),
        (["{source}", "--output=out"], "to: missing"),
        (["{source}", "--to=jsonl"], "output: missing"),
        (["{source}", "--to=csv", "--output=out"], "to: found 'csv'"),
        (["{source}", "--to=jsonl", "--output=out", "--max_length=9"], "pads nothing"),
        (["{source}", "--to=padded", "--output=out", "--max_length=0"], "max_length: found '0'"),
        (["{source}", "--to=padded", "--output=out", "--max_length=9"], "more than 9"),
        (["{source}", "--to=jsonl", "--output={source}/out"], "lies in the dataset itself"),
        (["nowhere", "--to=jsonl", "--output=out"], "has no eval_dataset/"),
        (["{source}", "--to=jsonl", "--output=out", "--shards=3"], "unknown flag --shards"),
    ],
)
def test_wrong_input_is_one_line_and_makes_nothing(
    flags: list[str], problem: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    before = files_of(source)
    assert main([flag.format(source=source) for flag in flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and problem in line
    assert list(tmp_path.iterdir()) == [] and files_of(source) == before


def test_help_is_printed_without_a_heavy_import() -> None:
    code = (
        "import sys\nfrom ray_jobs.export_dataset import main\ntry:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'ray', 'torch', 'datasets', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for flag in ("--to", "--output", "--max_length", "three_column"):
        assert flag in done.stdout
