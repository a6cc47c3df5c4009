"""Runs a job that a fault strikes at a known place, to its end; and says what of it was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.faults.damage import small_disk
from tests.faults.evidence import (
    Moment,
    difference,
    finished_units_begun_again,
    questions,
    stored_verdicts_asked_again,
)
from tests.faults.job import Job, Place
from tests.messages_api import MessagesApi
from tests.waiting import wait_until

When = Literal["start", "middle", "end", "assembly"]
At = Literal["unit", "request", "dataset begun", "dataset written"]
LEAST_UNITS = 10
ENDED_WITHIN_S = 30.0  # after its driver, every process of a job has to be gone
RESUME_COMMAND_WITHIN_S = 3.0  # `ray job stop` follows its SIGTERM up with SIGKILL then


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A job without a fault: what all others are compared with."""

    experiment: Path
    num_units: int
    num_requests: int

    @classmethod
    def run(cls, run: Path, directory: Path, environment: Mapping[str, str]) -> Undisturbed:
        with MessagesApi() as api, Job(run=run, directory=directory, api=api, environment=environment) as job:
            job.start()
            assert job.wait() == 0, job.printed
            assert len(job.record.begun()) >= LEAST_UNITS, "too few for a start, a middle and an end"
            return cls(experiment=job.experiment, num_units=len(job.record.begun()), num_requests=api.calls)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault: where the job is when it strikes, and what it does to the job."""

    fault: str
    when: When
    at: At
    strike: Callable[[Job], None]
    exit_code: int  # of the job that is struck; unless 0, it is resumed
    then: Callable[[Path], None] | None = None  # what is done to the experiment directory before
    num_replicas: int = 1
    on_small_disk: bool = False

    @property
    def name(self) -> str:
        return f"{self.fault}, {self.when}"

    def place(self, job: Job, undisturbed: Undisturbed) -> Place:
        """At the start, in the middle, or with one unit or verdict left."""
        if self.at == "unit":
            last = undisturbed.num_units
            return job.gate(f"unit {1 if self.when == 'start' else last // 2 + 1 if self.when == 'middle' else last}")
        if self.at == "request":
            last = undisturbed.num_requests
            return job.api.hold(1 if self.when == "start" else last // 2 if self.when == "middle" else last)
        return job.gate(self.at)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job. Numbers of units, verdicts and seconds."""

    case: Case
    difference: str  # from the undisturbed job's datasets; "": none
    units_damaged: int  # by the fault itself
    verdicts_damaged: int
    finished_sampled_again: int  # that were stored and whole
    in_flight_lost: int  # units begun and not stored
    stored_asked_again: int
    in_flight_asked_again: int
    remarks: tuple[str, ...] = field(default=())  # what else was not as it has to be

    @property
    def problems(self) -> list[str]:
        """What no fault may bring about; empty: the job survived."""
        found = list(self.remarks)
        if self.difference:
            found.append(f"other datasets: {self.difference}")
        if self.finished_sampled_again:
            found.append(f"{self.finished_sampled_again} finished units sampled again")
        if self.stored_asked_again:
            found.append(f"{self.stored_asked_again} stored verdicts paid again")
        return found


def run_case(
    case: Case, undisturbed: Undisturbed, run: Path, directory: Path, environment: Mapping[str, str]
) -> Outcome:
    """Runs one job that is struck, to its end."""
    with (
        MessagesApi() as api,
        Job(run=run, directory=directory, api=api, environment=environment, num_replicas=case.num_replicas) as job,
        small_disk(job.output_dir) if case.on_small_disk else nullcontext(),
    ):
        place = case.place(job, undisturbed)
        job.start()
        job.wait_at(place)
        if case.at == "request" and case.when == "end":
            num_stored = undisturbed.num_requests - 1
            job.wait_for(lambda: len(job.now().verdicts) == num_stored, "all verdicts but one are stored")
        before = job.now()
        case.strike(job)
        place.release()
        exit_code = job.wait()
        remarks = [] if exit_code == case.exit_code else [f"exit code {exit_code}: {job.printed[-300:]}"]
        left = before
        if case.exit_code:
            remarks += _what_is_wrong_after_the_end(job)
            before = job.now()
            if case.then:
                case.then(job.experiment)
            left = job.now()
            job.resume()
            exit_code = job.wait()
            remarks += [] if exit_code == 0 else [f"resumed: exit code {exit_code}: {job.printed[-300:]}"]
        return _outcome(case, undisturbed, job, before, left, remarks)


def _what_is_wrong_after_the_end(job: Job) -> Iterator[str]:
    try:
        wait_until(lambda: not job.processes_left(), ENDED_WITHIN_S, "every process of the job has ended")
    except AssertionError as error:
        yield f"{error}: {job.processes_left()}"
    if job.said_after_s is not None and job.said_after_s > RESUME_COMMAND_WITHIN_S:
        yield f"the resume command was printed after {job.said_after_s:.1f} s"


def _outcome(
    case: Case, undisturbed: Undisturbed, job: Job, before: Moment, left: Moment, remarks: list[str]
) -> Outcome:
    """`before` the files were damaged, and what is `left` of them."""
    after, begun, asked = job.now(), job.record.begun(), questions(job.api)
    units_damaged = len(before.unit_ids) - len(left.unit_ids)
    verdicts_damaged = len(before.verdicts) - len(left.verdicts)
    return Outcome(
        case=case,
        difference=difference(undisturbed.experiment, job.experiment),
        units_damaged=units_damaged,
        verdicts_damaged=verdicts_damaged,
        finished_sampled_again=finished_units_begun_again(left, begun),
        in_flight_lost=len(begun) - len(after.unit_ids) - units_damaged,
        stored_asked_again=stored_verdicts_asked_again(left, job.api),
        in_flight_asked_again=len(asked) - len(set(asked)) - verdicts_damaged,
        remarks=tuple(remarks),
    )
