"""The log of a job: one line an event, complete in the file, and calm on the terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evalgen.errors import JobStopped
from evalgen.job_log import MOST_EVENTS, MOST_WARNINGS, EventHandler, EventList, JobLog, fields, log_event
from ray_jobs.generate_eval_datasets import main

REPOSITORY = Path(__file__).parents[2]

log = logging.getLogger("evalgen.test")


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("error", "line"),
    [(JobStopped("the judge is gone"), "ERROR the judge is gone"), (KeyboardInterrupt(), "ERROR KeyboardInterrupt")],
)
def test_the_last_line_says_why_a_job_ended(error: BaseException, line: str, tmp_path: Path) -> None:
    path = tmp_path / "experiment.log"
    with pytest.raises(type(error)), JobLog() as job_log:
        job_log.open(path)
        raise error
    assert lines_of(path)[-1].endswith(line)


def test_an_event_is_one_line_with_its_fields_whatever_stands_in_them(tmp_path: Path) -> None:
    path = tmp_path / "experiment.log"
    with JobLog() as job_log:
        log.info("before there is a file")
        job_log.open(path)
        log.info(
            "two\nlines", extra=fields(run="a b", quote='say "é"', newline="x\ny", empty="", number=1.5, plain="ok")
        )
    before, line = lines_of(path)
    assert before.endswith(" INFO before there is a file")
    stamp, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
    quoted = json.dumps('say "é"', ensure_ascii=False)
    assert rest == f'INFO two lines run="a b" quote={quoted} newline="x\\ny" empty="" number=1.5 plain=ok'


def test_where_stdout_is_asked_for_it_has_what_the_file_has_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "experiment.log"
    told = ""
    with pytest.raises(JobStopped), JobLog(to_stdout=True) as job_log:
        log.info("before there is a file")
        log.warning("a warning before")
        told += capsys.readouterr().out
        assert len(told.splitlines()) == 2
        job_log.open(path)
        for number in range(2 * MOST_WARNINGS):
            log.warning("trim %d ignored", number, extra=fields(run="a b"))
            log.warning("out of memory")
        raise JobStopped("the judge is gone")
    rest = capsys.readouterr()
    assert told + rest.out == path.read_text(encoding="utf-8")
    assert len(lines_of(path)) == 2 + 4 * MOST_WARNINGS + 1 and rest.err == ""


def test_what_stdout_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    with JobLog(to_stdout=True):
        log.info("it says é")
    assert stdout.buffer.getvalue().endswith(b" INFO it says \\xe9\n")  # type: ignore[attr-defined]


def test_other_libraries_are_not_in_it(tmp_path: Path) -> None:
    path = tmp_path / "experiment.log"
    with JobLog() as job_log:
        job_log.open(path)
        logging.getLogger("transformers").warning("chatter")
        logging.getLogger().error("more of it")
    assert lines_of(path) == []


def test_the_terminal_has_each_warning_once_and_few_of_a_kind_and_the_file_has_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "experiment.log"
    with JobLog() as job_log:
        job_log.open(path)
        for _ in range(3):
            log.warning("out of memory")
        for number in range(10):
            log.warning("trim %d ignored", number)
        log.info("not for the terminal")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "WARNING: out of memory" and len(said) == 1 + MOST_WARNINGS
    assert said[-1].endswith("(experiment.log has more like this)")
    assert len(lines_of(path)) == 3 + 10 + 1


def test_what_happens_in_other_processes_is_in_the_log_with_whose_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = EventList()
    for actor in ("replica 0", "replica 1"):
        handler = EventHandler(actor, events.add, logging.WARNING)
        for number in range(5):
            handler.handle(logging.LogRecord("evalgen.x", logging.WARNING, "", 0, "trim %d ignored", (number,), None))
    path = tmp_path / "experiment.log"
    with JobLog() as job_log:
        job_log.open(path)
        for event in events.since(None)[0]:
            log_event(event)
    lines = lines_of(path)
    assert len(lines) == 10
    assert lines[0].endswith('WARNING trim 0 ignored actor="replica 0"')
    assert len(capsys.readouterr().err.splitlines()) == MOST_WARNINGS


def test_an_event_has_the_time_at_which_it_happened_however_late_it_is_logged(tmp_path: Path) -> None:
    events = EventList()
    record = logging.LogRecord("evalgen.x", logging.INFO, "", 0, "sampled", (), None)
    record.created = 90_061.25
    EventHandler("store", events.add).handle(record)
    path = tmp_path / "experiment.log"
    with JobLog() as job_log:
        job_log.open(path)
        for event in events.since(None)[0]:
            log_event(event)
    assert lines_of(path) == ["1970-01-02T01:01:01.250Z INFO sampled actor=store"]


def test_a_command_without_a_file_tells_each_warning_once_and_all_of_a_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with JobLog(has_file=False):
        for number in [*range(2 * MOST_WARNINGS)] * 2:
            log.warning("trim %d ignored", number)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"WARNING: trim {number} ignored" for number in range(2 * MOST_WARNINGS)]


def test_a_dry_run_tells_what_is_true_of_several_runs_once(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [{"data_model_path": str(tiny_run), "output_dataset_prefix": f"sampled_{number}"} for number in range(4)]
    queries = [{"prompt": "The mayor is", "original_completion": " Ann"}, {"prompt": "Nobody knows"}]
    (tmp_path / "queries.json").write_text(json.dumps(queries))
    shared = {"query_json_path": str(tmp_path / "queries.json"), "grader_model": "offline/exact", "dry_run": True}
    (tmp_path / "job.json").write_text(json.dumps({**shared, "runs": runs}))
    assert main(["--config", str(tmp_path / "job.json")]) == 0
    told = capsys.readouterr()
    assert told.err == "WARNING: 1 of 2 queries have no reference and are left out\n"
    assert all(f"sampled_{number}_checkpoint_final" in told.out for number in range(4))


def test_what_a_server_or_a_model_says_steers_neither_terminal_nor_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "experiment.log"
    with JobLog() as job_log:
        job_log.open(path)
        log.warning("the judge says \x1b[2J\x07\u202e", extra=fields(trim="\x1b[31m"))
    shown = r"the judge says \x1b[2J\x07\u202e trim=\x1b[31m"
    assert capsys.readouterr().err == f"WARNING: {shown}\n"
    assert lines_of(path)[0].endswith(f"WARNING {shown}")


def test_a_full_disk_takes_lines_from_the_log_and_not_the_reason_why_a_job_stopped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(JobStopped, match="no room"), JobLog() as job_log:
        job_log.open(full)
        for number in range(3):
            log.info("line %d", number)
        raise JobStopped("no room for verdicts")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "WARNING: /dev/full lacks lines: [Errno 28] No space left on device"


def test_a_stdout_without_a_reader_is_told_once_and_the_file_has_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Gone())
    path = tmp_path / "experiment.log"
    with JobLog(to_stdout=True) as job_log:
        job_log.open(path)
        for number in range(3):
            log.info("line %d", number)
    assert capsys.readouterr().err == "WARNING: stdout lacks lines: [Errno 32] Broken pipe\n"
    assert len(lines_of(path)) == 3


@pytest.mark.parametrize("place", ["a full disk", "a pipe that nobody reads"])
def test_a_command_ends_as_it_would_where_nothing_it_prints_finds_a_place(place: str, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from evalgen.errors import JobStopped
from evalgen.job_log import JobLog, log
from evalgen.plain_lines import tell
from ray_jobs.exit_codes import exit_code_of

def command():
    with JobLog(to_stdout=True) as job_log:
        job_log.open(Path(sys.argv[1]))
        for number in range(3_000):
            log.info("line %d", number)
        tell(["and a table"])
        raise JobStopped("some prompts could not be sampled")

sys.exit(exit_code_of(command, if_interrupted=""))
"""
    path = tmp_path / "experiment.log"
    command = [sys.executable, "-c", code, str(path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if place == "a full disk":
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=full, stderr=full)
        exit_code = done.returncode
    else:
        reading, writing = os.pipe()
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=writing, stderr=writing)
        os.close(reading)
        os.close(writing)
        exit_code = process.wait()
    assert exit_code == 1
    assert len(lines_of(path)) == 3_001


def test_events_are_told_once_and_the_oldest_go_first_where_there_are_too_many() -> None:
    events = EventList()
    add_events(events, 3, "of a few")
    first, read = events.since(None)
    assert [event.message for event in first] == ["0 of a few", "1 of a few", "2 of a few"]
    assert events.since(read) == ((), read) and read.num_lost == 0
    add_events(events, 1, "more")
    assert [event.message for event in events.since(read)[0]] == ["0 more"]
    add_events(events, MOST_EVENTS + 10, "of many")
    (oldest, *_, latest), read_of_many = events.since(read)
    assert (oldest.message, latest.message) == ("10 of many", f"{MOST_EVENTS + 9} of many")
    assert read_of_many.num_lost == 1 + 10, "the one more too, as `read` is from before it"
    assert events.since(read_of_many)[1].num_lost == 0


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_process_that_took_the_place_of_another_tells_its_events_from_the_first(count: int) -> None:
    events, events_of_next = EventList(), EventList()
    add_events(events, 3, "of the first")
    _, read = events.since(None)
    add_events(events_of_next, count, "of the next")
    assert [event.message for event in events_of_next.since(read)[0]] == [f"{i} of the next" for i in range(count)]


def add_events(events: EventList, count: int, name: str) -> None:
    handler = EventHandler("store", events.add)
    for number in range(count):
        handler.handle(logging.LogRecord("evalgen.x", logging.INFO, "", 0, f"{number} {name}", (), None))
