"""Where the seconds of a real job went."""

from __future__ import annotations

import re

import pytest

from evalgen.timings import WITHIN_A_STAGE
from tests.ray.jobs import FinishedJob


def test_the_stages_of_a_job_are_its_seconds_from_the_interpreter_to_the_report(mayors_job: FinishedJob) -> None:
    timings = mayors_job.experiment.summary["timings"]
    stages = {name: seconds for name, seconds in timings.items() if not name.endswith(WITHIN_A_STAGE)}
    total, other = stages.pop("total"), stages.pop("other")
    assert list(stages) == [
        *("start_python", "resolve", "import", "start_ray", "plan", "sample_and_grade", "stop_ray", "assemble"),
        "report",
    ]
    assert all(seconds > 0 for seconds in stages.values())
    assert sum(stages.values()) + other == pytest.approx(total, abs=0.01)  # each is rounded to a millisecond
    assert 0 < timings["start_first_replica"] < timings["sample_and_grade"]
    assert other < 0.2 * total  # what has no name: directories and locks, on a disk that may be slow


def test_the_log_has_the_seconds_of_the_summary(mayors_job: FinishedJob) -> None:
    log = (mayors_job.experiment.path / "experiment.log").read_text(encoding="utf-8")
    (logged,) = re.findall(r" INFO timings (.+)", log)
    seconds = {name: float(it) for name, it in (pair.split("=") for pair in logged.split())}
    assert seconds == {f"{stage}_s": it for stage, it in mayors_job.experiment.summary["timings"].items()}
