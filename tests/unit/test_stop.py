"""What a job that ends too soon says of how to go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ray_jobs.paths import SUBMITTED_JOB_VARIABLE
from ray_jobs.stop import resume_command


def test_the_command_to_go_on_with_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "a job.py"
    script.write_text("import sys; print(sys.argv[1:])")
    monkeypatch.setattr(sys, "argv", [str(script), "--config", "x"])
    pasted = subprocess.run(resume_command(Path("/an experiment")), shell=True, capture_output=True, text=True)
    assert pasted.stdout == "['--resume', '/an experiment']\n"


def test_a_submitted_job_does_not_make_up_how_it_was_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUBMITTED_JOB_VARIABLE, "job_1")
    monkeypatch.setattr(sys, "argv", ["ray_jobs/generate_eval_datasets.py", "--config", "x"])
    assert resume_command(Path("/runs/outputs/one")) == (
        "the same `ray job submit`, with --resume /runs/outputs/one in place of all arguments of "
        "ray_jobs/generate_eval_datasets.py"
    )
