"""Logs a finished job to Weights & Biases, for `--logging_type wandb`."""

from __future__ import annotations

import logging
from typing import Any

from evalgen.config import JobConfig
from evalgen.experiment import Experiment

log = logging.getLogger(__name__)


def log_to_wandb(config: JobConfig, experiment: Experiment, summary: dict[str, Any]) -> None:
    """One run, named as the experiment: each dataset's figures and the timings. WANDB_MODE=offline needs no network."""
    try:
        _log(config, experiment, summary)
    except Exception as error:  # of any kind: the job is done and written, and must not seem to have failed
        reason = " ".join(str(error).split())
        log.warning(
            "not logged to wandb (%s: %s); everything is in %s", type(error).__name__, reason, experiment.directory
        )


def _log(config: JobConfig, experiment: Experiment, summary: dict[str, Any]) -> None:
    import wandb

    with wandb.init(
        project=config.wandb_project,
        name=experiment.directory.name,
        dir=experiment.directory,
        config=config.resolved(),
    ) as run:
        datasets = summary["datasets"]
        run.log({f"timings/{stage}_s": seconds for stage, seconds in summary["timings"].items()})
        if datasets:
            table = wandb.Table(columns=list(datasets[0]), data=[list(dataset.values()) for dataset in datasets])
            run.log({"datasets": table})
    wandb.teardown()  # waits for wandb's own process, which writes what was logged
