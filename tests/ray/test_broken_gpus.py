"""GPUs that fail whatever they are given, and GPUs that other jobs have."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from evalgen import units
from evalgen.errors import ConfigError, LoadFailed
from evalgen.load_config import load_config
from evalgen.records import SamplingUnit
from evalgen.sampling.replica import Replica
from evalgen.unit_store import SamplingCost
from ray_jobs.cluster import num_free_gpus
from ray_jobs.generate_eval_datasets import run_job
from ray_jobs.replicas import choose_num_replicas
from tests.ray.jobs import Experiment, FinishedJob, mayors_arguments
from tests.waiting import wait_until

NAME = "sampled_mayors_checkpoint_final"
PATIENCE_S = 120
BROKEN_GPU = 0
LEAST_UNITS = 10
ERRORS = {
    "breaks": torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    "does not load": LoadFailed("checkpoint checkpoint_final cannot be loaded: Stale file handle"),
}


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[str]:
    """The address of a cluster with two GPUs that are none: replicas on them sample on the CPU."""
    directory = tempfile.mkdtemp(prefix="ray-")  # short: it holds Unix sockets
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", directory)  # other drivers are not to find the cluster
        head = {"num_cpus": 2, "num_gpus": 2, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        yield str(cluster.address)
        cluster.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


class HalfBroken:
    """A replica, real but on one of the GPUs."""

    def __init__(self, error: Exception, record: Path) -> None:
        torch.set_num_threads(1)
        self._replica = Replica(torch.device("cpu"))
        (self._gpu,) = ray.get_gpu_ids()
        self._error, self._record = error, record

    def sample(self, unit: SamplingUnit, next_checkpoint: str) -> tuple[pa.Table, SamplingCost]:
        with self._record.open("a") as record:
            record.write(f"{self._gpu}\n")
        if int(self._gpu) == BROKEN_GPU:
            raise self._error
        wait_until(lambda: str(BROKEN_GPU) in self._record.read_text().split(), PATIENCE_S, "the other had a unit")
        return self._replica.sample(unit, next_checkpoint)


@pytest.mark.parametrize("kind", ERRORS)
def test_the_units_of_a_broken_gpu_move_to_the_other(
    kind: str,
    two_gpus: str,
    mayors_job: FinishedJob,
    mayors_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", two_gpus)
    monkeypatch.setattr(units, "MAX_DRAWS", 100)  # of a unit: so that there are more than replicas
    record = tmp_path / "gpus_that_sampled"
    config = load_config(mayors_arguments(mayors_run, tmp_path / "outputs"), tmp_path)
    experiment = run_job(config, make_engine=lambda: HalfBroken(ERRORS[kind], record))
    finished = Experiment(experiment.directory)
    assert finished.rows_but_for_rounding(NAME) == mayors_job.experiment.rows_but_for_rounding(NAME)
    assert finished.figures(NAME)["num_missing_prompts"] == 0
    given = record.read_text().split()
    num_failed = given.count(str(BROKEN_GPU))
    assert 1 <= num_failed <= 2, "it was asked again and again"
    assert len(given) - num_failed >= LEAST_UNITS


def test_a_job_says_that_it_waits_for_gpus_that_others_have(
    two_gpus: str, mayors_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(mayors_arguments(mayors_run, tmp_path), tmp_path)
    ray.init(two_gpus)
    try:
        wait_until(lambda: num_free_gpus() == 2, PATIENCE_S, "the jobs before have given theirs back")
        assert choose_num_replicas(config) == 2
        assert not warnings_of(caplog)
        with pytest.raises(ConfigError, match="num_gpus_per_replica: 3 asked for, but the cluster has 2"):
            choose_num_replicas(config.model_copy(update={"num_gpus_per_replica": 3}))
        other = ray.remote(num_gpus=1)(Counter).remote()
        wait_until(lambda: num_free_gpus() == 1, PATIENCE_S, "another job has a GPU")
        assert choose_num_replicas(config) == 2
        del other
    finally:
        ray.shutdown()
    assert warnings_of(caplog) == ["2 GPUs wanted, 1 of 2 are free: replicas wait for those that other jobs have"]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
