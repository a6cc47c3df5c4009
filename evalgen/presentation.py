"""What a finished experiment has for people: `report.html` and `REPORT.md`, from nothing but its files."""

from __future__ import annotations

import logging

from evalgen.experiment import Experiment
from evalgen.files import write_text
from evalgen.report.page import write_report
from evalgen.seed_report import REPORT_FILE, seed_report

log = logging.getLogger(__name__)


def present(experiment: Experiment) -> None:
    """Writes both, in place of older ones. That they cannot be written is a warning: the datasets are there."""
    try:
        write_report([experiment.directory], experiment.page)
        write_text(experiment.directory / REPORT_FILE, seed_report(experiment.directory))
    except Exception as error:  # of any kind: the job is done, and must not seem to have failed
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        log.warning("no report (%s); make it with: python ray_jobs/report.py %s", reason, experiment.directory)
