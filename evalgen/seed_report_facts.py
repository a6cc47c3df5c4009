"""What an experiment directory says of itself: its datasets with their settings, figures and prompts.

Only files are read that a job leaves behind, so that a report can be made wherever the directory was copied to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalgen.config import RunConfig
from evalgen.dataset_files import PARTIAL, REJECTS_FILE
from evalgen.dataset_settings import run_configs, settings_of_dataset
from evalgen.errors import InputError
from evalgen.experiment import Experiment
from evalgen.plan_file import PLAN_FILE
from evalgen.records import GraderSpec
from evalgen.resume import CONFIG_FILE

# Settings of a job that say how its datasets were made; the other ones of the job are about one machine or one day.
JOB_SETTINGS = ("execution_mode", "num_replicas", "num_gpus_per_replica", "max_connections", "use_grader_cache")


@dataclass(frozen=True, kw_only=True)
class ReportedDataset:
    """One dataset of an experiment."""

    directory: Path
    figures: Mapping[str, Any]  # its entry in `summary.json`
    prompts: tuple[Mapping[str, Any], ...]  # likewise
    settings: RunConfig | None  # None: of which run of the job it is, the files do not tell
    job_settings: Mapping[str, Any]
    grader: GraderSpec
    earlier: Path | None  # the whole one of an earlier part of the job, where this one is partial; None: there is none

    @property
    def name(self) -> str:
        return str(self.figures["name"])

    @property
    def is_enumerated(self) -> bool:
        return self.figures["num_draws"] is None

    @cached_property
    def sources(self) -> list[str]:
        """The eval datasets that its prompts are from, by its rows and rejects."""
        files = [self._rows_file, self.directory / REJECTS_FILE]
        found: set[str] = set()
        for file in files:
            if file.exists():  # older versions wrote no rejects as Parquet
                metadata = pq.read_table(file, columns=["metadata"])["metadata"]
                found |= set(pc.unique(pc.struct_field(metadata, "source_dataset")).to_pylist())
        return sorted(found - {""})

    @cached_property
    def example(self) -> str | None:
        """The completion that most draws gave, as it was before it was cut; None: there is no row that was drawn."""
        rows = pq.read_table(self._rows_file, columns=["raw_completion", "sample_count"])
        counts = rows["sample_count"]
        if counts.null_count == len(counts):
            return None
        return str(rows["raw_completion"][pc.index(counts, pc.max(counts)).as_py()].as_py())

    @property
    def _rows_file(self) -> Path:
        return self.directory / "eval_dataset" / "data" / "0000.parquet"


@dataclass(frozen=True, kw_only=True)
class ReportedExperiment:
    """An experiment whose job has ended."""

    directory: Path
    datasets: tuple[ReportedDataset, ...]
    timings: Mapping[str, float]  # seconds, by stage

    @classmethod
    def of_directory(cls, directory: Path) -> ReportedExperiment:
        """Reads it.

        Raises:
            InputError: no experiment, or one whose job has not ended.
        """
        for name in ("summary.json", CONFIG_FILE, PLAN_FILE):
            if not (directory / name).is_file():
                raise InputError(f"{directory} has no {name}; give the directory of an experiment that has ended")
        summary, config, plan = (_json(directory / name) for name in ("summary.json", CONFIG_FILE, PLAN_FILE))
        runs = run_configs(config)
        datasets = [_dataset(directory, figures, summary, config, plan, runs) for figures in summary["datasets"]]
        return cls(directory=directory, datasets=tuple(datasets), timings=summary["timings"])


def _dataset(
    directory: Path,
    figures: Mapping[str, Any],
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    plan: Mapping[str, Any],
    runs: Sequence[RunConfig],
) -> ReportedDataset:
    name = figures["name"]
    if "grader" not in plan[name]:
        raise InputError(f"{directory / PLAN_FILE} names no graders: an older version wrote it; --resume it once")
    folder = name + (PARTIAL if figures["num_missing_prompts"] else "")
    experiment = Experiment(directory)
    earlier = experiment.earlier_datasets / name
    return ReportedDataset(
        directory=experiment.datasets / folder,
        figures=figures,
        prompts=tuple(prompt for prompt in summary["prompts"] if prompt["dataset"] == name),
        settings=settings_of_dataset(figures, runs),
        job_settings={key: config[key] for key in JOB_SETTINGS},
        grader=GraderSpec(**plan[name]["grader"]),
        earlier=earlier if earlier.exists() else None,
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
