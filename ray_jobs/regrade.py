"""Another judge for an experiment, without sampling: new datasets beside the old, and which verdicts changed and why.

    python ray_jobs/regrade.py --experiment outputs/2026_01_21_10-00-00_a1B2c_sampled_mayors \\
      --grader_config_path configs/mayors_grader.json

The new experiment is an ordinary one that has the old one's samples; the driver of the main job grades it and writes
its datasets. Verdicts that the old one has for the same grader and instructions are not asked again. No model is
loaded, but the runs must still be where they were: their prompts, tokenizers and checkpoints are checked as for any
job.

Exit codes are those of the main job. After 1, 130 and 143 `--resume NEW_DIRECTORY` goes on; so it does given to
generate_eval_datasets.py, which leaves out the comparison.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model
from pydantic_settings import BaseSettings, SettingsConfigDict

from evalgen.command_line import parse_flags
from evalgen.config import JobConfig
from evalgen.config_files import absolute_path, check_writable
from evalgen.errors import ConfigError
from evalgen.job_log import without_log
from evalgen.load_config import load_config
from evalgen.plan_file import PLAN_FILE
from evalgen.resume import CONFIG_FILE, MAY_CHANGE, stored_settings
from ray_jobs.exit_codes import exit_code_of
from ray_jobs.generate_eval_datasets import run_job
from ray_jobs.paths import path_root

if TYPE_CHECKING:
    from evalgen.experiment import Experiment

# What a resumed job may change, but for what has to do with sampling, and with how rows are put together.
GRADING_FLAGS = MAY_CHANGE - {
    "deduplicate",
    "exclusive",
    "execution_mode",
    "generation_batch_size",
    "kv_budget_gib",
    "num_gpus_per_replica",
    "num_replicas",
}
GRADER_PREFIX = "grader_"  # of the flags that say who judges, and how; the others say how grading is run


class _RegradeConfig(BaseSettings):
    """Judge the samples of an experiment again, with another grader or other instructions."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", cli_hide_none_type=True)

    experiment: str | None = Field(None, description="directory of the experiment; it stays as it is")
    resume: str | None = Field(
        None, description="what this made and could not finish: goes on with it; --experiment is not needed then"
    )
    experiment_name: str | None = Field(
        None, description="last part of the new directory's name; null: the old name and _regraded"
    )


_OF_THE_JOB: dict[str, Any] = {
    name: (field.annotation, Field(None, description=f"{field.description}; null: as in the experiment"))
    for name, field in JobConfig.model_fields.items()
    if name in GRADING_FLAGS
}
RegradeConfig = create_model("RegradeConfig", __base__=_RegradeConfig, __doc__=_RegradeConfig.__doc__, **_OF_THE_JOB)


def main(argv: Sequence[str] | None = None) -> int:
    """Regrades as the command line says; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    again = "interrupted; run it again: what is judged is not asked again"
    return exit_code_of(lambda: regrade(arguments, path_root()), if_interrupted=again)


def regrade(argv: Sequence[str], root: Path) -> Experiment:
    """Every stage in order. Returns the new experiment, with its datasets and `verdict_changes.json`.

    Raises:
        UserError: the input is wrong; nothing was created.
        JobStopped: as from `run_job`.
    """
    config, directory = load_regrading(argv, root)
    check_writable(Path(config.resume or config.output_dir), "output_dir", "regrade a copy of the experiment")
    # Here, so that --help and the errors of a user do not wait for it.
    from evalgen.experiment import Experiment
    from evalgen.job import resolve_job
    from evalgen.plain_lines import print_lines
    from evalgen.regrading import prepare, source_of
    from evalgen.verdict_changes import compare_verdicts, comparison_lines

    old = source_of(Experiment(Path(config.resume))) if config.resume else Experiment(directory)
    with old.left_alone():
        with without_log():  # the driver resolves the same job, and has the same to say
            plans = resolve_job(config)
            if not config.resume:
                config = config.model_copy(update={"resume": str(prepare(old, config, plans).directory)})
        new = run_job(config)
        comparison = compare_verdicts(old, new, plans)
        path = comparison.write(old, new)
        print_lines([*comparison_lines(comparison), "", f"All changes: {path}"])
    return new


def load_regrading(argv: Sequence[str], root: Path) -> tuple[JobConfig, Path]:
    """The job that grades again, and the directory of the experiment that it goes on with or has its samples from.

    `--help` prints the flags and exits.

    Raises:
        ConfigError: a flag or a value is wrong, there is no experiment, or no other grader for it.
    """
    flags = {name: str(value) for name, value in parse_flags(argv, RegradeConfig, "regrade.py").items()}
    if "resume" in flags:
        if "experiment" in flags:
            raise ConfigError("experiment: found beside --resume, which knows it; leave one of them out")
        config = load_config(_typed(flags), root)
        return config, Path(str(config.resume))
    if "experiment" not in flags:
        raise ConfigError("experiment: missing; give --experiment DIRECTORY")
    directory = Path(absolute_path(flags.pop("experiment"), root)).resolve()
    for name in (CONFIG_FILE, PLAN_FILE):
        if not (directory / name).is_file():
            raise ConfigError(f"experiment: {directory} has no {name}; give the directory of an experiment")
    if not any(name.startswith(GRADER_PREFIX) for name in flags):
        raise ConfigError(
            "found no other grader; give --grader_model MODEL, --grader_config_path FILE with other instructions, or "
            "both. A file that was edited has to be given too"
        )
    given = {"experiment_name": f"{stored_settings(str(directory))['experiment_name']}_regraded"} | flags
    # Flags override a file in each of its runs.
    typed = _typed({"config": str(directory / CONFIG_FILE), "output_dir": str(directory.parent)} | given)
    config = load_config(typed, root)
    if "push_to_hub" not in flags:  # what was published is replaced when somebody asks for it, and not before
        config = config.model_copy(update={"push_to_hub": None})
    return config, directory


def _typed(flags: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


if __name__ == "__main__":
    sys.exit(main())
