"""`ray job submit` against a running head node: results outlive the job's working directory, failures are readable."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from tests.messages_api import MessagesApi
from tests.ray.conftest import REPOSITORY, RayCluster
from tests.ray.jobs import Experiment, mayors_arguments
from tests.ray.submission import KEY, MODEL, PATIENCE_S, SubmittedJob, submitted, write_key_file
from tests.waiting import wait_until

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


def test_a_submitted_job_that_is_stopped_goes_on_with_what_it_printed(
    mayors_run: Path, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    client = JobSubmissionClient(ray_cluster.dashboard)
    with MessagesApi(api_key=KEY) as api:
        key_file = write_key_file(tmp_path, api)
        held = [api.hold(number) for number in range(5, 100)]
        arguments = mayors_arguments(mayors_run, tmp_path / "outputs", grader_model=MODEL, max_connections=3)
        with submitted(ray_cluster, "to_be_stopped", key_file, arguments) as job:
            wait_until(lambda: held[0].has_arrived or job.poll() is not None, PATIENCE_S, "the judge is asked")
            ray = str(Path(sys.executable).with_name("ray"))
            command = [ray, "job", "stop", "--address", ray_cluster.dashboard, "to_be_stopped"]
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
            printed = job.communicate(timeout=PATIENCE_S)[0].decode()
        for request in held:
            request.release()
        assert (job.returncode, client.get_job_status("to_be_stopped")) == (0, JobStatus.STOPPED), "as the README says"
        assert "SIGTERM: stopping. All that is finished is kept. Go on with:" in printed
        (resume,) = re.findall(r"the same `ray job submit`, with (--resume \S+) in place of all arguments", printed)
        (path,) = (tmp_path / "outputs").iterdir()
        sampled = {file: file.stat().st_mtime_ns for file in (path / "samples").glob("*.parquet")}
        with submitted(ray_cluster, "gone_on_with", key_file, resume.split()) as job:
            printed = job.communicate(timeout=PATIENCE_S)[0].decode()
    assert job.returncode == 0 and "Grading statistics" in printed, printed
    assert sampled and sampled == {file: file.stat().st_mtime_ns for file in sampled}
    (figures,) = Experiment(path).summary["datasets"]
    assert figures["num_ungraded"] == 0 < figures["num_items"]
