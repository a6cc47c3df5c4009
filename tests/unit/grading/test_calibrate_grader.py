"""The command: any grader held against a labelled file, its mistakes shown, and the result kept with datasets."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evalgen.config import JobConfig
from evalgen.experiment import Experiment
from evalgen.grading import desk
from evalgen.grading.calibration import is_calibration_of
from evalgen.grading.grader_config import load_grader
from evalgen.job import DatasetPlan
from evalgen.plan_file import PLAN_FILE
from evalgen.records import Answer, Checkpoint, GraderSpec, Query, Question, Verdict
from evalgen.verdict_store import VerdictStore, spent_usd
from ray_jobs.calibrate_grader import RECORD_FILE, CalibrationConfig, main
from tests.claude_calls import HAIKU, sdk_pointed_at_messages_api
from tests.messages_api import MessagesApi, answer, honest_judge, rate_limited, spend_cap, verdict
from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[3]
CONFIGS = REPOSITORY / "configs"
DATES, DATE_RULES = CONFIGS / "calibration" / "death_dates.jsonl", CONFIGS / "death_date_grader.json"
OFFLINE = ("--grader_model", "offline/date", "--grader_config_path", str(DATE_RULES))
UNREADABLE = " October 12, 1999 \x1b[2J"  # the judge's reply to this one cannot be read

# completion, label: one of each outcome that `honest_judge` and `offline/date` give
ANSWERS = [
    (" March 15, 1987", True),
    (" March 15, 1987 or April 15, 1987", False),  # starts with the reference
    (" 15 March 1987", True),  # does not, but is the date
    (" \x1b[31mMarch 16, 1987", False),
]


def labelled_file(directory: Path, answers: Sequence[tuple[str, bool]] = ANSWERS) -> Path:
    path = directory / "labelled.jsonl"
    items = [
        {"prompt": "Alice Chen died on", "reference": " March 15, 1987", "completion": completion}
        | {"equivalent": label, "case": "hard" if index else "easy"}
        for index, (completion, label) in enumerate(answers)
    ]
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8")
    return path


def judge(question: dict[str, str]) -> dict[str, Any]:
    return verdict("perhaps") if question["completion"] == UNREADABLE else honest_judge(question)


@pytest.fixture(autouse=True)
def working_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In whose `outputs/` verdicts are kept."""
    directory = tmp_path_factory.mktemp("working_directory")
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with sdk_pointed_at_messages_api(judge) as api:
        yield api


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def confusion(record: dict[str, Any]) -> tuple[int, ...]:
    counts = record["confusion"]
    names = ("true_positives", "false_positives", "false_negatives", "true_negatives")
    return (*(counts[f"num_{name}"] for name in names), counts["num_ungraded"])


def test_an_offline_grader_is_calibrated_without_ray_key_or_network(tmp_path: Path) -> None:
    code = (
        "import sys; from ray_jobs.calibrate_grader import main; code = main(sys.argv[1:]);"
        "assert not {'ray', 'torch', 'transformers'} & set(sys.modules), 'too much imported'; sys.exit(code)"
    )
    output = tmp_path / "dates.json"
    done = subprocess.run(
        [sys.executable, "-c", code, str(DATES), *OFFLINE, f"--output={output}"],
        cwd=REPOSITORY,
        env={"PATH": "", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    for heading in ("precision", "recall", "kappa", "numeric_ambiguous", "False negatives:"):
        assert heading in done.stdout
    record, rules = load(output), load(DATE_RULES)["grader_instructions"]
    assert record["grader_model"] == "offline/date"
    assert record["grader_instructions_sha256"] == hashlib.sha256(rules.encode()).hexdigest()
    assert record["labelled_file"] == "death_dates.jsonl"
    assert record["labelled_file_sha256"] == hashlib.sha256(DATES.read_bytes()).hexdigest()
    assert record["num_items"] == len(DATES.read_text().splitlines()) == sum(confusion(record))
    assert record["precision"]["low"] < record["precision"]["value"] < record["precision"]["high"]
    assert (record["api_calls"], record["cost_usd"]) == (0, 0.0)
    assert list(tmp_path.iterdir()) == [output]


def test_claude_is_asked_once_an_item_and_what_it_cannot_answer_is_ungraded(
    api: MessagesApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = labelled_file(tmp_path, [*ANSWERS, (UNREADABLE, True)]), tmp_path / "out.json"
    assert main([str(path), "--grader-model", HAIKU, "--output", str(output)]) == 0
    record = load(output)
    assert confusion(record) == (1, 1, 1, 1, 1)
    assert (record["coverage"], record["precision"]["value"], record["kappa"]["value"]) == (0.8, 0.5, 0.0)
    assert [item["line"] for item in record["false_positives"]] == [2]
    assert [item["line"] for item in record["false_negatives"]] == [3]
    assert record["false_negatives"][0]["reasoning"] == "The completion does not start with the reference."
    assert record["ungraded"][0]["completion"] == UNREADABLE and record["ungraded"][0]["error"]
    assert record["cases"]["easy"]["accuracy"] == 1.0
    asked = [request.question["completion"] for request in api.requests]
    assert sorted(set(asked)) == sorted([completion for completion, _ in [*ANSWERS, (UNREADABLE, True)]])
    assert len(asked) == record["api_calls"]
    assert all(asked.count(completion) == 1 for completion, _ in ANSWERS)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and r"\x1b[2J" in shown
    assert "coverage 80.0%" in shown and "Ungraded" in shown


def test_a_judge_that_refuses_the_key_ends_it_in_one_line_and_writes_nothing(
    api: MessagesApi, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-wrong")
    output = tmp_path / "out.json"
    assert main([str(labelled_file(tmp_path)), "--grader_model", HAIKU, "--output", str(output)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "refuses the key" in captured.err
    assert not output.exists()


def test_a_judge_that_grades_nothing_leaves_no_file(
    api: MessagesApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    argv = [str(labelled_file(tmp_path, [(UNREADABLE, True)])), "--grader_model", HAIKU, "--output", str(output)]
    assert main(argv) == 1
    assert "none of the 1 items was graded" in capsys.readouterr().err
    assert not output.exists()


def numbered_file(directory: Path, number: int) -> Path:
    """As many items, each with an answer of its own."""
    return labelled_file(directory, [(f" March 15, 1987 {index}", index % 2 == 0) for index in range(number)])


def asked(api: MessagesApi) -> list[str]:
    return sorted(request.question["completion"] for request in api.requests)


def test_what_was_paid_for_once_is_never_asked_again(api: MessagesApi, tmp_path: Path) -> None:
    first, second, more = (tmp_path / name for name in ("1.json", "2.json", "3.json"))
    claude = ("--grader_model", HAIKU, "--output")
    assert main([str(numbered_file(tmp_path, 4)), *claude, str(first)]) == 0
    dataset = dataset_of(tmp_path, load_grader(HAIKU, None))
    assert main([str(numbered_file(tmp_path, 4)), *claude, str(second), "--attach_to", str(dataset)]) == 0
    assert api.calls == 4
    assert load(dataset / RECORD_FILE) == load(second) == load(first) | {"date": load(second)["date"]}
    assert load(second)["cost_usd"] > 0 and load(second)["api_calls"] == 4
    assert main([str(numbered_file(tmp_path, 6)), *claude, str(more)]) == 0
    assert len(set(asked(api))) == api.calls == load(more)["api_calls"] == 6


def test_verdicts_go_to_and_fro_between_calibrations_and_experiments(api: MessagesApi, tmp_path: Path) -> None:
    grader = load_grader(HAIKU, None)
    experiment = Experiment(dataset_of(tmp_path, grader).parent.parent)
    first, *others = [
        Question(grader=grader, prompt="Alice Chen died on", reference=" March 15, 1987", completion=completion)
        for completion, _ in ANSWERS
    ]
    store = VerdictStore(experiment.verdicts)  # of a job that was stopped: it has a journal
    store.add([Answer(question=first, verdict=Verdict(kind="not_equivalent", api_calls=1, cost_usd=1.0))])
    output = tmp_path / "out.json"
    argv = [str(labelled_file(tmp_path)), "--grader_model", HAIKU, "--output_dir", str(tmp_path), f"--output={output}"]
    assert main(argv) == 0
    assert asked(api) == sorted(question.completion for question in others)
    assert confusion(load(output))[:3] == (0, 1, 2) and load(output)["cost_usd"] < 1
    next_job = VerdictStore(tmp_path / "next" / "verdicts", experiment.earlier_verdicts())
    assert all(next_job.known(question) for question in others)


def test_asked_anew_a_judge_may_say_something_else_and_that_holds_from_then_on(
    api: MessagesApi, tmp_path: Path, working_directory: Path
) -> None:
    output = tmp_path / "out.json"
    argv = [str(labelled_file(tmp_path, ANSWERS[:2])), "--grader_model", HAIKU, "--output", str(output)]
    confusions = []
    for scripted, anew in ((False, False), (True, True), (False, False), (False, True)):
        api.script(*[answer(verdict("not_equivalent"))] * 2 * scripted)
        assert main([*argv, "--use_grader_cache", "false" if anew else "true"]) == 0
        confusions.append(confusion(load(output))[:4])
    assert confusions == [(1, 1, 0, 0), (0, 0, 1, 1), (0, 0, 1, 1), (1, 1, 0, 0)]
    assert api.calls == 6
    (directory,) = (working_directory / "outputs").iterdir()
    assert sorted(path.name for path in directory.iterdir()) == ["verdicts", "verdicts_1", "verdicts_2"]


def test_asking_anew_goes_on_where_it_was_stopped(
    api: MessagesApi, tmp_path: Path, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [str(numbered_file(tmp_path, 20)), "--grader_model", HAIKU]
    assert main(argv) == 0
    anew = [*argv, "--use_grader_cache", "false"]
    with monkeypatch.context() as patch:
        patch.setattr("evalgen.files.write_text", interrupt)
        assert main(anew) == 130
    for cap in ("0.03", "0.035"):
        assert main([*anew, "--max_grading_cost_usd", cap]) == 1
    assert api.calls < 40
    assert main(anew) == 0
    assert [asked(api).count(completion) for completion in set(asked(api))] == [2] * 20
    assert main(anew) == 0
    assert api.calls == 60, "the next time is one of its own"
    (directory,) = (working_directory / "outputs").iterdir()
    assert sorted(path.name for path in directory.iterdir()) == ["verdicts", "verdicts_1", "verdicts_2"]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_cap_holds_over_all_runs_and_what_was_paid_is_kept(
    api: MessagesApi, tmp_path: Path, working_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    argv = [str(numbered_file(tmp_path, 20)), "--grader_model", HAIKU, "--output", str(output)]
    num_paid = []
    for _ in range(2):
        assert main([*argv, "--max_grading_cost_usd", "0.03"]) == 1
        error = capsys.readouterr().err
        said = re.search(r"cost \$(\S+) of --max_grading_cost_usd 0.03, .* may cost up to \$(\S+); go on with", error)
        assert error.count("\n") == 1 and said and float(said[1]) <= 0.03 < float(said[1]) + float(said[2])
        (verdicts,) = working_directory.glob("outputs/*/verdicts")
        assert float(said[1]) == pytest.approx(spent_usd(verdicts), abs=1e-4)
        assert not output.exists()
        num_paid.append(api.calls)
    assert 0 < num_paid[0] == num_paid[1] < 20
    assert main([*argv, "--max_grading_cost_usd", "1"]) == 0
    assert len(set(asked(api))) == api.calls == 20 == load(output)["api_calls"]


def test_an_answer_on_its_way_to_the_disk_when_the_judge_stops_everything_is_kept(
    api: MessagesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(desk, "LINGER_S", 0.5)  # long enough for the second reply to come before the first is stored
    argv = [str(numbered_file(tmp_path, 3)), "--grader_model", HAIKU, "--max_connections", "1"]
    api.script(answer(verdict("equivalent")), spend_cap())
    assert main(argv) == 1
    assert capsys.readouterr().err.count("\n") == 1 and api.calls == 2
    assert main(argv) == 0
    assert [asked(api).count(completion) for completion in sorted(set(asked(api)))] == [1, 2, 1]


def started(command: Sequence[str]) -> subprocess.Popen[str]:
    """As a terminal starts it: a shell's background jobs, this process perhaps, ignore Ctrl-C, and so do their own."""
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, preexec_fn=heed)


def test_ctrl_c_loses_nothing_that_was_judged_and_a_second_process_is_refused(
    api: MessagesApi, tmp_path: Path, working_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(numbered_file(tmp_path, 5)), "--grader_model", HAIKU, "--max_connections", "1"]
    argv += ["--output_dir", str(working_directory / "outputs")]
    held = api.hold(4)
    command = [sys.executable, "ray_jobs/calibrate_grader.py", *argv]
    first = started(command)
    wait_until(lambda: held.has_arrived or first.poll() is not None, 60, "the fourth question is asked")
    assert main(argv) == 2
    refused = capsys.readouterr()
    assert refused.out == "" and re.fullmatch("error: another job is at work in .*\n", refused.err)
    first.send_signal(signal.SIGINT)
    _, error = first.communicate()
    held.release()
    assert first.returncode == 130
    assert error == "error: interrupted; what is judged is kept: run it again to go on\n"
    assert main(argv) == 0
    assert len(set(asked(api))) == 5 and api.calls == 6  # the answer to the fourth never came


def test_ctrl_c_does_not_wait_for_a_pause_that_the_server_asked_for(
    api: MessagesApi, tmp_path: Path, working_directory: Path
) -> None:
    argv = [str(numbered_file(tmp_path, 5)), "--grader_model", HAIKU, "--max_connections", "1"]
    api.script(answer(verdict("equivalent")), rate_limited(890))
    command = [sys.executable, "ray_jobs/calibrate_grader.py", *argv]
    command += ["--output_dir", str(working_directory / "outputs")]
    stopped = started(command)
    assert stopped.stderr is not None
    assert stopped.stderr.readline().startswith("WARNING: the judge's server wants no request for 890 s")
    stopped.send_signal(signal.SIGINT)
    _, error = stopped.communicate(timeout=60)
    assert stopped.returncode == 130 and "interrupted; what is judged is kept" in error


def test_a_directory_that_cannot_take_verdicts_is_one_line(
    api: MessagesApi, tmp_path: Path, working_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = labelled_file(tmp_path)
    long = file.rename(tmp_path / f"{'x' * 240}.jsonl")
    assert main([str(long), "--grader_model", HAIKU]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cannot keep verdicts in" in error and "File name too long" in error
    assert api.calls == 0


WRONG_COMMANDS = [
    ([], "labelled_path: missing"),
    (["--labelled_path"], "--labelled_path: found no value"),
    (["{file}", "--grader_model", "offline/dates"], "grader_model: found 'offline/dates'"),
    (["{file}", "--grader_model", "anthropic-batch/claude"], "the same judge is anthropic/<model> here"),
    (["{file}", "--grader_modle", "x"], "did you mean grader_model?"),
    (["{file}", "other.jsonl"], "--labelled_path: found 2 values"),
    (["/no/file.jsonl", *OFFLINE], "labelled_path: cannot read /no/file.jsonl"),
    (["{file}", "--grader_config_path", "/no/rules.json", "--grader_model=offline/date"], "cannot read /no/rules.json"),
    (["{file}", *OFFLINE, "--max_connections", "0"], "max_connections: found '0', but"),
    (["{file}", *OFFLINE, "--requests-per-minute", "x"], "requests_per_minute: found 'x', but"),
    (["{file}", *OFFLINE, "--grader_votes", "2"], "grader_votes: found '2', but value error, an odd number"),
    (["{file}", *OFFLINE, "--grader_votes", "101"], "grader_votes: found '101', but"),
    (["{file}", "--use_grader_cache", "perhaps"], "use_grader_cache: found 'perhaps', but"),
    (["{file}", "--max_grading_cost_usd", "-1"], "max_grading_cost_usd: found '-1', but"),
    (["{file}", "--grader_model", "anthropic/some", "--max_grading_cost_usd=1"], "the price of some is not known"),
    (["{file}", "--prices_path", "/no/prices.yaml"], "prices_path: cannot read /no/prices.yaml"),
    (["{file}", "--output_dir", "{file}"], "is there and no directory"),
    (["{file}", *OFFLINE, "--output", "/no/directory/out.json"], "/no/directory is no directory"),
    (["{file}", *OFFLINE, "--output", "{directory}"], "is a directory; give a file's name"),
    (["{file}", *OFFLINE, "--attach_to", "/no/dataset"], "/no/dataset is no directory"),
    (["{file}", *OFFLINE, "--attach_to", "{directory}"], "is no dataset of an experiment"),
]


@pytest.mark.parametrize(("argv", "problem"), WRONG_COMMANDS, ids=lambda value: f"{value!r:.70}")
def test_wrong_input_is_one_line_and_exit_code_two(
    argv: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = labelled_file(tmp_path)
    assert main([argument.format(file=file, directory=tmp_path) for argument in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("error: ") and problem in captured.err
    assert list(tmp_path.iterdir()) == [file]


def test_help_explains_every_flag_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and shown.startswith("usage: calibrate_grader.py")
    for flag in CalibrationConfig.model_fields:
        assert f"--{flag}" in shown


def test_a_disk_that_refuses_the_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.json"
    (tmp_path / "out.json.writing").mkdir()  # its temporary name is taken, and no file can replace a directory
    assert main([str(labelled_file(tmp_path)), *OFFLINE, "--output", str(output)]) == 1
    assert f"error: cannot write {output}: " in capsys.readouterr().err


GRADER = load_grader("offline/date", str(DATE_RULES))


def dataset_of(outputs: Path, grader: GraderSpec, name: str = "sampled_dates_checkpoint_final") -> Path:
    """The directory of a dataset without rows, as a job makes it whose judge is `grader`."""
    config = JobConfig(data_model_path="/run", output_dir=str(outputs))
    plan = DatasetPlan(
        name=name,
        checkpoint=Checkpoint(run="run", name="checkpoint_final", path="/run", tokenizer_path="/run"),
        queries=(Query(id="a", prompt="Alice Chen died on", reference=" March 15, 1987", source_dataset=""),),
        grader=grader,
        settings=config.run_configs()[0],
    )
    experiment = Experiment.named(config)
    experiment.make_directory()
    with experiment.begun(config, [plan]):
        return experiment.write_dataset(name, ())


def attach(file: Path, *datasets: Path, grader: Sequence[str] = OFFLINE) -> int:
    return main([str(file), *grader, "--attach_to", *map(str, datasets)])


def test_a_calibration_is_kept_with_every_dataset_that_the_grader_judged(tmp_path: Path) -> None:
    datasets = [dataset_of(tmp_path, GRADER), dataset_of(tmp_path, GRADER, "sampled_others_checkpoint_final")]
    output = tmp_path / "out.json"
    assert main([str(labelled_file(tmp_path)), *OFFLINE, "--attach-to", *map(str, datasets), f"--output={output}"]) == 0
    for dataset in datasets:
        assert (dataset / RECORD_FILE).read_bytes() == output.read_bytes()
    assert confusion(load(output))[0] == 2


@pytest.mark.parametrize(
    "judge",
    [
        replace(GRADER, model="offline/exact"),
        replace(GRADER, instructions="Any date will do."),
        replace(GRADER, options={"accept_surname_alone": True}),
        replace(GRADER, num_votes=3),
        replace(GRADER, pack_size=8),
    ],
    ids=["model", "instructions", "options", "votes", "pack_size"],
)
def test_a_dataset_of_another_grader_is_refused_with_both_and_before_anything_is_asked(
    judge: GraderSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = dataset_of(tmp_path, GRADER), dataset_of(tmp_path, judge)
    capsys.readouterr()
    assert attach(labelled_file(tmp_path), right, wrong) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    found = re.fullmatch(
        r"error: attach_to: (.+) was judged by (.+), and this calibrates (.+); give .+\n", captured.err
    )
    assert found and found[1] == str(wrong) and found[2] != found[3]
    for grader, shown in ((judge, found[2]), (GRADER, found[3])):
        digest = hashlib.sha256(grader.instructions.encode()).hexdigest()
        assert shown.startswith(f"{grader.model} with instructions {digest[:12]} and ")
    assert not list(tmp_path.rglob(RECORD_FILE))


def test_message_batches_are_the_same_judge(api: MessagesApi, tmp_path: Path) -> None:
    grader = load_grader(HAIKU, None)
    batch = replace(grader, model=HAIKU.replace("anthropic/", "anthropic-batch/"))
    dataset = dataset_of(tmp_path, batch)
    assert attach(labelled_file(tmp_path), dataset, grader=("--grader_model", HAIKU)) == 0
    assert load(dataset / RECORD_FILE)["grader_model"] == HAIKU


def test_a_dataset_judged_in_the_words_of_another_version_is_not_what_is_calibrated(
    api: MessagesApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grader = load_grader(HAIKU, None)
    older = replace(grader, template_digest="")  # as plan.json had it
    assert attach(labelled_file(tmp_path), dataset_of(tmp_path, older), grader=("--grader_model", HAIKU)) == 2
    assert "in the words of another version of evalgen; have it judged in today's" in capsys.readouterr().err
    dataset = dataset_of(tmp_path, grader)
    assert attach(labelled_file(tmp_path), dataset, grader=("--grader_model", HAIKU)) == 0
    record = load(dataset / RECORD_FILE)
    assert is_calibration_of(record, grader) and not is_calibration_of(record, older)
    assert is_calibration_of({k: v for k, v in record.items() if k != "grader_template_digest"}, older)


def test_a_dataset_that_its_experiment_does_not_know_or_works_on_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, dataset = labelled_file(tmp_path), dataset_of(tmp_path, GRADER)
    stranger = dataset.with_name("sampled_stranger")
    (stranger / "eval_dataset").mkdir(parents=True)
    assert attach(file, stranger) == 2
    assert f"{PLAN_FILE} knows no dataset sampled_stranger" in capsys.readouterr().err
    job = os.open(dataset.parent.parent, os.O_RDONLY)
    fcntl.flock(job, fcntl.LOCK_EX)  # as a job at work holds it
    assert attach(file, dataset) == 2
    os.close(job)
    assert "another job is at work" in capsys.readouterr().err
    assert not list(tmp_path.rglob(RECORD_FILE))
