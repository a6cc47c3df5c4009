"""What a real job says besides how far it is: where it can be watched, and at its end where its files are."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.ray.conftest import RayCluster
from tests.ray.jobs import FinishedJob


def log_of(job: FinishedJob) -> str:
    return (job.experiment.path / "experiment.log").read_text(encoding="utf-8")


def test_a_job_says_where_it_can_be_watched_and_not_the_dashboards_token(
    mayors_job: FinishedJob, ray_cluster: RayCluster
) -> None:
    path = mayors_job.experiment.path
    begun, writing, *_ = mayors_job.stdout.splitlines()
    assert begun == f"Experiment: {path}; Dashboard: {ray_cluster.dashboard}"
    assert writing == "Stopping Ray, then writing the datasets and the report"
    assert f" INFO begun experiment={path} dashboard={ray_cluster.dashboard}\n" in log_of(mayors_job)
    assert os.environ["RAY_AUTH_TOKEN"] not in mayors_job.stdout + mayors_job.stderr + log_of(mayors_job)


def test_every_place_that_is_told_at_the_end_is_there(mayors_job: FinishedJob) -> None:
    places = dict(re.findall(r"^(.+): (/.+)$", mayors_job.stdout.partition("Seconds by stage")[2], re.MULTILINE))
    assert list(places) == ["Datasets", "Samples, verdicts, summary.json", "Report", "How they were made"]
    assert all(Path(path).exists() for path in places.values())
