"""A job's figures on Weights & Biases, for `--logging_type wandb`: as it runs, and at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from evalgen.config import JobConfig
from evalgen.experiment import Experiment
from evalgen.grading.batch_progress import BatchProgress
from evalgen.progress import Progress
from evalgen.timings import Timings

LOG_EVERY_S = 5.0
STAGE = "log_to_wandb"

log = logging.getLogger(__name__)


class WandbLog:
    """One run, named as the experiment. WANDB_MODE=offline needs no network. Without `--logging_type wandb`, nothing.

    Whatever wandb cannot do is one warning: the job is in the experiment directory, and must not seem to have failed.
    That it begins and is told the results is the stage `log_to_wandb` of `timings`.
    """

    def __init__(self, config: JobConfig, experiment: Experiment, timings: Timings) -> None:
        self._config, self._experiment, self._timings = config, experiment, timings
        self._run: Any = None
        self._next_at = 0.0
        self._unlogged: dict[str, Any] = {}  # the last that was shown, if it came too soon

    def __enter__(self) -> WandbLog:
        if self._config.logging_type == "wandb":
            with self._timings.stage(STAGE):
                self._try(self._begin)
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        self._log_last_shown()
        self._try(lambda run: _end(run, exit_code=1 if error_type else 0))
        self._run = None

    def show(self, progress: Progress | BatchProgress) -> None:
        """To be called as often as is convenient, by any thread."""
        if self._run is None:
            return
        self._unlogged = {f"progress/{name}": value for name, value in progress.fields().items()}
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + LOG_EVERY_S
            self._log_last_shown()

    def finish(self, summary: dict[str, Any]) -> None:
        """The timings, and each dataset's figures in a table."""
        if self._run is None:
            return
        with self._timings.stage(STAGE):
            self._log_last_shown()
            self._try(lambda run: _log_summary(run, summary))

    def _log_last_shown(self) -> None:
        shown, self._unlogged = self._unlogged, {}
        if shown:
            self._try(lambda run: run.log(shown))

    def _begin(self, _: Any) -> None:
        import wandb

        wandb.setup(settings=wandb.Settings(silent=True))  # the terminal is ours
        self._run = wandb.init(
            project=self._config.wandb_project,
            name=self._experiment.directory.name,
            dir=self._experiment.directory,
            config=self._config.resolved(),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def _try(self, call: Callable[[Any], object]) -> None:
        if self._run is None and call != self._begin:
            return
        try:
            call(self._run)
        except Exception as error:  # of any kind, as said above
            self._run = None
            reason = " ".join(str(error).split())
            directory = self._experiment.directory
            log.warning("not logged to wandb (%s: %s); everything is in %s", type(error).__name__, reason, directory)


def _end(run: Any, exit_code: int) -> None:
    import wandb

    run.finish(exit_code=exit_code)
    wandb.teardown()  # waits for wandb's own process, which writes what was logged


def _log_summary(run: Any, summary: dict[str, Any]) -> None:
    import wandb

    datasets = summary["datasets"]
    run.log({f"timings/{stage}_s": seconds for stage, seconds in summary["timings"].items()})
    if datasets:
        table = wandb.Table(columns=list(datasets[0]), data=[list(dataset.values()) for dataset in datasets])
        run.log({"datasets": table})
