"""Which of a job's runs a dataset is of, and so with which settings it was made, by the files that the job leaves."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evalgen.config import RunConfig
from evalgen.model_source import ModelSource
from evalgen.runs import directory_of_checkpoint


def run_configs(config: Mapping[str, Any]) -> list[RunConfig]:
    """The runs of a job, of its `config.json`; none if there is no such file, or one that this version cannot read."""
    shared = {key: value for key, value in config.items() if key in RunConfig.model_fields}
    try:
        return [RunConfig(**{**shared, **own}) for own in config.get("runs") or [{}]] if config else []
    except ValidationError:
        return []


def settings_of_dataset(figures: Mapping[str, Any], runs: Sequence[RunConfig]) -> RunConfig | None:
    """Of the run that the dataset is of; `figures` are its own in `summary.json`.

    None where these do not tell: several runs are as likely, or none is.
    """
    name, label, checkpoint = figures["name"], figures["run"], figures["checkpoint"]
    named = [
        run
        for run in runs
        if name in (f"{run.output_dataset_prefix}_{it}" for it in (checkpoint, f"{label}_{checkpoint}"))
    ]
    given = [run for run in named if _is_checkpoint(run, label, checkpoint)]
    with_it = [run for run in named if any(fnmatch.fnmatchcase(checkpoint, it) for it in run.checkpoint_patterns)]
    likely = given or [run for run in with_it if _has_label(run, label)] or with_it or named
    return likely[0] if likely and all(run == likely[0] for run in likely) else None


def _is_checkpoint(run: RunConfig, label: str, checkpoint: str) -> bool:
    """It is a checkpoint that was given by itself, or by its hub id: this ends in what the figures call it."""
    path = Path(ModelSource.of(run.data_model_path or "").name)
    return (directory_of_checkpoint(path).name, path.name) == (label, checkpoint)


def _has_label(run: RunConfig, label: str) -> bool:
    """With several inner runs a run's label goes on behind its name."""
    name = Path(run.data_model_path or "").resolve().name
    return label == name or label.startswith(f"{name}_")
