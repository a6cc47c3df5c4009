"""Makes the report of an experiment again, or one that holds several experiments against each other.

    python ray_jobs/report.py outputs/2026_01_21_10-00-00_a1B2c_sampled_mayors
    python ray_jobs/report.py outputs/*_one_epoch outputs/*_five_epochs --output comparison.html

Of one experiment it writes REPORT.md as well. The page is one file: it opens anywhere, offline, and asks nothing of any
network. Experiments that were stopped, or have prompts missing, are shown as far as they are there, and the page says
so. No model is loaded.

Exit codes: 0 done; 1 it failed; 2 the input is wrong, and nothing was written; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from evalgen.command_line import CommandSettings, parse_flags
from evalgen.config_files import absolute_path, without_tilde
from evalgen.errors import ConfigError, JobStopped
from ray_jobs.exit_codes import exit_code_of
from ray_jobs.paths import path_root

REPORT_FILE = "report.html"  # of one experiment, in its directory
SEED_REPORT_FILE = "REPORT.md"  # beside it
SUMMARY_FILE = "summary.json"  # which an experiment has that has ended
COMPARISON_FILE = "comparison.html"  # of several, beside the first of them


class ReportConfig(CommandSettings):
    """Write the report of an experiment, or one of several experiments side by side, as one self-contained page."""

    experiments: tuple[str, ...] = Field(
        (),
        description="experiment directories, whose flag may be left out if they come first; with several, datasets "
        "of the same prompts are compared",
    )
    output: str | None = Field(
        None,
        description="HTML file to write; null: report.html in the experiment, of several comparison.html beside "
        "the first",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report that the command line asks for; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return exit_code_of(lambda: make_report(arguments, path_root()), if_interrupted="interrupted; nothing was written")


def make_report(argv: Sequence[str], root: Path) -> Path:
    """Every stage in order. Returns the file.

    Raises:
        UserError: the input is wrong; nothing was written.
        JobStopped: the file cannot be written.
    """
    experiments, output = load_arguments(argv, root)
    # Here, so that --help and the errors of a user do not wait for it.
    from evalgen.plain_lines import print_lines
    from evalgen.report.page import write_report

    try:
        write_report(experiments, output)
        if output == experiments[0] / REPORT_FILE and _has_ended(experiments[0]):
            from evalgen.files import write_text  # these take seconds to import
            from evalgen.seed_report import seed_report

            write_text(output.with_name(SEED_REPORT_FILE), seed_report(experiments[0]))
    except OSError as error:
        raise JobStopped(f"cannot write {output}: {error.strerror}") from None
    print_lines([f"Report: {output}"])
    return output


def _has_ended(directory: Path) -> bool:
    """Its figures are of the settings that it has now."""
    from evalgen.experiment import Experiment

    return (directory / SUMMARY_FILE).exists() and not Experiment(directory).unfinished_mark.exists()


def load_arguments(argv: Sequence[str], root: Path) -> tuple[list[Path], Path]:
    """The experiment directories that `argv` (without the program's name) names, and the file to write.

    `--help` prints the flags and exits.

    Raises:
        ConfigError: unknown flag, no experiment, or a file that cannot be there.
    """
    config = ReportConfig(**parse_flags(argv, ReportConfig, "report.py", first="experiments"))  # type: ignore[arg-type]
    if not config.experiments:
        raise ConfigError("experiments: missing; give the directory of an experiment, or several")
    # Resolved, so that the same one twice is the same one.
    experiments = list(dict.fromkeys(Path(absolute_path(it, root)).resolve() for it in config.experiments))
    for directory in experiments:
        if not directory.is_dir():
            raise ConfigError(f"experiments: {directory} is no directory")
    default = experiments[0] / REPORT_FILE if len(experiments) == 1 else experiments[0].parent / COMPARISON_FILE
    output = default if config.output is None else Path(os.path.abspath(root / without_tilde(config.output)))
    if output.is_dir():
        raise ConfigError(f"output: {output} is a directory; give a file's name")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise ConfigError(f"output: {output.parent} is no directory that can be written to")
    return experiments, output


if __name__ == "__main__":
    sys.exit(main())
