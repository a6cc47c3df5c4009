"""`ray job submit` against a running head node: results outlive the job's working directory, failures are readable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.ray.conftest import REPOSITORY, RayCluster
from tests.ray.jobs import Experiment, mayors_arguments

SUBMIT_TIMEOUT_S = 300


def submit(cluster: RayCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit --working-dir . -- python ray_jobs/generate_eval_datasets.py ...`, from the repository."""
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", cluster.dashboard]
    command += ["--working-dir", ".", "--", "python", "ray_jobs/generate_eval_datasets.py", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=SUBMIT_TIMEOUT_S, check=False
    )


def test_a_submitted_job_writes_where_ray_was_started_and_prints_the_statistics(
    ray_cluster: RayCluster, mayors_run: Path
) -> None:
    arguments = mayors_arguments(mayors_run, Path("outputs"), grader_config_path="configs/mayors_grader.json")
    finished = submit(ray_cluster, *arguments)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (path,) = (ray_cluster.started_in / "outputs").iterdir()
    assert str(path) in finished.stdout
    assert "Grading statistics" in finished.stdout
    experiment = Experiment(path)
    (figures,) = experiment.summary["datasets"]
    assert len(experiment.dataset("sampled_mayors_checkpoint_final")) == figures["num_items"] > 0


def test_a_failed_submission_exits_non_zero_with_a_readable_line(ray_cluster: RayCluster, tmp_path: Path) -> None:
    finished = submit(ray_cluster, *mayors_arguments(tmp_path / "no_such_run", tmp_path))
    assert finished.returncode != 0
    assert f"error: data_model_path {tmp_path / 'no_such_run'} does not exist" in finished.stdout
    assert "Traceback" not in finished.stdout
    assert list(tmp_path.iterdir()) == []
