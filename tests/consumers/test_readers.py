"""Every reader sees the same rows, in the same types, as are in the Arrow file."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pyarrow as pa
import pytest

from evalgen.dataset_files import CARD_FILE
from evalgen.eval_dataset import ARROW_FILE
from ray_jobs.export_dataset import main as export_dataset
from tests.consumers.conftest import Sampled
from tests.consumers.environments import PROJECT, python_of
from tests.consumers.processes import run, run_program
from tests.unit.test_card import blocks

PARQUET = "eval_dataset/data/0000.parquet"


def stored(sampled: Sampled) -> pa.Table:
    with pa.ipc.open_stream(sampled.directory / "eval_dataset" / ARROW_FILE) as stream:
        return stream.read_all()


def plain(of: pa.DataType) -> object:
    """A type without what differs between readers and means nothing: 64-bit offsets, names of list items."""
    if pa.types.is_struct(of):
        return {field.name: plain(field.type) for field in of}
    if pa.types.is_list(of) or pa.types.is_large_list(of):
        return [plain(of.value_type)]
    return "string" if pa.types.is_large_string(of) else str(of)


@pytest.fixture(scope="module", params=["sampled", "nested"])
def read(request: pytest.FixtureRequest) -> Sampled:
    found: Sampled = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(
    ("environment", "reader", "source"),
    [
        (PROJECT, "datasets_from_disk", "eval_dataset"),
        (PROJECT, "datasets_from_parquet", PARQUET),
        (PROJECT, "pandas", PARQUET),
        (PROJECT, "ray_data", PARQUET),
        ("datasets3", "datasets_from_parquet", PARQUET),
        ("duckdb", "duckdb", PARQUET),
    ],
)
def test_a_reader_sees_every_row_as_it_is_stored(
    environment: str, reader: str, source: str, read: Sampled, tmp_path: Path
) -> None:
    target = tmp_path / "seen.arrow"
    run_program(environment, "read_rows", reader, read.directory / source, target, home=tmp_path)
    assert_as_stored(target, read)


def test_datasets_3_loads_an_exported_copy(read: Sampled, tmp_path: Path) -> None:
    copy, target = tmp_path / "copy", tmp_path / "seen.arrow"
    assert export_dataset([str(read.directory), "--to", "datasets3", "--output", str(copy)]) == 0
    run_program("datasets3", "read_rows", "datasets_from_disk", copy / "eval_dataset", target, home=tmp_path)
    assert_as_stored(target, read)


@pytest.mark.parametrize("read", ["nested"], indirect=True)
@pytest.mark.parametrize(("library", "environment"), [("duckdb", "duckdb"), ("ray", PROJECT)])
def test_what_the_card_says_to_type_shows_the_rows(
    library: str, environment: str, read: Sampled, tmp_path: Path
) -> None:
    """Typed beside the dataset, as the card has it; both print five of the rows."""
    card = (read.directory / CARD_FILE).read_text(encoding="utf-8")
    (snippet,) = (code for code in blocks(card, "python") if code.startswith(f"import {library}\n"))
    (tmp_path / "typed.py").write_text(snippet, encoding="utf-8")
    printed = run([python_of(environment), tmp_path / "typed.py"], home=tmp_path, inside=read.directory.parent)
    (answer,) = (line for line in printed.splitlines() if line.startswith("["))
    shown = [tuple(row.values() if isinstance(row, dict) else row) for row in ast.literal_eval(answer)]
    rows = [(row["prompt"], row["completion"], row["weight"]) for row in read.rows]
    assert len(shown) == 5
    if library == "ray":
        assert shown == rows[:5]
    else:
        assert set(shown) <= set(rows)
        assert [weight for *_, weight in shown] == sorted((weight for *_, weight in rows), reverse=True)[:5]


def assert_as_stored(seen_file: Path, sampled: Sampled) -> None:
    with pa.ipc.open_file(seen_file) as file:
        seen = file.read_all()
    expected = stored(sampled)
    assert len(expected) > 0
    assert {field.name: plain(field.type) for field in seen.schema} == {
        field.name: plain(field.type) for field in expected.schema
    }
    assert seen.column_names == expected.column_names
    assert seen.to_pylist() == expected.to_pylist()


def query(sql: str, sampled: Sampled, work_dir: Path) -> list[list[object]]:
    """The rows that DuckDB answers with; `{rows}`, `{prompts}` and `{rejects}` in `sql` stand for the files."""
    target = work_dir / "answer.json"
    files = {
        "rows": PARQUET,
        "prompts": "prompts.parquet",
        "rejects": "non_equivalent_completions.parquet",
    }
    tables = {name: f"read_parquet('{sampled.directory / file}')" for name, file in files.items()}
    run_program("duckdb", "answer_query", sql.format(**tables), target, home=work_dir)
    answer: list[list[object]] = json.loads(target.read_text())
    return answer


def test_sql_finds_that_the_weights_of_every_prompt_sum_to_one(read: Sampled, tmp_path: Path) -> None:
    sums = query("SELECT prompt_id, sum(weight) FROM {rows} GROUP BY prompt_id", read, tmp_path)
    assert {prompt_id for prompt_id, _ in sums} == set(read.rows["prompt_id"])
    assert [total for _, total in sums] == pytest.approx([1.0] * len(sums), abs=1e-9)


def test_sql_joins_rows_and_rejects_with_the_counts_of_their_prompts(sampled: Sampled, tmp_path: Path) -> None:
    counts = query(
        """
        WITH kept AS (SELECT prompt_id, sum(sample_count)::BIGINT AS draws, count(*) AS n FROM {rows} GROUP BY ALL),
        rejected AS (SELECT prompt_id, sum(sample_count)::BIGINT AS draws FROM {rejects} GROUP BY ALL)
        SELECT num_draws, kept.draws, rejected.draws, equivalent_draw_share, num_variations, kept.n
        FROM {prompts} JOIN kept USING (prompt_id) LEFT JOIN rejected USING (prompt_id)
        """,
        sampled,
        tmp_path,
    )
    assert counts
    for num_draws, kept, rejected, equivalent_share, num_variations, num_rows in counts:
        assert kept + (rejected or 0) == num_draws
        assert equivalent_share == pytest.approx(kept / num_draws)
        assert num_variations == num_rows
