"""What went wrong, or nearly, in a job: counted in its log, its samples and its verdicts.

Nothing is told that is not there: a job in which nothing happened has no happenings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalgen.job_log import RAY_IS_THERE
from evalgen.journal import read_journal
from evalgen.seed_report_facts import ReportedExperiment
from evalgen.unit_store import LINES, StoredUnit
from evalgen.verdict_table import VERDICTS_FILE, VOTING

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d[T ][\d:.,]+Z? (INFO|WARNING|ERROR) (.*)")
RETRY = re.compile(r"; request \d+ in [\d.]+ s")
NUMBER = re.compile(r"\d+(?:\.\d+)?|0x[0-9a-f]+")
SHOWN_KINDS = 10  # of log lines, or of reasons; the files have all


@dataclass(frozen=True, kw_only=True)
class Happening:
    """A kind of event, how often it was, and what one of them said."""

    title: str
    count: int
    example: str | None = None


class _Log:
    """What is counted in a log, of which one line of a kind is kept: lines that differ in their numbers alone."""

    def __init__(self) -> None:
        self.num_parts = self.num_retries = 0
        self._kinds: dict[str, Counter[str]] = {"WARNING": Counter(), "ERROR": Counter()}
        self._examples: dict[str, str] = {}  # the first of a kind

    def add(self, level: str, message: str) -> None:
        self.num_parts += message.partition(" version=")[0] == RAY_IS_THERE
        self.num_retries += bool(RETRY.search(message))
        if level in self._kinds:
            kind = NUMBER.sub("#", message)
            self._kinds[level][kind] += 1
            self._examples.setdefault(kind, message)

    def of_level(self, level: str, title: str) -> list[Happening]:
        kinds = self._kinds[level].most_common(SHOWN_KINDS)
        return [Happening(title=title, count=count, example=self._examples[kind]) for kind, count in kinds]


def happenings(experiment: ReportedExperiment) -> list[Happening]:
    """Of one experiment; none where all went well."""
    directory = experiment.directory
    log = _Log()
    for level, message in _log_lines(directory / "experiment.log"):
        log.add(level, message)
    found = [
        Happening(title="Prompts that could not be sampled", count=_total(experiment, "num_missing_prompts")),
        Happening(title="Times that a batch was halved because memory ran out", count=_num_halvings(directory)),
        Happening(title="Times that the job went on after a stop", count=max(0, log.num_parts - 1)),
        Happening(title="Requests to the judge that were sent again", count=log.num_retries),
        *_ungraded(directory, _total(experiment, "num_ungraded")),
        Happening(title="Equivalent completions that no row can hold", count=_total(experiment, "num_left_out")),
        Happening(title="Rows that had to be encoded again", count=_total(experiment, "num_reencoded")),
        *log.of_level("WARNING", "Warnings"),
        *log.of_level("ERROR", "Errors"),
    ]
    return [happening for happening in found if happening.count]


def _log_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Level and message of each line."""
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from (match.groups() for line in file if (match := LOG_LINE.match(line)))  # type: ignore[misc]


def _ungraded(directory: Path, num_ungraded: int) -> list[Happening]:
    """By reason. A question that two datasets share has one verdict, so that reasons need not add up to the total."""
    path = directory / "verdicts" / VERDICTS_FILE
    title = "Ungraded completions"
    if not num_ungraded or not path.exists():
        return [Happening(title=title, count=num_ungraded)]
    verdicts = pq.read_table(path, columns=["verdict", "error"])
    errors = verdicts.filter(pc.equal(verdicts["verdict"], "ungraded"))["error"].to_pylist()
    reasons = Counter(str(error) for error in errors if error != VOTING).most_common(SHOWN_KINDS)
    return [Happening(title=title, count=num_ungraded)] + [
        Happening(title="Questions without a verdict", count=count, example=reason) for reason, count in reasons
    ]


def _num_halvings(directory: Path) -> int:
    records, _ = read_journal(directory / "samples" / LINES)
    # A unit that was put together with others stands in several lines.
    costs = {unit_id: cost for record in records for unit_id, cost in StoredUnit.from_record(record).costs.items()}
    return sum(cost.out_of_memory_halvings for cost in costs.values())


def _total(experiment: ReportedExperiment, figure: str) -> int:
    numbers: list[Any] = [dataset.figures.get(figure, 0) for dataset in experiment.datasets]
    return sum(numbers)
