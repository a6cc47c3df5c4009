"""Runs the driver in this process, and reads what it wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, load_from_disk

from ray_jobs.generate_eval_datasets import main

MAYORS_GRADER = Path(__file__).parents[2] / "configs" / "mayors_grader.json"


@dataclass(frozen=True)
class Experiment:
    """An experiment directory."""

    path: Path

    @property
    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return content

    @property
    def dataset_names(self) -> list[str]:
        return sorted(path.name for path in (self.path / "sampled_eval_datasets").iterdir())

    def dataset(self, name: str) -> Dataset:
        dataset = load_from_disk(str(self.path / "sampled_eval_datasets" / name / "eval_dataset"))
        assert isinstance(dataset, Dataset)
        return dataset

    def rejects(self, name: str, file: str = "non_equivalent_completions.json") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.path / "sampled_eval_datasets" / name / file).read_text())
        return rows

    def rows_of(self, folder: str) -> list[dict[str, Any]]:
        """Every row of `samples/` or `verdicts/`, in the order of the file names."""
        files = sorted((self.path / folder).glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]


def mayors_arguments(run: Path, output_dir: Path, **overrides: object) -> list[str]:
    """Flags of a job over the mayors run that needs neither key nor network."""
    settings: dict[str, object] = {
        "data_model_path": run,
        "extract_from_eval_datasets": "^name_mayor_eval_qa_1_no_fs$",
        "grader_model": "offline/person_name",
        "grader_config_path": MAYORS_GRADER,
        "experiment_name": "sampled_mayors",
        "output_dataset_prefix": "sampled_mayors",
        "num_generations": 200,
        "temperature": 0.7,
        "max_new_tokens": 6,
        "dtype": "fp32",
        "output_dir": output_dir,
    }
    return [part for key, value in (settings | overrides).items() for part in (f"--{key}", str(value))]


def run_job(arguments: list[str], output_dir: Path) -> Experiment:
    """Runs the driver and returns the one experiment that it added to `output_dir`."""
    before = set(output_dir.glob("*"))
    assert main(arguments) == 0
    (added,) = set(output_dir.glob("*")) - before
    return Experiment(added)
