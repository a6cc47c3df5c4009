"""The main job: fine-tuned checkpoints in, graded evaluation datasets out. Read this file first.

    python ray_jobs/generate_eval_datasets.py --help
    ray job submit --working-dir . -- python ray_jobs/generate_eval_datasets.py --config configs/demo.yaml

Exit codes: 0 done; 1 the job failed; 2 the input is wrong, and nothing was created or spent; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalgen.config import JobConfig, load_config
from evalgen.errors import EvalgenError, UserError
from evalgen.job_log import JobLog
from evalgen.timings import Timings
from ray_jobs.paths import path_root

if TYPE_CHECKING:
    from evalgen.experiment import Experiment


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job that the command line describes; returns the exit code."""
    try:
        run_job(load_config(sys.argv[1:] if argv is None else argv, path_root()))
    except UserError as error:
        return _fail(error, exit_code=2)
    except EvalgenError as error:
        return _fail(error, exit_code=1)
    except KeyboardInterrupt:
        return _fail("interrupted; what was paid for is in the journal, and the next job reuses it", exit_code=130)
    return 0


def _fail(reason: object, exit_code: int) -> int:
    sys.stderr.write(f"error: {reason}\n")
    return exit_code


def run_job(config: JobConfig) -> Experiment:
    """Every stage in order. Returns the experiment, with its datasets written.

    Raises:
        UserError: the input is wrong; nothing was created.
        JobStopped: the job cannot go on; what was sampled and judged is in the experiment directory.
    """
    timings = Timings()
    with JobLog() as job_log:
        with timings.stage("resolve"):
            from evalgen.job import resolve_job

            plans = resolve_job(config)
        with timings.stage("import"):  # here, so that --help and the errors of a user do not wait for it
            from datasets import disable_progress_bars

            from evalgen.experiment import Experiment
            from evalgen.finish import write_datasets
            from evalgen.statistics import summary
            from evalgen.tables import Progress, print_results
            from evalgen.units import plan_units
            from evalgen.wandb_log import log_to_wandb
            from ray_jobs.cluster import ray_session
            from ray_jobs.pipeline import choose_num_replicas, sample_and_grade

        disable_progress_bars()  # one for every dataset written; this process has its own
        experiment = Experiment.create(config)
        log_to_stdout = config.logging_type == "stdout"
        job_log.open(experiment.log_file, to_stdout=log_to_stdout)
        with ray_session(timings):
            num_replicas = choose_num_replicas(config)
            units = plan_units(plans, num_replicas)
            with timings.stage("sample_and_grade"), Progress(units, quiet=log_to_stdout) as progress:
                graders = {plan.name: plan.grader for plan in plans}
                for graded_unit in sample_and_grade(config, experiment, units, graders, num_replicas):
                    progress.show(graded_unit)
        with timings.stage("assemble"):
            datasets, prompts = write_datasets(experiment, plans, units, timings)
        job_summary = summary(datasets, prompts, timings.seconds | {"total": timings.total_s()})
        experiment.write_summary(config, job_summary)
        print_results(experiment, datasets, timings)
        if config.logging_type == "wandb":
            log_to_wandb(config, experiment, job_summary)
    return experiment


if __name__ == "__main__":
    sys.exit(main())
