"""Uploads the datasets of an experiment to the Hugging Face Hub, as `--push_to_hub` does at the end of a job.

    python ray_jobs/push_dataset.py outputs/2026_01_21_10-00-00_a1B2c_sampled_mayors --to user/sampled_mayors

Exit codes: 0 done; 1 the Hub refused, or could not be reached; 2 the input is wrong, and nothing was uploaded;
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evalgen.config_files import absolute_path
from evalgen.errors import ConfigError, JobStopped
from evalgen.job_log import JobLog
from ray_jobs.exit_codes import exit_code_of
from ray_jobs.paths import path_root


def main(argv: Sequence[str] | None = None) -> int:
    """Uploads what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("experiment", help="experiment directory; all of its whole datasets are uploaded")
    parser.add_argument(
        "--to", required=True, metavar="USER/NAME", help="repository; made, and private, if there is none"
    )
    given = parser.parse_args(argv)
    return exit_code_of(
        lambda: push(given.experiment, given.to), if_interrupted="interrupted; run it again, it goes on where it was"
    )


def push(experiment: str, repo_id: str) -> None:
    """Uploads what is whole, and prints where it is.

    Raises:
        ConfigError: no such experiment, no token, no name of a repository, or a job is at work there.
        JobStopped: the Hub refused, or could not be reached.
    """
    directory = Path(absolute_path(experiment, path_root()))
    if not (directory / "summary.json").is_file():
        raise ConfigError(f"{directory} has no summary.json; give the directory of an experiment that has ended")
    # Here, so that --help and the errors of a user do not wait for it.
    from evalgen.experiment import Experiment
    from evalgen.hub import check_can_push, push_datasets, reason_of
    from evalgen.plain_lines import print_lines

    check_can_push(repo_id)
    found = Experiment(directory)
    with JobLog(has_file=False), found.left_alone():
        try:
            url = push_datasets(found, repo_id)
        except ConfigError:
            raise
        except Exception as error:  # of any type, by what keeps the client from the Hub
            raise JobStopped(f"not pushed to the Hub: {reason_of(error)}") from error
    print_lines([f"Pushed to {url}"])


if __name__ == "__main__":
    sys.exit(main())
