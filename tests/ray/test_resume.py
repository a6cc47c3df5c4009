"""Going on with an experiment: more draws, another judge, and prompts that could not be sampled the first time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ray_jobs.generate_eval_datasets import main
from tests.ray.conftest import RayCluster
from tests.ray.jobs import Experiment, FinishedJob, mayors_arguments, run_job

NAME = "sampled_mayors_checkpoint_final"


def draws_of(experiment: Experiment) -> dict[tuple[str, int], tuple[int, ...]]:
    """The tokens of every draw, each stored once."""
    draws: dict[tuple[str, int], tuple[int, ...]] = {}
    sequences = set()
    for row in experiment.rows_of("samples"):
        sequence = (row["checkpoint"], row["prompt_id"], tuple(row["token_ids"]))
        assert sequence not in sequences, "one row for each distinct sequence"
        sequences.add(sequence)
        for index in row["generation_indices"]:
            assert (row["prompt_id"], index) not in draws
            draws[row["prompt_id"], index] = sequence[2]
    return draws


def test_more_draws_sample_only_the_new_ones_and_give_the_dataset_of_a_larger_job(
    mayors_job: FinishedJob, joined_cluster: RayCluster, mayors_run: Path, tmp_path: Path
) -> None:
    whole = mayors_job.experiment
    small = run_job(mayors_arguments(mayors_run, tmp_path, num_generations=120), tmp_path)
    before = draws_of(small)
    evaluations = small.summary["datasets"][0]["model_evaluations"]
    assert main(["--resume", str(small.path), "--num_generations", "200"]) == 0
    after = draws_of(small)
    assert before.items() < after.items() and len(after) == 2000
    assert after == draws_of(whole)
    assert small.rows_but_for_rounding(NAME) == whole.rows_but_for_rounding(NAME)
    assert small.rejects_but_for_rounding(NAME) == whole.rejects_but_for_rounding(NAME)
    assert small.summary["datasets"][0]["num_draws"] == 2000
    assert evaluations < small.summary["datasets"][0]["model_evaluations"] < 2 * evaluations


def test_another_judge_samples_nothing(mayors_job: FinishedJob, joined_cluster: RayCluster, tmp_path: Path) -> None:
    first = Experiment(tmp_path / mayors_job.experiment.path.name)
    shutil.copytree(mayors_job.experiment.path, first.path)
    samples = {path.name: path.read_bytes() for path in (first.path / "samples").iterdir()}
    named = first.dataset(NAME).to_list()
    assert main(["--resume", str(first.path), "--grader_model", "offline/exact"]) == 0
    assert {path.name: path.read_bytes() for path in (first.path / "samples").iterdir()} == samples
    exact = first.dataset(NAME).to_list()
    assert 0 < len(exact) < len(named)
    assert {row["grader_model"] for row in exact} == {"offline/exact"}


def test_a_checkpoint_that_cannot_be_loaded_leaves_the_others_whole_and_is_made_up_for(
    joined_cluster: RayCluster, mayors_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(mayors_run, run)
    (weights,) = run.glob("all_docs_runs/*/checkpoint_start/*.safetensors")
    whole = weights.read_bytes()
    tensors = load_file(weights)
    tensors.pop(sorted(tensors)[-1])
    save_file(tensors, weights, metadata={"format": "pt"})
    arguments = mayors_arguments(run, tmp_path / "out", num_generations=20, checkpoint_patterns="checkpoint_*")
    assert main(arguments) == 1
    last_line = capfd.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("error: 10 prompts of 1 datasets could not be sampled")
    assert f"checkpoint {weights.parent} lacks 1 of the model's tensors" in last_line
    assert "(node " in last_line and "--resume" in last_line
    (path,) = (tmp_path / "out").iterdir()
    experiment = Experiment(path)
    names = experiment.dataset_names
    assert [name for name in names if name.endswith(".partial")] == ["sampled_mayors_checkpoint_start.partial"]
    assert len(experiment.dataset("sampled_mayors_checkpoint_start.partial")) == 0
    missing = experiment.rejects("sampled_mayors_checkpoint_start.partial", "missing.json")
    assert len(missing) == 10 and all("lacks 1" in row["reason"] for row in missing)
    other = experiment.dataset(NAME).to_list()
    assert other

    weights.write_bytes(whole)
    assert main(["--resume", str(path)]) == 0
    assert experiment.dataset_names == [name.removesuffix(".partial") for name in names]
    assert experiment.dataset(NAME).to_list() == other
    assert [figures["num_missing_prompts"] for figures in experiment.summary["datasets"]] == [0] * len(names)
