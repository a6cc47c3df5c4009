"""`ray job submit` against a running head node: results outlive the job's working directory, failures are readable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.ray.conftest import REPOSITORY, RayCluster
from tests.ray.jobs import mayors_arguments
from tests.ray.submission import SubmittedJob

SUBMIT_TIMEOUT_S = 300


def test_a_submitted_job_writes_where_ray_was_started_and_prints_the_statistics(
    submitted_job: SubmittedJob, ray_cluster: RayCluster
) -> None:
    """Its output directory and its grader's file are relative."""
    experiment = submitted_job.experiment
    assert experiment.path.parent == ray_cluster.started_in / "outputs"
    assert str(experiment.path) in submitted_job.stdout
    assert "Grading statistics" in submitted_job.stdout
    (figures,) = experiment.summary["datasets"]
    assert len(experiment.dataset("sampled_mayors_checkpoint_final")) == figures["num_items"] > 0


def test_a_failed_submission_exits_non_zero_with_a_readable_line(ray_cluster: RayCluster, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", ray_cluster.dashboard]
    command += ["--working-dir", ".", "--", "python", "ray_jobs/generate_eval_datasets.py"]
    command += mayors_arguments(tmp_path / "no_such_run", tmp_path)
    finished = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=SUBMIT_TIMEOUT_S, check=False
    )
    assert finished.returncode != 0
    assert f"error: data_model_path {tmp_path / 'no_such_run'} does not exist" in finished.stdout
    assert "Traceback" not in finished.stdout
    assert list(tmp_path.iterdir()) == []
