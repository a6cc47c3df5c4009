"""Going on with an experiment: what may change in between, and what is refused with the difference shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalgen.config import JobConfig
from evalgen.errors import ConfigError, InputError
from evalgen.job import DatasetPlan
from evalgen.load_config import load_config
from evalgen.plan_file import check_same_prompts, plan_record
from evalgen.records import Query
from tests.unit.tiny import query

FLAGS = ["--data_model_path", "/run", "--num_generations", "100", "--temperature", "0.3"]
TWO_RUNS = {"runs": [{"data_model_path": "/one", "temperature": 0.5}, {"data_model_path": "/two"}], "seed": 1}


def begun(directory: Path, *argv: str) -> Path:
    """An experiment directory as the job of `argv` leaves it."""
    config = load_config(argv, Path("/nowhere"))
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config.resolved()))
    return directory


def resumed(directory: Path, *argv: str) -> JobConfig:
    return load_config(["--resume", str(directory), *argv], Path("/nowhere"))


def test_without_other_flags_the_job_is_the_one_that_was_begun(tmp_path: Path) -> None:
    config = resumed(begun(tmp_path / "e", *FLAGS))
    assert config.resolved() == load_config(FLAGS, Path("/nowhere")).resolved()
    assert config.resume == str(tmp_path / "e")
    assert "resume" not in config.resolved()


def test_the_flags_of_the_first_job_may_be_given_again(tmp_path: Path) -> None:
    assert resumed(begun(tmp_path / "e", *FLAGS), *FLAGS).num_generations == 100


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("num_generations", "2000"),
        ("grader_model", "offline/exact"),
        ("grader_config_path", "/g.json"),
        ("max_connections", "3"),
        ("num_replicas", "2"),
        ("num_gpus_per_replica", "2"),
        ("generation_batch_size", "1"),
        ("deduplicate", "false"),
        ("exclusive", "true"),
        ("logging_type", "stdout"),
    ],
)
def test_more_draws_another_judge_and_how_it_is_run_may_change(tmp_path: Path, flag: str, value: str) -> None:
    before = begun(tmp_path / "e", *FLAGS)
    assert getattr(resumed(before, f"--{flag}", value), flag) != getattr(resumed(before), flag)


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--temperature", "0.7"], "temperature was 0.3 and is now 0.7"),
        (["--num_generations", "99"], "num_generations was 100 and is now 99"),
        (["--seed", "1"], "seed was 42 and is now 1"),
        (["--dtype", "fp32"], 'dtype was "bf16" and is now "fp32"'),
        (["--data_model_path", "/other"], 'data_model_path was "/run" and is now "/other"'),
        (["--stop_strings", "Q:"], 'stop_strings was [] and is now ["Q:"]'),
        (["--experiment_name", "other"], "experiment_name was"),
        (["--sampler", "enumerate", "--min_probability", "0.1"], "min_probability was null and is now 0.1"),
    ],
)
def test_whatever_decides_the_draws_is_refused_with_the_difference(
    tmp_path: Path, flags: list[str], difference: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        resumed(begun(tmp_path / "e", *FLAGS), *flags)
    message = str(refused.value)
    assert difference in message and str(tmp_path / "e") in message and "\n" not in message


def test_every_difference_is_named_with_its_run(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps(TWO_RUNS))
    before = begun(tmp_path / "e", "--config", str(job))
    assert [run.temperature for run in resumed(before).run_configs()] == [0.5, 0.1]
    difference = r"runs\[0\].temperature was 0.5 and is now 0.7; runs\[1\].temperature was 0.1 and is now 0.7"
    with pytest.raises(ConfigError, match=difference):
        resumed(before, "--temperature", "0.7")
    job.write_text(json.dumps(TWO_RUNS | {"runs": TWO_RUNS["runs"][:1]}))  # type: ignore[index]
    with pytest.raises(ConfigError, match="runs was 2 and is now 1"):
        resumed(before, "--config", str(job))


def test_a_setting_shared_by_the_runs_may_move_into_them(tmp_path: Path) -> None:
    before = begun(tmp_path / "e", "--data_model_path", "/run", "--temperature", "0.3")
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({"runs": [{"data_model_path": "/run", "temperature": 0.3}]}))
    assert resumed(before, "--config", str(job)).run_configs()[0].temperature == 0.3


def test_what_is_no_experiment_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"resume: .* has no config.json"):
        resumed(tmp_path)


def plan(name: str, queries: tuple[Query, ...]) -> DatasetPlan:
    return DatasetPlan(name=name, checkpoint=None, queries=queries, grader=None, settings=None)  # type: ignore[arg-type]


TOKYO, PARIS = query("Q: Tokyo", id="tokyo"), query("Q: Paris", id="paris")


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ([plan("a", (TOKYO,))], "dataset a had 2 prompts and now has 1 prompts"),
        ([plan("a", (TOKYO, query("Q: Rome", id="paris")))], "with other ids or texts"),
        ([plan("a", (PARIS, TOKYO))], "with other ids or texts"),
        ([plan("a", (TOKYO, PARIS)), plan("b", (TOKYO,))], "dataset b had none and now has 1 prompts"),
        ([], "dataset a had 2 prompts and now has none"),
    ],
)
def test_other_prompts_are_refused(now: list[DatasetPlan], message: str) -> None:
    before = plan_record([plan("a", (TOKYO, PARIS))])
    check_same_prompts(before, plan_record([plan("a", (TOKYO, query("Q: Paris", id="paris", reference=" x")))]), "d")
    with pytest.raises(InputError, match=message):
        check_same_prompts(before, plan_record(now), "d")
