"""What a finished experiment has for people: `report.html` and `REPORT.md`, from nothing but its files."""

from __future__ import annotations

import logging

from evalgen.experiment import Experiment
from evalgen.files import write_text
from evalgen.report.page import write_report
from evalgen.seed_report import REPORT_FILE, seed_report

log = logging.getLogger(__name__)


def present(experiment: Experiment) -> None:
    """Writes both, in place of older ones. That one cannot be written is a warning: the datasets are there."""
    for write in (_write_page, _write_seed_report):
        try:
            write(experiment)
        except Exception as error:  # of any kind: the job is done, and must not seem to have failed
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            log.warning("no report (%s); make it with: python ray_jobs/report.py %s", reason, experiment.directory)


def _write_page(experiment: Experiment) -> None:
    experiment.page.unlink(missing_ok=True)  # of an earlier part of the job: it must not seem to be of this one
    write_report([experiment.directory], experiment.page)


def _write_seed_report(experiment: Experiment) -> None:
    write_text(experiment.directory / REPORT_FILE, seed_report(experiment.directory))
