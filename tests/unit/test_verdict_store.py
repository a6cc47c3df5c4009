"""Stored verdicts: paid for once, durable at once; whatever is damaged or killed, none that is read is wrong."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalgen import verdict_store
from evalgen.errors import JobStopped
from evalgen.files import durable_file, parquet_bytes, write_bytes
from evalgen.grading.spending import LEDGER
from evalgen.journal import read_journal
from evalgen.records import Answer, GraderSpec, Question, Verdict
from evalgen.verdict_store import VerdictStore, graded_keys
from evalgen.verdict_table import VERDICTS_SCHEMA, VOTING, VerdictTable, is_intact, verdict_from_row, write_checksum
from tests.unit.test_unit_store import ADVERSARIAL, damage, snapshots

GRADER = GraderSpec(model="anthropic/x", instructions="i", options={"b": True, "a": False})


def question(completion: str = " São\n\ufffd", **changed: str) -> Question:
    return Question(**{"grader": GRADER, "prompt": "p", "reference": " r", "completion": completion, **changed})  # type: ignore[arg-type]


def answer(completion: str = " c", kind: Any = "equivalent", **changed: Any) -> Answer:
    return Answer(question=question(completion), verdict=Verdict(kind=kind, **changed))


def paid(completion: str, kind: Any = "equivalent", **changed: Any) -> Answer:
    return answer(completion, kind, api_calls=1, input_tokens=10, output_tokens=5, cost_usd=0.25, **changed)


def store_of(directory: Path, *answers: Answer) -> Path:
    store = VerdictStore(directory)
    store.add(answers)
    store.close()
    return directory / "0000.parquet"


def rows_of(directory: Path) -> list[dict[str, Any]]:
    assert is_intact(directory / "0000.parquet")
    rows: list[dict[str, Any]] = pq.read_table(directory / "0000.parquet").to_pylist()
    return rows


def vote(kind: Any, **changed: Any) -> Answer:
    return replace(paid(" c", kind, **changed), is_vote=True)


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "killed"])
def test_votes_are_kept_and_paid_for_once_until_there_is_a_verdict(ended: bool, tmp_path: Path) -> None:
    votes = vote("equivalent", reasoning="\ud800"), vote("ungraded", error="e"), vote("not_equivalent")
    store = VerdictStore(tmp_path)
    store.add(votes[:2])
    store.add(votes[1:])  # the second once more
    if ended:
        store.close()
        (row,) = rows_of(tmp_path)
        assert (row["verdict"], row["error"]) == ("ungraded", VOTING)
    assert not graded_keys(tmp_path), "votes are no verdict, for another experiment neither"
    store = VerdictStore(tmp_path)
    assert store.known(question(" c")) is None and store.kind(question(" c")) is None
    assert [it.kind for it in store.votes(question(" c"))] == ["equivalent", "not_equivalent"]
    assert all(it.api_calls == 0 == it.cost_usd for it in store.votes(question(" c")))
    store.add([answer(" c", "equivalent", votes=("equivalent", "not_equivalent", "equivalent"))])
    assert store.votes(question(" c")) == [] and store.kind(question(" c")) == "equivalent"
    store.close()
    (row,) = rows_of(tmp_path)
    assert (row["verdict"], row["error"], row["ballots"]) == ("equivalent", None, [])
    assert (row["api_calls"], row["input_tokens"], row["cost_usd"]) == (3, 30, 0.75)


def test_votes_without_a_majority_stay_and_the_next_part_needs_the_missing_ones_only(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.add([vote("equivalent"), vote("not_equivalent"), vote("ungraded", error="refused")])
    split = answer(" c", "ungraded", error="no majority", votes=("equivalent", "not_equivalent", "ungraded"))
    store.add([split])
    store.close()
    (before,) = rows_of(tmp_path)
    store = VerdictStore(tmp_path)
    assert store.kind(question(" c")) == "ungraded" and store.known(question(" c")) is None
    assert [it.kind for it in store.votes(question(" c"))] == ["equivalent", "not_equivalent"]
    store.add([vote("ungraded", error="refused again"), vote("equivalent")])  # and then the job is stopped
    store.close()
    (row,) = rows_of(tmp_path)
    changed = {name for name in row if row[name] != before[name]}
    assert changed == {"ballots", "answer_ids", "api_calls", "input_tokens", "output_tokens", "cost_usd"}
    assert len(row["ballots"]) == 3 and row["error"] == "no majority" and row["api_calls"] == 5


def test_a_vote_that_comes_after_the_verdict_costs_and_changes_nothing_else(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.add([paid(" c", "equivalent"), vote("not_equivalent")])
    assert store.votes(question(" c")) == [] and store.kind(question(" c")) == "equivalent"
    store.close()
    (row,) = rows_of(tmp_path)
    assert (row["verdict"], row["ballots"], row["api_calls"], row["cost_usd"]) == ("equivalent", [], 2, 0.5)


def test_files_of_before_there_were_ballots_are_gone_on_with(tmp_path: Path) -> None:
    path = store_of(tmp_path, paid(" c"))
    pq.write_table(pq.read_table(path).drop_columns("ballots"), path)
    write_checksum(path)
    store = VerdictStore(tmp_path)
    assert store.votes(question(" c")) == [] and store.kind(question(" c")) == "equivalent"
    store.close()
    assert [row["ballots"] for row in rows_of(tmp_path)] == [[]]


def test_what_was_added_is_in_the_journal_when_the_process_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from evalgen.verdict_store import VerdictStore
from tests.unit.test_verdict_store import answer
store = VerdictStore(Path({str(tmp_path)!r}))
store.add([answer(' one'), answer(' two', 'ungraded', error='e')])
store.add([answer(' São\\n')])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    rows, num_damaged = read_journal(tmp_path / "journal.jsonl")
    assert [row["completion"] for row in rows] == [" one", " two", " São\n"] and num_damaged == 0
    assert [row["key"] for row in rows] == [question(row["completion"]).key for row in rows]
    assert not list(tmp_path.glob("*.parquet"))
    store = VerdictStore(tmp_path)
    assert store.known(question(" one")) and store.known(question(" São\n"))
    assert store.known(question(" two")) is None, "what got no verdict is to be asked again"


def test_what_the_limiter_is_writing_beside_the_verdicts_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl.writing").write_text("left by a kill")
    with durable_file(tmp_path / LEDGER) as ledger:
        ledger.write(b"whole")
        store_of(tmp_path, answer())
    assert (tmp_path / LEDGER).read_bytes() == b"whole"
    assert not list(tmp_path.glob("*.writing"))


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
    rows = {row["key"]: row for row in rows_of(tmp_path)}
    assert [verdict_from_row(rows[a.question.key]) for a in answers] == verdicts
    assert [rows[a.question.key]["from_cache"] for a in answers] == [False, True, False]
    assert {path.name for path in tmp_path.iterdir()} == {"0000.parquet", "0000.parquet.sha256"}
    assert pq.read_schema(tmp_path / "0000.parquet").remove_metadata() == VERDICTS_SCHEMA
    table = VerdictTable.of_experiment(tmp_path)
    assert len(table) == 3 and set(table) == set(rows)
    for given_answer in answers:
        found = table[given_answer.question.key]
        assert replace(found, input_tokens=0, output_tokens=0) == replace(
            given_answer.verdict, input_tokens=0, output_tokens=0
        )
    assert table.get(question(" else").key) is None


def test_a_file_without_verdicts_is_a_file(tmp_path: Path) -> None:
    store_of(tmp_path)
    assert rows_of(tmp_path) == [] and len(VerdictTable.of_experiment(tmp_path)) == 0
    VerdictStore(tmp_path).close()
    assert rows_of(tmp_path) == []


def test_rows_are_sorted_by_what_was_asked_and_files_do_not_depend_on_the_order_of_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict_store.time, "time", lambda: 1e9)
    monkeypatch.setattr(verdict_store, "BATCH_ROWS", 3)
    answers = [
        Answer(question=question(completion, prompt=prompt), verdict=Verdict(kind="equivalent"))
        for prompt in ("b", "a", "é", "日", "\U0001f600", "ab", "")
        for completion in (" x", "", " é", " \U0001f600", " \uffff")
    ]
    store_of(tmp_path / "1", *answers)
    store_of(tmp_path / "2", *answers[::-1])
    found = [(row["prompt"], row["completion"]) for row in rows_of(tmp_path / "1")]
    assert found == sorted(found) and len(found) == 35
    assert rows_of(tmp_path / "1") == rows_of(tmp_path / "2")


def test_a_question_answered_twice_keeps_its_first_verdict_and_both_costs(tmp_path: Path) -> None:
    """Two graders asked at once, or one died after it had stored its verdict; the store may be restarted between."""
    for number, (together, restart) in enumerate([(False, False), (False, True), (True, False)]):
        directory = tmp_path / str(number)
        first = [answer(" b", api_calls=1, cost_usd=0.5), answer(" a", "ungraded", api_calls=2, cost_usd=0.25)]
        second = [answer(" b", "not_equivalent", api_calls=1, cost_usd=0.5), answer(" a", api_calls=1, cost_usd=0.25)]
        store = VerdictStore(directory)
        for answers in [[*first, *second]] if together else [first, second]:
            store.add(answers)
            store = VerdictStore(directory) if restart else store
        store.close()
        rows = rows_of(directory)
        assert [(row["completion"], row["verdict"]) for row in rows] == [(" a", "equivalent"), (" b", "equivalent")]
        assert [(row["api_calls"], row["cost_usd"]) for row in rows] == [(3, 0.5), (2, 1.0)]


@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_answers_that_are_added_again_are_paid_for_once(data: st.DataObject, tmp_path: Path) -> None:
    """Ray repeats a call whose reply was lost, to the same process or to the one that took its place."""
    shutil.rmtree(tmp_path / "v", ignore_errors=True)
    answers = [
        paid(data.draw(st.sampled_from([" a", " b"])), data.draw(st.sampled_from(["equivalent", "ungraded"])))
        for _ in range(4)
    ]
    store = VerdictStore(tmp_path / "v")
    calls = data.draw(st.permutations(answers + data.draw(st.lists(st.sampled_from(answers), max_size=4))))
    while calls:
        size = data.draw(st.integers(1, len(calls)))
        store.add(calls[:size])
        store = VerdictStore(tmp_path / "v") if data.draw(st.booleans()) else store
        calls = calls[size:]
    store.close()
    asked = {a.question.completion for a in answers}
    spent = {
        row["completion"]: (row["api_calls"], row["cost_usd"], row["input_tokens"]) for row in rows_of(tmp_path / "v")
    }
    expected = {text: sum(a.question.completion == text for a in answers) for text in asked}
    assert spent == {text: (count, 0.25 * count, 10 * count) for text, count in expected.items()}


def test_an_answer_that_changes_nothing_takes_no_room(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.add([answer(" a"), paid(" b")])
    size = (tmp_path / "journal.jsonl").stat().st_size
    store.add([answer(" a"), Answer(question=question(" b"), verdict=Verdict(kind="equivalent"), from_cache=True)])
    assert (tmp_path / "journal.jsonl").stat().st_size == size


def test_a_store_that_was_closed_takes_more_and_the_next_one_knows_it_all(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.add([paid(" a"), paid(" b", "ungraded")])
    store.close()
    store.close()
    assert store.known(question(" a")) and store.known(question(" b")) is None
    store.add([paid(" b"), paid(" c")])
    killed = VerdictStore(tmp_path)
    assert all(killed.known(question(text)) for text in (" a", " b", " c"))
    killed.close()
    assert [(row["completion"], row["api_calls"]) for row in rows_of(tmp_path)] == [(" a", 1), (" b", 2), (" c", 1)]
    store_of(tmp_path, replace(paid(" a"), question=replace(question(" a"), grader=replace(GRADER, model="other"))))
    assert len(rows_of(tmp_path)) == 4, "a verdict of another grader is another verdict"


def test_the_cache_holds_what_was_graded_and_costs_nothing(tmp_path: Path) -> None:
    earlier = store_of(tmp_path / "1", paid(" a"), answer(" b", "ungraded", error="e"))
    store = VerdictStore(tmp_path / "2", [earlier])
    assert store.known(question(" a")) == Verdict(kind="equivalent")
    assert store.known(question(" b")) is None and store.known(question(" c")) is None
    store.close()
    assert rows_of(tmp_path / "2") == []


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
    contents = {
        "empty": b"",
        "garbage": os.urandom(100),
        "cut": good.read_bytes()[:-20],
        "columns": parquet_bytes(pa.table({"key": ["x"]})),
    }
    bad = [tmp_path / "missing.parquet", tmp_path / "1" / "0000.parquet.sha256", tmp_path / "2" / "journal.jsonl"]
    bad[-1].mkdir(parents=True)
    for name, content in contents.items():
        bad.append(tmp_path / f"{name}.parquet")
        write_bytes(bad[-1], content)
        write_checksum(bad[-1])
    unchecked = tmp_path / "unchecked.parquet"
    write_bytes(unchecked, good.read_bytes())
    assert VerdictStore(tmp_path / "3", [*bad, unchecked]).known(question(" a")) is None
    assert VerdictStore(tmp_path / "4", [*bad, good, *bad]).known(question(" a")) is not None


@pytest.mark.parametrize(
    ("key", "kind"), [(None, None), (None, "maybe"), (None, 1), (["a list"], "equivalent"), ("no hex", "equivalent")]
)
def test_a_cache_file_with_other_values_is_passed_over(key: Any, kind: Any, tmp_path: Path) -> None:
    row = {"key": key or question(" a").key, "verdict": kind, "trimmed_completion": None, "reasoning": ""}
    write_bytes(tmp_path / "odd.parquet", parquet_bytes(pa.Table.from_pylist([row])))
    write_checksum(tmp_path / "odd.parquet")
    store = VerdictStore(tmp_path / "2", [tmp_path / "odd.parquet"])
    assert store.known(question(" a")) is None


def test_the_journal_of_a_stopped_job_is_reused_up_to_its_torn_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = VerdictStore(tmp_path / "1")
    stopped.add([answer(" a", api_calls=1), answer(" b", "ungraded", error="e"), answer(" c", api_calls=1)])
    journal = tmp_path / "1" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    store = VerdictStore(tmp_path / "2", [journal])
    assert store.known(question(" a")) == Verdict(kind="equivalent")
    assert store.known(question(" b")) is None and store.known(question(" c")) is None
    assert graded_keys(tmp_path / "1") == {question(" a").key}
    with caplog.at_level(logging.WARNING, "evalgen"):
        resumed = VerdictStore(tmp_path / "1")
    assert "1 lines are torn or damaged" in caplog.text
    assert resumed.known(question(" a")) and not resumed.known(question(" c"))
    resumed.add([paid(" c")])
    resumed.close()
    assert [row["completion"] for row in rows_of(tmp_path / "1")] == [" a", " b", " c"]
    assert graded_keys(tmp_path / "1") == {question(" a").key, question(" c").key}


TRUTH = {
    text: Verdict(
        kind=kind,
        reasoning=text * 3,
        trimmed_completion=trim,
        api_calls=1,
        cost_usd=0.25,
        input_tokens=10,
        output_tokens=5,
    )
    for text, kind, trim in [(" a.", "equivalent", " a"), (" b", "not_equivalent", None), (" c", "equivalent", None)]
}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A killed job's directory, a finished job's, and one that was killed after it had gone on."""
    killed, finished, resumed = (tmp_path_factory.mktemp(name) / "v" for name in ("killed", "finished", "resumed"))
    for directory in (killed, finished, resumed):
        store = VerdictStore(directory)
        store.add([Answer(question=question(text), verdict=verdict) for text, verdict in TRUTH.items()])
    VerdictStore(finished).close()
    VerdictStore(resumed).close()
    VerdictStore(resumed).add([answer(" d", "ungraded")])
    return [killed, finished, resumed]


@ADVERSARIAL
@given(data=st.data())
def test_a_bit_flipped_or_a_cut_anywhere_only_makes_verdicts_missing(
    data: st.DataObject, templates: list[Path], tmp_path: Path
) -> None:
    directory = tmp_path / "v"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(data.draw(st.sampled_from(templates)), directory)
    path = data.draw(st.sampled_from(sorted(directory.iterdir())))
    damage(path, data)
    assert graded_keys(directory) <= {question(text).key for text in TRUTH}
    other = VerdictStore(tmp_path / "other", sorted(directory.iterdir()))
    store = VerdictStore(directory)
    for text, truth in TRUTH.items():
        assert store.known(question(text)) in (None, truth)
        cached = other.known(question(text))
        assert cached is None or (cached.kind, cached.trimmed_completion, cached.reasoning) == (
            truth.kind,
            truth.trimmed_completion,
            truth.reasoning,
        )
    lost = [text for text in TRUTH if store.known(question(text)) is None]
    store.add([Answer(question=question(text), verdict=TRUTH[text]) for text in lost])
    store.close()
    found = {row["completion"]: verdict_from_row(row) for row in rows_of(directory) if row["completion"] in TRUTH}
    assert found == TRUTH, "asked again, they are there, and none is paid for twice"


def test_a_damaged_file_is_set_aside_with_a_warning_and_assembly_refuses_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = store_of(tmp_path, answer(" a"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(JobStopped, match=r"0000.parquet is missing or damaged"):
        VerdictTable.of_experiment(tmp_path)
    with caplog.at_level(logging.WARNING, "evalgen"):
        assert VerdictStore(tmp_path).known(question(" a")) is None
    assert "is set aside" in caplog.text
    assert {p.name for p in tmp_path.iterdir()} == {"0000.parquet.damaged", "journal.jsonl"}


def test_a_kill_between_any_two_steps_loses_no_verdict_and_pays_for_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding, closing, going on with what was closed, closing again."""
    directory = tmp_path / "v"
    store = VerdictStore(directory)
    first, second = [paid(" a"), paid(" b", "ungraded")], [paid(" b"), paid(" c")]
    jobs: list[tuple[Any, list[Answer], list[Answer]]] = [
        (partial(store.add, first), [], first),
        (store.close, first, first),
        (lambda: VerdictStore(directory), first, first),
        (partial(store.add, second), first, [*first, *second]),
        (store.close, [*first, *second], [*first, *second]),
    ]
    num_steps = 0
    for number, (work, before, after) in enumerate(jobs):
        for step in snapshots(directory, work, tmp_path / f"steps{number}", monkeypatch):
            num_steps += 1
            VerdictStore(step).close()
            spent = {row["completion"]: row["api_calls"] for row in rows_of(step)}
            assert spent in ([_calls(before), _calls(after)]), (number, step)
            assert {path.name for path in step.iterdir()} - {"0000.parquet.damaged"} == {
                "0000.parquet",
                "0000.parquet.sha256",
            }
    assert num_steps > 25


def _calls(answers: list[Answer]) -> dict[str, int]:
    texts = [a.question.completion for a in answers]
    return {text: texts.count(text) for text in texts}


def test_a_failed_write_stores_nothing_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = VerdictStore(tmp_path)
    answers = [paid(" a"), paid(" b")]

    def fail(descriptor: int) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError):
            store.add(answers)
        assert store.known(question(" a")) is None
        with pytest.raises(OSError):
            store.close()
    store.add(answers)
    store.close()
    assert [row["api_calls"] for row in rows_of(tmp_path)] == [1, 1]


def test_a_verdict_that_is_damaged_while_the_job_runs_is_asked_again(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.add([paid(" a")])
    store.add([paid(" b")])
    path = tmp_path / "journal.jsonl"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert store.known(question(" a")) is None and store.known(question(" b")) is not None
    store.add([paid(" a")])
    store.close()
    assert [(row["completion"], row["api_calls"]) for row in rows_of(tmp_path)] == [(" a", 1), (" b", 1)]


def test_a_question_that_datasets_share_is_used_first_by_one(tmp_path: Path) -> None:
    store_of(tmp_path, answer(" a"), answer(" b"))
    table = VerdictTable.of_experiment(tmp_path)
    keys = [question(text).key for text in (" a", " b", " a", " a")]
    assert [table.is_first_use(key) for key in keys] == [True, True, False, False]


def test_half_a_character_in_what_a_server_said_spoils_nothing(tmp_path: Path) -> None:
    store_of(tmp_path, paid(" a", reasoning="so \ud83e"), paid(" b", "ungraded", error="\udc80 overloaded"))
    with closing(VerdictStore(tmp_path)) as store:
        verdict = store.known(question(" a"))
    assert verdict is not None and verdict.reasoning == "so \\ud83e"
