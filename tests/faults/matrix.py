"""Strikes a job with every fault, in every place, and prints what of it was lost.

    python -m tests.faults.matrix [--only TEXT] [--gone_for_s 60]

Each row is a job with ten units and a few hundred questions for a real server that speaks the Messages API, on a real
Ray. The exit code is 1 if any job did not come to the datasets of an undisturbed one, or did finished work again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evalgen.demo.build import build_tiny_run
from tests.faults.cases import Case, Outcome, Undisturbed, run_case
from tests.faults.faults import (
    MINUTE_S,
    cases_of_files,
    cases_of_jobs_that_go_on,
    cases_of_nodes,
    cases_of_stopped_jobs,
)
from tests.faults.nodes import several_nodes

WIDTH = 150  # where the output is not a terminal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose name, with the moment behind it, has this text")
    parser.add_argument("--gone_for_s", type=float, default=MINUTE_S, help="seconds without the grading server")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with _workplace() as directory:
        run = build_tiny_run(directory / "run")
        matrix = _Matrix(run, directory, console, arguments.only)
        with several_nodes(0) as head:
            shared = {"RAY_ADDRESS": head.address}
            matrix.run([*cases_of_jobs_that_go_on(arguments.gone_for_s), *cases_of_files()], shared)
        matrix.run(list(cases_of_stopped_jobs()), {})  # each on a Ray of its own, none of which may be left behind
        with several_nodes(2) as nodes:
            matrix.run(list(cases_of_nodes(nodes)), {"RAY_ADDRESS": nodes.address})
    console.print(_table(matrix.outcomes))
    console.print(_summary(matrix.outcomes, matrix.broken), highlight=False)
    return 1 if matrix.broken or any(outcome.problems for outcome in matrix.outcomes) else 0


@contextmanager
def _workplace() -> Iterator[Path]:
    """A directory for everything; Ray's own is in it, where no other driver of this machine looks."""
    directory = Path(tempfile.mkdtemp(prefix="faults-"))  # short: it holds Unix sockets
    os.environ["RAY_TMPDIR"] = str(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Matrix:
    def __init__(self, run: Path, directory: Path, console: Console, only: str) -> None:
        self._run, self._directory, self._console, self._only = run, directory, console, only
        self._undisturbed: Undisturbed | None = None
        self.outcomes: list[Outcome] = []
        self.broken: list[Case] = []  # that could not be brought to an end

    def run(self, cases: Sequence[Case], environment: Mapping[str, str]) -> None:
        chosen = [case for case in cases if self._only in case.name]
        if not chosen:
            return
        if self._undisturbed is None:
            self._undisturbed = Undisturbed.run(self._run, self._directory / "undisturbed", environment)
        for case in chosen:
            begun_at = time.monotonic()
            directory = self._directory / f"case_{len(self.outcomes) + len(self.broken)}"
            try:
                outcome = run_case(case, self._undisturbed, self._run, directory, environment)
                self.outcomes.append(outcome)
                problems = outcome.problems
            except Exception as error:  # one fault that a job does not survive must not hide what others do to it
                problems = [f"{type(error).__name__}: {error}"]
                self.broken.append(case)
            line = f"{case.name}, {time.monotonic() - begun_at:.0f} s: {'; '.join(problems) or 'survived'}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="what a job does again after a fault; a damaged file is not done again, but anew")
    for heading in ("fault", "when", "job", "same datasets"):
        table.add_column(heading)
    for heading in (
        "finished units\nsampled again",
        "units in flight\nlost",
        "units\ndamaged",
        "stored verdicts\npaid again",
        "verdicts in flight\npaid again",
        "verdicts\ndamaged",
    ):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        numbers = (
            outcome.finished_sampled_again,
            outcome.in_flight_lost,
            outcome.units_damaged,
            outcome.stored_asked_again,
            outcome.in_flight_asked_again,
            outcome.verdicts_damaged,
        )
        went_on = "resumed" if outcome.case.exit_code else "went on"
        same = "no" if outcome.difference else "yes"
        table.add_row(outcome.case.fault, outcome.case.when, went_on, same, *map(str, numbers))
    return table


def _summary(outcomes: Sequence[Outcome], broken: Sequence[Case]) -> str:
    num_survived = sum(not outcome.problems for outcome in outcomes)
    return (
        f"faults injected: {len(outcomes) + len(broken)}, survived: {num_survived}; "
        f"lost: {sum(outcome.finished_sampled_again for outcome in outcomes)} finished units, "
        f"{sum(outcome.stored_asked_again for outcome in outcomes)} stored verdicts"
    )


if __name__ == "__main__":
    sys.exit(main())
