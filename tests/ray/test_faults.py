"""Faults strike a job in its middle: the job goes on or is resumed, and does nothing again that was finished.

These are the faults that matter most, two at a time; `make test-faults` strikes with each of all, in every place.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.cases import Case, Undisturbed, run_case
from tests.faults.damage import flip_a_bit
from tests.faults.faults import a_samples_file, kill_grading, kill_store, sigterm
from tests.faults.job import Job
from tests.ray.conftest import RayCluster


def kill_store_and_grading(job: Job) -> None:
    kill_store(job)
    kill_grading(job)


CASES = (
    Case(
        fault="kill -9 of the store and the grading actor",
        when="middle",
        at="request",
        strike=kill_store_and_grading,
        exit_code=0,
    ),
    Case(
        fault="SIGTERM, and a bit of a samples file flipped",
        when="middle",
        at="unit",
        strike=sigterm,
        exit_code=128 + signal.SIGTERM,
        then=lambda experiment: flip_a_bit(a_samples_file(experiment)),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_job_survives(
    case: Case, ray_cluster: RayCluster, undisturbed: Undisturbed, mayors_run: Path, tmp_path: Path
) -> None:
    outcome = run_case(case, undisturbed, mayors_run, tmp_path / "job", {"RAY_ADDRESS": ray_cluster.address})
    assert not outcome.problems
