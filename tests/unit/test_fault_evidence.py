"""By what the fault matrix tells two experiments apart: everything that a dataset holds, but for rounding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalgen.dataset_files import LEFT_OUT_FILE, PROMPTS_FILE, REJECTS_FILE
from evalgen.experiment import Experiment
from tests.faults.evidence import difference
from tests.unit.sampled_experiment import sampled_experiment
from tests.unit.tampering import Rows, Touched

JSON_FILE = "non_equivalent_completions.json"


@pytest.fixture(scope="module")
def sampled(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    experiment = sampled_experiment(tiny_run, tmp_path_factory.mktemp("sampled"))
    directory = Touched(experiment).directory
    assert all((directory / file).exists() for file in (LEFT_OUT_FILE, PROMPTS_FILE, REJECTS_FILE, JSON_FILE))
    return experiment


@pytest.fixture
def touched(sampled: Experiment, tmp_path: Path) -> Touched:
    return Touched(Experiment(shutil.copytree(sampled.directory, tmp_path / "copy")))


def _change_json(it: Touched, file: str, change: Callable[[Rows], None]) -> None:
    rows = json.loads((it.directory / file).read_text(encoding="utf-8"))
    change(rows)
    (it.directory / file).write_text(json.dumps(rows), encoding="utf-8")


def _add(name: str, amount: float) -> Callable[[Rows], None]:
    """To the first number of that name."""

    def change(rows: Rows) -> None:
        row = next(row for row in rows if row[name] is not None)
        row[name] += amount

    return change


def _times(name: str, factor: float) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        next(row for row in rows if row[name])[name] *= factor

    return change


def _first_token(amount: float) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[0]["token_logprobs"][0] += amount

    return change


def _shorter(rows: Rows) -> None:
    rows[0]["token_logprobs"].pop()


def _set(**columns: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[0].update(columns)


def in_rows(change: Callable[[Rows], None]) -> Callable[[Touched], None]:
    return lambda it: it.change_rows(change)


def in_table(file: str, change: Callable[[Rows], None]) -> Callable[[Touched], None]:
    return lambda it: it.change_table(it.directory / file, change)


def in_json(file: str, change: Callable[[Rows], None]) -> Callable[[Touched], None]:
    return lambda it: _change_json(it, file, change)


def test_an_experiment_and_its_copy_do_not_differ(sampled: Experiment, touched: Touched) -> None:
    assert difference(sampled.directory, touched.experiment.directory) == ""


@pytest.mark.parametrize(
    "change",
    [
        in_rows(_add("logprob", 5e-5)),
        in_rows(_first_token(5e-5)),
        in_rows(_times("weight", 1 + 1e-4)),
        in_table(PROMPTS_FILE, _times("equivalent_mass", 1 + 1e-4)),
        in_table(REJECTS_FILE, _add("logprob_sampling", 5e-5)),
        in_json(JSON_FILE, _add("logprob", 5e-5)),
    ],
)
def test_rounding_of_log_probs_and_of_what_is_computed_from_them_is_no_difference(
    change: Callable[[Touched], None], sampled: Experiment, touched: Touched
) -> None:
    change(touched)
    assert difference(sampled.directory, touched.experiment.directory) == ""


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (in_rows(_add("logprob", 2e-4)), "logprob"),
        (in_rows(_first_token(2e-4)), "token_logprobs/0"),
        (in_rows(_shorter), "token_logprobs"),
        (in_rows(_set(logprob=None)), "logprob"),
        (in_rows(_times("weight", 1 + 1e-3)), "weight"),
        (lambda it: it.change_table(it.parquet, _times("weight", 1 + 1e-3)), "0000.parquet/"),
        (in_table(PROMPTS_FILE, _times("semantic_entropy", 1 + 1e-9)), "semantic_entropy"),
        (in_table(PROMPTS_FILE, _times("equivalent_draw_share", 1 + 1e-9)), "equivalent_draw_share"),
        (in_table(PROMPTS_FILE, _times("equivalent_mass", 1 + 1e-3)), "equivalent_mass"),
        (in_table(PROMPTS_FILE, _set(greedy_verdict="ungraded")), "greedy_verdict"),
        (in_table(REJECTS_FILE, _set(grader_reasoning="other")), "grader_reasoning"),
        (in_table(REJECTS_FILE, lambda rows: rows[0].update(weight=0.0)), "weight"),
        (in_json(JSON_FILE, _set(reasoning="other")), "reasoning"),
        (in_json(LEFT_OUT_FILE, _set(reason="other")), "reason"),
        (in_json(LEFT_OUT_FILE, lambda rows: rows.pop()), LEFT_OUT_FILE),
        (lambda it: (it.directory / LEFT_OUT_FILE).unlink(), "files"),
        (lambda it: (it.directory / "eval_dataset" / "more").touch(), "files"),
    ],
)
def test_whatever_else_differs_is_found_and_said(
    change: Callable[[Touched], None], where: str, sampled: Experiment, touched: Touched
) -> None:
    change(touched)
    assert where in difference(sampled.directory, touched.experiment.directory)


def test_parquet_files_of_a_dataset_are_all_read(touched: Touched) -> None:
    """So that a file that is there and cannot be read is no silent pass."""
    path = touched.directory / PROMPTS_FILE
    assert pq.read_metadata(path).num_rows
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(pa.ArrowInvalid, match="Parquet"):
        difference(touched.experiment.directory, touched.experiment.directory)
