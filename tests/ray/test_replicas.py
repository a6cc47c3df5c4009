"""A job runs again from its `config.json`, to the same dataset however it is cut, spread and ordered."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from evalgen import units, work
from evalgen.records import SamplingUnit
from tests.ray.conftest import RayCluster
from tests.ray.jobs import Experiment, FinishedJob, run_job

NAME = "sampled_mayors_checkpoint_final"
MAX_DRAWS = 37  # of a unit: a prompt has several
OTHER = {"num_replicas": 2, "generation_batch_size": 1, "kv_budget_gib": 0.001, "quiet": "true"}


def test_config_json_runs_again_to_the_same_dataset_with_more_replicas_smaller_units_in_any_order_and_little_memory(
    mayors_job: FinishedJob,  # one replica, one unit
    joined_cluster: RayCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(units, "MAX_DRAWS", MAX_DRAWS)
    planned: list[SamplingUnit] = []

    def plan_shuffled(*arguments: Any) -> list[SamplingUnit]:
        planned.extend(units.plan_units(*arguments))
        Random(0).shuffle(planned)
        return planned

    monkeypatch.setattr(work, "plan_units", plan_shuffled)
    first = mayors_job.experiment
    flags = [part for key, value in {**OTHER, "output_dir": tmp_path}.items() for part in (f"--{key}", str(value))]
    again = run_job(["--config", str(first.path / "config.json"), *flags], tmp_path)
    captured = capfd.readouterr()
    assert max(len(unit.queries) * unit.num_draws for unit in planned) <= MAX_DRAWS
    assert _content(again) == _content(first)
    config, config_of_first = _config(again), _config(first)
    assert config["num_replicas"] == 2
    for name in (*OTHER, "output_dir"):
        del config[name], config_of_first[name]
    assert config == config_of_first
    assert captured.err == "" and captured.out.startswith("Grading statistics"), "quiet"


def _config(experiment: Experiment) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((experiment.path / "config.json").read_text())
    return config


def _content(experiment: Experiment) -> tuple[object, ...]:
    """Log-probabilities differ in the last bits with the shape of a batch; nothing else may."""
    draws = {
        (row["prompt_id"], index, tuple(row["token_ids"]))
        for row in experiment.rows_of("samples")
        for index in row["generation_indices"]
    }
    return experiment.rows_but_for_rounding(NAME), experiment.rejects_but_for_rounding(NAME), draws
