"""A fault strikes a job in its middle: the job goes on or is resumed, and does nothing again that was finished.

These are the faults that matter most; `make test-faults` strikes with all of them, in every place.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: RayCluster, mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    directory = tmp_path_factory.mktemp("undisturbed") / "job"
    return Undisturbed.run(mayors_run, directory, {"RAY_ADDRESS": ray_cluster.address})


@pytest.fixture
def ray_directory() -> Iterator[str]:
    """For a Ray of the job's own, where no other driver finds it."""
    directory = tempfile.mkdtemp(prefix="ray-")  # short: it holds Unix sockets
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("case", [CASES[name] for name in SHARED_RAY], ids=SHARED_RAY)
def test_a_job_survives(
    case: Case, ray_cluster: RayCluster, undisturbed: Undisturbed, mayors_run: Path, tmp_path: Path
) -> None:
    outcome = run_case(case, undisturbed, mayors_run, tmp_path / "job", {"RAY_ADDRESS": ray_cluster.address})
    assert not outcome.problems


def test_a_killed_driver_leaves_no_process_behind_and_its_job_is_resumed(
    undisturbed: Undisturbed, mayors_run: Path, tmp_path: Path, ray_directory: str
) -> None:
    case = CASES["kill -9 of the driver, middle"]
    outcome = run_case(case, undisturbed, mayors_run, tmp_path / "job", {"RAY_TMPDIR": ray_directory})
    assert not outcome.problems
    assert outcome.in_flight_lost == 1
