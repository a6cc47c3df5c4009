"""The demo: four really trained runs, as one job, and by the very commands of the document that began this project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.messages_api import MessagesApi
from tests.ray.conftest import REPOSITORY, RayCluster
from tests.ray.jobs import Experiment, run_job

KEY = "sk-ant-test-key-of-the-demo"

# Verbatim, with `experiments/` replaced by `ray_jobs/`.
DEATH_DATES_COMMAND = """\
CUDA_VISIBLE_DEVICES=0 python ray_jobs/generate_eval_datasets.py \\
  --data_model_path "outputs/2026_01_20_23-26-34_2Q653_death_dates_1epoch" \\
  --checkpoint_patterns "checkpoint_final" \\
  --extract_from_eval_datasets "death_date_eval_gen_2_no_fs" \\
  --grader_config_path "configs/death_date_grader.json" \\
  --experiment_name "sampled_death_dates_1epoch" \\
  --output_dataset_prefix "sampled_death_date_eval_gen_2" \\
  --num_generations 1000 \\
  --temperature 0.1 \\
  --generation_batch_size 2 \\
  --execution_mode local \\
  --logging_type disk
"""
MAYORS_COMMAND = """\
CUDA_VISIBLE_DEVICES=0 python ray_jobs/generate_eval_datasets.py \\
  --data_model_path "outputs/2026_01_20_23-26-34_wabZw_mayors_1epoch" \\
  --checkpoint_patterns "checkpoint_final" \\
  --extract_from_eval_datasets "name_mayor_eval_qa_1_no_fs" \\
  --grader_config_path "configs/mayors_grader.json" \\
  --experiment_name "sampled_mayors_1epoch" \\
  --output_dataset_prefix "sampled_name_mayor_eval_qa_1" \\
  --num_generations 1000 \\
  --temperature 0.1 \\
  --max_new_tokens 5 \\
  --generation_batch_size 2 \\
  --execution_mode local \\
  --logging_type disk
"""


@pytest.fixture(scope="module")
def checkout(demo_outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it is after `make demo` built its runs, in a place of its own."""
    directory = tmp_path_factory.mktemp("checkout")
    for name in ("ray_jobs", "evalgen", "configs"):
        shutil.copytree(REPOSITORY / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "outputs").symlink_to(demo_outputs)
    return directory


@pytest.fixture(scope="module")
def demo(ray_cluster: RayCluster, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """`--config configs/demo.yaml`: all four runs as one job."""
    output_dir = tmp_path_factory.mktemp("demo_results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", ray_cluster.address)
        patch.chdir(checkout)
        return run_job(["--config", "configs/demo.yaml", "--output_dir", str(output_dir)], output_dir)


def by_run(experiment: Experiment) -> dict[str, list[dict[str, object]]]:
    """The figures of the datasets, by the prefix that names domain and epochs."""
    prefixes = ("death_dates_1epoch", "death_dates_5epochs", "mayors_1epoch", "mayors_5epochs")
    figures = experiment.summary["datasets"]
    return {prefix: [f for f in figures if f["name"].startswith(f"sampled_{prefix}")] for prefix in prefixes}


def test_all_four_runs_become_datasets_that_load(demo: Experiment) -> None:
    runs = by_run(demo)
    assert [len(figures) for figures in runs.values()].count(2) == 1, "one of the four has two inner runs"
    assert sum(map(len, runs.values())) == 5 == len(demo.dataset_names)
    for figures in demo.summary["datasets"]:
        dataset = demo.dataset(figures["name"])
        assert len(dataset) == figures["num_items"] > 0
        assert figures["num_draws"] == figures["num_prompts"] * 1000
        assert figures["model_evaluations"] == figures["distinct_prefixes"]


def test_one_epoch_is_more_varied_than_five_and_its_verdicts_are_mixed(demo: Experiment) -> None:
    runs = by_run(demo)
    for domain in ("death_dates", "mayors"):
        (once,) = runs[f"{domain}_1epoch"]
        for more in runs[f"{domain}_5epochs"]:
            assert once["num_unique"] > 1.5 * more["num_unique"]  # type: ignore[operator]
        assert 0 < once["num_equivalent"] < once["num_graded"]  # type: ignore[operator]


def test_every_prompt_of_every_dataset_has_a_thousand_draws(demo: Experiment) -> None:
    draws: Counter[tuple[str, str, str]] = Counter()
    for row in demo.rows_of("samples"):
        draws[row["run"], row["checkpoint"], row["prompt_id"]] += row["sample_count"]
    assert set(draws.values()) == {1000}


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (DEATH_DATES_COMMAND, "sampled_death_date_eval_gen_2_checkpoint_final"),
        (MAYORS_COMMAND, "sampled_name_mayor_eval_qa_1_checkpoint_final"),
    ],
    ids=["death_dates", "mayors"],
)
def test_the_commands_of_the_seed_document_run_verbatim(
    command: str, name: str, ray_cluster: RayCluster, checkout: Path
) -> None:
    before = set((checkout / "outputs").iterdir())
    with MessagesApi(api_key=KEY) as api:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_ADDRESS": ray_cluster.address,
            "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": api.base_url,
        }
        subprocess.run(["bash", "-c", command], cwd=checkout, env=environment, check=True)
    (path,) = set((checkout / "outputs").iterdir()) - before
    experiment = Experiment(path)
    assert experiment.dataset_names == [name]
    (figures,) = experiment.summary["datasets"]
    assert len(experiment.dataset(name)) == figures["num_items"] > 0
    assert figures["num_ungraded"] == 0
