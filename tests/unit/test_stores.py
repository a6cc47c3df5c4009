"""Files, stored units and verdicts: whole or absent, durable at once, and a cache that never fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalgen import files
from evalgen.files import whole_directory, write_bytes, write_parquet, write_text
from evalgen.records import Answer, GraderSpec, Question, Verdict
from evalgen.unit_store import SamplingCost, load_units, save_unit
from evalgen.verdict_store import VERDICTS_SCHEMA, VerdictStore, load_verdicts, verdict_from_row

GRADER = GraderSpec(model="anthropic/x", instructions="i", options={"b": True, "a": False})
COST = SamplingCost(
    model_evaluations=3, distinct_prefixes=2, out_of_memory_halvings=1, load_s=0.5, sample_s=0.25, finished_at=1e9
)


def question(completion: str = " São\n\ufffd", **changed: str) -> Question:
    return Question(**{"grader": GRADER, "prompt": "p", "reference": " r", "completion": completion, **changed})  # type: ignore[arg-type]


def answer(completion: str = " c", kind: Any = "equivalent", **changed: Any) -> Answer:
    return Answer(question=question(completion), verdict=Verdict(kind=kind, **changed))


def store_of(directory: Path, *answers: Answer) -> Path:
    store = VerdictStore(directory)
    store.add(answers)
    store.close()
    return directory / "0000.parquet"


def test_a_crash_in_the_block_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_directory(tmp_path / "d") as directory:
        (directory / "half").write_text("x")
        raise RuntimeError
    assert not (tmp_path / "d").exists()
    with whole_directory(tmp_path / "d") as directory:
        assert not (directory / "half").exists(), "what a crash left is not taken over"
        assert not (tmp_path / "d").exists()
        (directory / "whole").write_text("y")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["whole"]
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_text(path, "old é")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_text(encoding="utf-8") == "old é"
    monkeypatch.undo()
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_what_was_added_is_in_the_journal_when_the_process_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from evalgen.verdict_store import VerdictStore
from tests.unit.test_stores import answer
store = VerdictStore(Path({str(tmp_path)!r}))
store.add([answer(' one'), answer(' two', 'ungraded', error='e')])
store.add([answer(' São\\n')])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    rows = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [row["completion"] for row in rows] == [" one", " two", " São\n"]
    assert [row["key"] for row in rows] == [question(row["completion"]).key for row in rows]
    assert not list(tmp_path.glob("*.parquet"))
    assert pa.Table.from_pylist(rows, schema=VERDICTS_SCHEMA).num_rows == 3


def test_verdicts_come_back_as_they_were(tmp_path: Path) -> None:
    verdicts = [
        Verdict(
            kind="equivalent",
            trimmed_completion=" S",
            reasoning="é",
            api_calls=1,
            input_tokens=2,
            output_tokens=3,
            cost_usd=0.5,
        ),
        Verdict(kind="not_equivalent", cost_usd=None),
        Verdict(kind="ungraded", error="overloaded", api_calls=9),
    ]
    answers = [Answer(question=question(f" {n}"), verdict=v, from_cache=n == 1) for n, v in enumerate(verdicts)]
    store_of(tmp_path, *answers)
    rows = load_verdicts(tmp_path)
    assert [verdict_from_row(rows[a.question.key]) for a in answers] == verdicts
    assert [rows[a.question.key]["from_cache"] for a in answers] == [False, True, False]
    assert not (tmp_path / "journal.jsonl").exists()
    assert pq.read_schema(tmp_path / "0000.parquet").remove_metadata() == VERDICTS_SCHEMA


def test_a_question_answered_twice_keeps_its_first_verdict_and_both_costs(tmp_path: Path) -> None:
    """Two graders asked at once, or one died after it had stored its verdict."""
    store = VerdictStore(tmp_path)
    store.add([answer(" b", api_calls=1, cost_usd=0.5), answer(" a", "ungraded", api_calls=2, cost_usd=0.25)])
    assert store.known(question(" b")) is not None
    assert store.known(question(" a")) is None, "what got no verdict is to be asked again"
    store.add([answer(" b", "not_equivalent", api_calls=1, cost_usd=0.5), answer(" a", api_calls=1, cost_usd=0.25)])
    store.close()
    rows = pq.read_table(tmp_path / "0000.parquet").to_pylist()
    assert [(row["completion"], row["verdict"]) for row in rows] == [(" a", "equivalent"), (" b", "equivalent")]
    assert [(row["api_calls"], row["cost_usd"]) for row in rows] == [(3, 0.5), (2, 1.0)]


def test_the_cache_holds_what_was_graded_and_costs_nothing(tmp_path: Path) -> None:
    earlier = store_of(tmp_path / "1", answer(" a", api_calls=1, cost_usd=0.5), answer(" b", "ungraded", error="e"))
    store = VerdictStore(tmp_path / "2", [earlier])
    assert store.known(question(" a")) == Verdict(kind="equivalent")
    assert store.known(question(" b")) is None and store.known(question(" c")) is None
    store.close()


@pytest.mark.parametrize("changed", ["prompt", "reference", "completion"])
def test_a_verdict_is_of_one_question_only(changed: str, tmp_path: Path) -> None:
    store = VerdictStore(tmp_path / "2", [store_of(tmp_path / "1", answer(" c"))])
    assert store.known(question(" c")) is not None
    assert store.known(replace(question(" c"), **{changed: " other"})) is None
    for grader in (
        replace(GRADER, model="anthropic/y"),
        replace(GRADER, instructions="j"),
        replace(GRADER, options={"a": True}),
    ):
        assert store.known(replace(question(" c"), grader=grader)) is None
    assert store.known(replace(question(" c"), grader=replace(GRADER, options={"a": False, "b": True}))) is not None


def test_unreadable_cache_files_are_passed_over(tmp_path: Path) -> None:
    good = store_of(tmp_path / "1", answer(" a"))
    bad = {
        name: tmp_path / f"{name}.parquet" for name in ("empty", "garbage", "cut", "columns", "missing", "directory")
    }
    bad["empty"].write_bytes(b"")
    bad["garbage"].write_bytes(os.urandom(100))
    bad["cut"].write_bytes(good.read_bytes()[:-20])
    write_parquet(bad["columns"], pa.table({"key": ["x"]}))
    bad["directory"].mkdir()
    store = VerdictStore(tmp_path / "2", [*bad.values(), good, *bad.values()])
    assert store.known(question(" a")) is not None
    store.close()


@pytest.mark.parametrize(("key", "kind"), [(None, None), (None, "maybe"), (None, 1), (["a list"], "equivalent")])
def test_a_cache_file_with_other_values_is_passed_over(key: Any, kind: Any, tmp_path: Path) -> None:
    row = {"key": key or question(" a").key, "verdict": kind, "trimmed_completion": None, "reasoning": ""}
    write_parquet(tmp_path / "odd.parquet", pa.Table.from_pylist([row]))
    store = VerdictStore(tmp_path / "2", [tmp_path / "odd.parquet"])
    assert store.known(question(" a")) is None


def test_units_come_back_in_the_order_asked_with_their_costs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_unit(tmp_path, name, pa.table({"x": [name]}), replace(COST, load_s=float(ord(name))))
    table, costs = load_units(tmp_path, ["b", "a"])
    assert table["x"].to_pylist() == ["b", "a"]
    assert costs == [replace(COST, load_s=98.0), replace(COST, load_s=97.0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_storing_a_unit_twice_changes_nothing(tmp_path: Path) -> None:
    save_unit(tmp_path, "a", pa.table({"x": [1]}), COST)
    before = (tmp_path / "a.parquet").read_bytes()
    save_unit(tmp_path, "a", pa.table({"x": [1]}), COST)
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_the_journal_of_a_stopped_job_is_reused_up_to_its_torn_line(tmp_path: Path) -> None:
    stopped = VerdictStore(tmp_path / "1")
    stopped.add([answer(" a", api_calls=1), answer(" b", "ungraded", error="e"), answer(" c", api_calls=1)])
    journal = tmp_path / "1" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    store = VerdictStore(tmp_path / "2", [journal])
    assert store.known(question(" a")) == Verdict(kind="equivalent")
    assert store.known(question(" b")) is None and store.known(question(" c")) is None
