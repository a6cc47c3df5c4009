"""The main job: fine-tuned checkpoints in, graded evaluation datasets out. Read this file first.

    python ray_jobs/generate_eval_datasets.py --help
    ray job submit --working-dir . -- python ray_jobs/generate_eval_datasets.py --config configs/demo.yaml

Exit codes: 0 done; 1 the job failed, or some prompts did; 2 the input is wrong, and nothing was created or spent;
130 and 143 stopped by Ctrl-C and SIGTERM. After 1, 130 and 143 `--resume DIRECTORY` goes on where the job was.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalgen.config import JobConfig
from evalgen.errors import JobStopped
from evalgen.job_log import JobLog, fields
from evalgen.load_config import check_can_write, load_config
from evalgen.plain_lines import tell
from evalgen.timings import Timings
from ray_jobs.exit_codes import exit_code_of
from ray_jobs.garbage import imported_for_good
from ray_jobs.paths import path_root
from ray_jobs.stop import Resumable

if TYPE_CHECKING:
    from evalgen.experiment import Experiment
    from evalgen.job import DatasetPlan
    from evalgen.schedule import FailedUnit
    from evalgen.wandb_log import WandbLog
    from ray_jobs.sampling import Engine

log = logging.getLogger("evalgen.driver")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job that the command line describes; returns the exit code."""

    def run() -> None:
        config = load_config(sys.argv[1:] if argv is None else argv, path_root())
        if config.dry_run:
            show_forecast(config)
        else:
            check_can_write(config)
            run_job(config, timings=Timings.of_process() if argv is None else None)

    return exit_code_of(run, if_interrupted="interrupted before anything was begun")


def show_forecast(config: JobConfig) -> None:
    """What the job would ask and cost at most. No model is loaded, and nothing made."""
    from evalgen.forecast import forecast
    from evalgen.grading.prices import load_prices
    from evalgen.job import check_tokenizers, plan_datasets
    from evalgen.tables import print_forecast

    with JobLog(has_file=False):
        plans, prices = plan_datasets(config), load_prices(config.prices)
        check_tokenizers(plans)
    print_forecast(forecast(plans, prices), prices.as_of, config.max_grading_cost_usd)


def run_job(
    config: JobConfig, make_engine: Callable[[], Engine] | None = None, timings: Timings | None = None
) -> Experiment:
    """Every stage in order. Returns the experiment, with its datasets written.

    `make_engine` is called in each sampling process for what samples there; None: a replica of the model.
    `timings` has what was before; None: they begin here.

    Raises:
        UserError: the input is wrong; nothing was created.
        JobStopped: the job cannot go on, or some prompts could not be sampled; all else is in the experiment directory.
    """
    timings = timings or Timings()
    with JobLog(to_stdout=config.logging_type == "stdout") as job_log:
        with timings.stage("resolve"):  # imported where it is needed: --help and the errors of a user wait for nothing
            from evalgen.job import plan_datasets

            plans = plan_datasets(config)
            if config.push_to_hub:
                from evalgen.hub import check_can_push

                check_can_push(config.push_to_hub)
        with timings.stage("import"), imported_for_good():
            import ray_jobs.pipeline  # noqa: F401 (used later, but here it is seen how long it takes)
            from evalgen.experiment import Experiment
            from ray_jobs.cluster import ray_session
            from ray_jobs.replicas import MakeReplica, choose_num_replicas

        experiment = Experiment(Path(config.resume)) if config.resume else Experiment.named(config)
        on_dashboard = {"job_name": experiment.directory.name, "evalgen_experiment": str(experiment.directory)}
        with (
            Resumable(experiment.directory, is_begun=bool(config.resume)) as resumable,
            ray_session(timings, on_dashboard, meanwhile=lambda: get_ready(plans)) as (until_ray_ends, dashboard),
        ):
            from evalgen.wandb_log import WandbLog

            num_replicas = choose_num_replicas(config)
            if not config.resume:
                experiment.make_directory()
            with experiment.begun(config, plans):
                resumable.begun()
                job_log.open(experiment.log_file)
                log.info("begun", extra=fields(experiment=str(experiment.directory), dashboard=dashboard))
                _say(config, f"Experiment: {experiment.directory}" + (f"; Dashboard: {dashboard}" if dashboard else ""))
                # Ray ends here too, before what may wait for the network.
                with WandbLog(config, experiment, timings) as wandb_log, until_ray_ends:
                    make_engine = make_engine or MakeReplica.of_job(config, num_replicas)
                    job = _Job(config, experiment, plans, timings, wandb_log)
                    failed = job.sample_and_judge(num_replicas, make_engine)
                    _say(config, "Stopping Ray, then writing the datasets and the report")
                    until_ray_ends.close()
                    job.write_results(failed)
        log.info("done", extra=fields(num_datasets=len(plans), total_s=round(timings.total_s(), 3)))
    return experiment


@dataclass(frozen=True)
class _Job:
    """What follows when its directory and a Ray are there."""

    config: JobConfig
    experiment: Experiment
    plans: Sequence[DatasetPlan]
    timings: Timings
    wandb_log: WandbLog

    def sample_and_judge(self, num_replicas: int, make_engine: Callable[[], Engine]) -> list[FailedUnit]:
        """All that the experiment lacks. Returns what could not be sampled.

        Raises:
            JobStopped: the job cannot go on.
        """
        from evalgen.job import asked_in_batches
        from evalgen.live_view import LiveView
        from evalgen.schedule import FailedUnit
        from evalgen.work import remaining_work
        from ray_jobs.pipeline import sample_and_grade

        config, experiment, plans = self.config, self.experiment, self.plans
        is_quiet = _is_quiet(config)
        with self.timings.stage("plan"):
            work = remaining_work(experiment, plans, num_replicas)
        with self.timings.stage("sample_and_grade"), LiveView(is_quiet) as view:
            show = (view.show, self.wandb_log.show, self.timings.note_start)
            units = sample_and_grade(config, experiment, plans, work, num_replicas, make_engine, show)
            failed = [unit for unit in units if isinstance(unit, FailedUnit)]
        # Within Ray, so that dashboard and metrics show a job that waits for hours. No replica is left by then.
        if in_batches := asked_in_batches(plans):
            with self.timings.stage("grade_in_batches"), LiveView(is_quiet) as view:
                from evalgen.batch_stage import grade_stored_in_batches  # few jobs need it: it takes a second
                from ray_jobs.metrics import BatchMetrics

                shows = (view.show_batches, self.wandb_log.show, BatchMetrics().export)
                grade_stored_in_batches(config, experiment, in_batches, shows)
        return failed

    def write_results(self, failed: Sequence[FailedUnit]) -> None:
        """Datasets, figures and report, by this process alone.

        Raises:
            JobStopped: some prompts could not be sampled, or no question got a verdict. Everything else is written.
        """
        from evalgen.finish import write_datasets
        from evalgen.presentation import present
        from evalgen.statistics import check_any_graded, summary
        from evalgen.tables import print_results
        from evalgen.work import incomplete, missing_prompts

        config, experiment, timings = self.config, self.experiment, self.timings
        missing = missing_prompts(failed)
        with timings.stage("assemble"):
            datasets, prompts = write_datasets(experiment, self.plans, missing, timings)
        experiment.write_summary(config, summary(datasets, prompts, timings.whole()))
        with timings.stage("report"):
            present(experiment)
        on_hub = None
        if config.push_to_hub:
            with timings.stage("push_to_hub"):
                from evalgen.hub import push_or_warn

                on_hub = push_or_warn(experiment, config.push_to_hub)
        job_summary = summary(datasets, prompts, timings.whole())
        experiment.write_summary(config, job_summary)  # again, with the seconds of what was made from the first
        log.info("timings", extra=fields(**{f"{stage}_s": it for stage, it in job_summary["timings"].items()}))
        self.wandb_log.finish(job_summary)
        print_results(experiment, datasets, timings, on_hub)
        if failed:
            raise JobStopped(incomplete(missing, failed))
        check_any_graded(datasets)


def _is_quiet(config: JobConfig) -> bool:
    """Whether how far the job is stays off the terminal, which may have the log in its place."""
    return config.quiet or config.logging_type == "stdout"


def _say(config: JobConfig, line: str) -> None:
    """To whoever waits at a terminal."""
    if not _is_quiet(config):
        tell([line])


def get_ready(plans: Sequence[DatasetPlan]) -> None:
    """What is done while Ray starts: it takes seconds to import what loads tokenizers, writes datasets and draws plots.

    Raises:
        InputError: a tokenizer does not fit its checkpoint, or a prompt is too long for it.
    """
    from datasets import disable_progress_bars

    import evalgen.finish
    import evalgen.presentation  # noqa: F401
    from evalgen.job import check_tokenizers

    check_tokenizers(plans)
    disable_progress_bars()  # one for every dataset written; this process has its own


if __name__ == "__main__":
    sys.exit(main())
