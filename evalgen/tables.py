"""What a person at a terminal sees of a job: how far it is, and at the end its figures and files."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from evalgen.experiment import Experiment
from evalgen.records import GradedUnit, SamplingUnit
from evalgen.statistics import DatasetStatistics
from evalgen.timings import Timings

log = logging.getLogger(__name__)


class Progress:
    """A live bar on a terminal; in a log file, one line for each finished unit."""

    def __init__(self, units: Sequence[SamplingUnit]) -> None:
        self._num_draws = {unit.id: unit.num_draws * len(unit.queries) for unit in units}
        self._console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("sampling and grading"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("units, {task.fields[draws]:,} draws, {task.fields[asked]:,} distinct completions graded"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=len(units), draws=0, asked=0)
        self._done = self._draws = self._asked = 0

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, unit: GradedUnit) -> None:
        """Counts a unit that is sampled and graded."""
        self._done += 1
        self._draws += self._num_draws[unit.unit_id]
        self._asked += unit.num_questions
        self._bar.update(self._task, completed=self._done, draws=self._draws, asked=self._asked)
        line = (
            f"{self._done} of {len(self._num_draws)} units: {unit.dataset}: {unit.num_questions} distinct completions, "
            f"{unit.num_equivalent} equivalent, {unit.num_ungraded} ungraded"
        )
        log.info("%s", line)
        if not self._console.is_terminal:
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def print_results(experiment: Experiment, datasets: Sequence[DatasetStatistics], timings: Timings) -> None:
    """The statistics table, the seconds by stage, and where everything is."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # a log file has no width of its own; the table needs this much
    console.print(_statistics_table(datasets))
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in timings.seconds.items())
    for line in (
        f"Seconds by stage: {stages}; total {timings.total_s():.1f} s",
        f"Datasets: {experiment.datasets}",
        f"Samples, verdicts, summary.json: {experiment.directory}",
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _statistics_table(datasets: Sequence[DatasetStatistics]) -> Table:
    """Per distinct completion as others report it, and beside it per draw."""
    some_ungraded = any(dataset.num_ungraded for dataset in datasets)
    table = Table(title="Grading statistics", title_justify="left")
    table.add_column("dataset", overflow="fold")
    headings = [
        "draws",
        "unique graded",
        *(["ungraded"] if some_ungraded else []),
        "equivalent",
        "rate",
        "rate per draw",
    ]
    for heading in [*headings, "items", "prompts", "API calls", "cost"]:
        table.add_column(heading, justify="right")
    for dataset in datasets:
        table.add_row(
            Text(dataset.name),
            f"{dataset.num_draws:,}",
            f"{dataset.num_graded:,}",
            *([f"{dataset.num_ungraded:,}"] if some_ungraded else []),
            f"{dataset.num_equivalent:,}",
            _percent(dataset.equivalence_rate),
            _percent(dataset.draw_equivalence_rate),
            f"{dataset.num_items:,}",
            f"{dataset.num_unique_prompts} of {dataset.num_prompts}",
            f"{dataset.api_calls:,}",
            "unknown" if dataset.cost_usd is None else f"${dataset.cost_usd:.4f}",
        )
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
