"""What is printed at a job's end: where its seconds went and where its files are, as far as there are any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from evalgen.experiment import Experiment
from evalgen.tables import print_results
from evalgen.timings import Timings
from evalgen.wandb_log import WandbLog
from ray_jobs.generate_eval_datasets import _Job
from tests.unit.finished import finished_experiment, job_config
from tests.unit.test_timings import Clock
from tests.unit.tiny import query

URL = "https://hub.example/datasets/user/sampled"


@pytest.mark.parametrize(("unnamed_s", "other"), [(0.05, ""), (0.75, ", other 0.8 s")])
def test_seconds_without_a_name_are_told_where_they_are_many(
    unnamed_s: float, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    timings = Timings()
    for name in ("plan", "assemble"):
        with timings.stage(name):
            clock.now += 2.0
    clock.now += unnamed_s
    print_results(Experiment(tmp_path), [], timings)
    stages = f"Seconds by stage: plan 2.0 s, assemble 2.0 s{other}; total {4 + unnamed_s:.1f} s"
    assert stages in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("names", [set(), {"report.html", "REPORT.md", "wandb"}])
def test_every_place_that_exists_is_told_and_no_other(
    names: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    print_results(Experiment(tmp_path), [], Timings(), URL if names else None)
    printed = capsys.readouterr().out
    assert {name for name in ("report.html", "REPORT.md", "wandb") if f": {tmp_path / name}\n" in printed} == names
    assert (URL in printed) == bool(names) and f": {tmp_path}\n" in printed


def test_a_job_that_pushes_its_datasets_says_where_they_are(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [{"output_dataset_prefix": "sampled"}]
    experiment, plans, _ = finished_experiment(tmp_path / "e", tokenizer, runs, [query("P")])
    config = job_config(experiment.directory, runs).model_copy(update={"push_to_hub": "user/sampled"})
    monkeypatch.setattr("evalgen.hub.push_datasets", lambda *_: URL)
    timings = Timings()
    _Job(config, experiment, plans, timings, WandbLog(config, experiment, timings)).write_results([])
    assert f"Pushed to {URL}\n" in capsys.readouterr().out


def test_a_reader_that_goes_away_does_not_end_a_command() -> None:
    code = (
        "import sys; from evalgen.plain_lines import print_lines\n"
        "for _ in range(2): print_lines(['a line'])\n"
        "sys.stderr.write('went on')"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "went on")
