"""A fault strikes a job in its middle: the job goes on or is resumed, and does nothing again that was finished.

These are the faults that matter most; `make test-faults` strikes with all of them, in every place.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.cases import Case, Undisturbed, run_case
from tests.faults.faults import cases_of_files, cases_of_jobs_that_go_on, cases_of_stopped_jobs
from tests.ray.conftest import RayCluster

CASES = {case.name: case for case in (*cases_of_jobs_that_go_on(), *cases_of_files(), *cases_of_stopped_jobs())}
SHARED_RAY = (
    "kill -9 of the grading actor, middle",
    "kill -9 of the store, middle",
    "SIGTERM, middle",
    "samples file bit flipped, middle",
)


@pytest.mark.parametrize("case", [CASES[name] for name in SHARED_RAY], ids=SHARED_RAY)
def test_a_job_survives(
    case: Case, ray_cluster: RayCluster, undisturbed: Undisturbed, mayors_run: Path, tmp_path: Path
) -> None:
    outcome = run_case(case, undisturbed, mayors_run, tmp_path / "job", {"RAY_ADDRESS": ray_cluster.address})
    assert not outcome.problems
