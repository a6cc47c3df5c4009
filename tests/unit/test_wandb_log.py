"""What `--logging_type wandb` logs, with the real wandb and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalgen.config import JobConfig
from evalgen.errors import JobStopped
from evalgen.experiment import Experiment
from evalgen.progress import Monitor
from evalgen.timings import Timings
from evalgen.wandb_log import WandbLog
from evalgen.work import Work
from tests.unit.test_timings import Clock

SUMMARY: dict[str, Any] = {"datasets": [{"name": "sampled_x", "num_draws": 10}], "timings": {"total": 1.5}}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # it looks once in a process


def job(tmp_path: Path, logging_type: str = "wandb") -> tuple[JobConfig, Experiment, Timings]:
    config = JobConfig(
        data_model_path="run", output_dir=str(tmp_path), logging_type=logging_type, wandb_project="evalgen"
    )
    experiment = Experiment.named(config)
    experiment.make_directory()
    return config, experiment, Timings()


def test_a_job_is_logged_offline_as_it_runs_and_at_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    config, experiment, timings = job(tmp_path)
    with WandbLog(config, experiment, timings) as wandb_log:
        wandb_log.show(Monitor(Work(units=(), ungraded=()), 0.0).progress(1.0))
        wandb_log.finish(SUMMARY)
    assert not caplog.messages  # it warns where it cannot log
    (logged,) = experiment.directory.glob("wandb/offline-run-*/run-*.wandb")
    content = logged.read_bytes()
    for word in (b"timings/total_s", b"progress/num_answered", experiment.directory.name.encode()):
        assert word in content
    (table,) = experiment.directory.glob("wandb/offline-run-*/files/media/table/datasets_*.table.json")
    assert "sampled_x" in table.read_text()
    captured = capfd.readouterr()
    assert captured.out == captured.err == "", "the terminal is ours"


def test_a_wandb_that_cannot_begin_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")

    def refuse(**_: object) -> None:
        raise wandb.errors.CommError("no such entity")

    monkeypatch.setattr(wandb, "init", refuse)
    config, experiment, timings = job(tmp_path)
    with WandbLog(config, experiment, timings) as wandb_log:
        wandb_log.show(Monitor(Work(units=(), ungraded=()), 0.0).progress(1.0))
        wandb_log.finish(SUMMARY)
    (message,) = caplog.messages
    assert "no such entity" in message and str(experiment.directory) in message


def test_the_seconds_that_wandb_takes_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    clock = Clock(monkeypatch)

    class Run:
        def log(self, _: object) -> None:
            clock.now += 2.0

        def finish(self, **_: object) -> None:
            pass

    def init(**_: object) -> Run:
        clock.now += 30.0
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    config, experiment, timings = job(tmp_path)
    with WandbLog(config, experiment, timings) as wandb_log:
        wandb_log.finish({"datasets": [], "timings": {}})
    assert timings.whole() == {"log_to_wandb": 32.0, "other": 0.0, "total": 32.0}


def test_what_was_last_shown_of_a_job_that_stops_is_logged_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    logged: list[float] = []
    monkeypatch.setattr(wandb.Run, "log", lambda _, figures: logged.append(figures["progress/elapsed_s"]))
    monitor = Monitor(Work(units=(), ungraded=()), 0.0)
    with pytest.raises(JobStopped), WandbLog(*job(tmp_path)) as wandb_log:
        for elapsed_s in (1.0, 2.0, 3.0):  # the first at once, the others too soon after it
            wandb_log.show(monitor.progress(elapsed_s))
        raise JobStopped("the cap is reached")
    assert logged == [1.0, 3.0]


def test_without_it_nothing_is_begun(tmp_path: Path) -> None:
    config, experiment, timings = job(tmp_path, "disk")
    with WandbLog(config, experiment, timings) as wandb_log:
        wandb_log.finish(SUMMARY)
    assert list(experiment.directory.iterdir()) == [] and not timings.seconds
