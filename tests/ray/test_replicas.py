"""The dataset is the same with any number of replicas, and with units of any size, sampled in any order."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from evalgen import units, work
from evalgen.records import SamplingUnit
from tests.ray.conftest import RayCluster
from tests.ray.jobs import Experiment, FinishedJob, mayors_arguments, run_job

NAME = "sampled_mayors_checkpoint_final"
NUM_DRAWS = 200


@pytest.mark.parametrize(
    ("num_replicas", "max_draws"),
    [(1, 3 * NUM_DRAWS), (4, 37)],  # `test_job` has two replicas
    ids=["1 replica, some prompts a unit", "4 replicas, some draws of a prompt a unit"],
)
def test_the_dataset_does_not_depend_on_replicas_or_on_the_size_and_order_of_units(
    num_replicas: int,
    max_draws: int,
    mayors_job: FinishedJob,  # one replica, one unit
    joined_cluster: RayCluster,
    mayors_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(units, "MAX_DRAWS", max_draws)  # of a unit, of all its prompts together
    planned: list[SamplingUnit] = []

    def plan_shuffled(*arguments: Any) -> list[SamplingUnit]:
        planned.extend(units.plan_units(*arguments))
        Random(0).shuffle(planned)
        return planned

    monkeypatch.setattr(work, "plan_units", plan_shuffled)
    experiment = run_job(
        mayors_arguments(mayors_run, tmp_path, num_replicas=num_replicas, num_generations=NUM_DRAWS), tmp_path
    )
    assert max(len(unit.queries) * unit.num_draws for unit in planned) <= max_draws
    assert _content(experiment) == _content(mayors_job.experiment)


def _content(experiment: Experiment) -> tuple[object, ...]:
    """Log-probabilities differ in the last bits with the shape of a batch; nothing else may."""
    rejects = [{**row, "logprob": None, "logprob_sampling": None} for row in experiment.rejects(NAME)]
    draws = {
        (row["prompt_id"], index, tuple(row["token_ids"]))
        for row in experiment.rows_of("samples")
        for index in row["generation_indices"]
    }
    return experiment.rows_but_for_rounding(NAME), rejects, draws
