"""Runs the driver, in this process or in one of its own, and reads what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from datasets import Dataset, load_from_disk

from evalgen.unit_store import UnitStore
from ray_jobs.generate_eval_datasets import main

REPOSITORY = Path(__file__).parents[2]
MAYORS_GRADER = REPOSITORY / "configs" / "mayors_grader.json"
DRIVER = REPOSITORY / "ray_jobs" / "generate_eval_datasets.py"


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

    def rows_but_for_rounding(self, name: str) -> list[dict[str, Any]]:
        """Log-probs, and weights made from them, differ in the last bits with a batch's shape; nothing else may."""
        inexact = ["logprob", "logprob_sampling", "token_logprobs", "weight"]
        rows: list[dict[str, Any]] = self.dataset(name).remove_columns(inexact).to_list()
        return rows

    def rejects_but_for_rounding(self, name: str) -> list[dict[str, Any]]:
        return [{**row, "logprob": None, "logprob_sampling": None} for row in self.rejects(name)]

    def rejects(self, name: str, file: str = "non_equivalent_completions.json") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.path / "sampled_eval_datasets" / name / file).read_text())
        return rows

    def rows_of(self, folder: str) -> list[dict[str, Any]]:
        """Every row of `samples/` or `verdicts/`, in the order of the file names."""
        files = sorted((self.path / folder).glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def samples_of(self, name: str) -> list[dict[str, Any]]:
        """The rows of `samples/` that one of several datasets was made from."""
        with closing(UnitStore(self.path / "samples")) as store:
            units = [unit.unit_id for unit in store.stored if unit.dataset == name]
            return [row for unit_id in units for row in store.load(unit_id).to_pylist()]

    def figures(self, name: str) -> dict[str, Any]:
        """What the summary says of one dataset."""
        (figures,) = [figures for figures in self.summary["datasets"] if figures["name"] == name]
        return dict(figures)


@dataclass(frozen=True, kw_only=True)
class FinishedJob:
    """An experiment, and what the process that made it printed. Its terminal was none."""

    experiment: Experiment
    stdout: str
    stderr: str


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


def several_runs(arguments: list[str], file: Path, *runs: dict[str, object]) -> list[str]:
    """`arguments` as one job with these runs, each with settings of its own; they are written to `file`."""
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    shared = {flag.removeprefix("--"): yaml.safe_load(value) for flag, value in pairs}
    file.write_text(yaml.safe_dump({**shared, "runs": list(runs)}))
    return ["--config", str(file)]


def run_as_process(
    arguments: list[str], output_dir: Path, ray_address: str, settings: Mapping[str, str] = {}
) -> FinishedJob:
    """As `run_job`, by the command that a user types. `settings`: of its environment."""
    finished = subprocess.run(
        [sys.executable, str(DRIVER), *arguments],
        env={**os.environ, "RAY_ADDRESS": ray_address, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    (path,) = output_dir.iterdir()
    return FinishedJob(experiment=Experiment(path), stdout=finished.stdout, stderr=finished.stderr)
