"""Every fault that a job has to survive."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.cases import At, Case, When
from tests.faults.damage import empty_disk, fill_disk, flip_a_bit, truncate
from tests.faults.job import GRADING, LIMITER, STORE, Job, kill
from tests.faults.nodes import Nodes

WHENS: tuple[When, ...] = ("start", "middle", "end")
MINUTE_S = 60.0
KILLED = -signal.SIGKILL


def kill_sampling(job: Job) -> None:
    kill(job.sampling_process())


def kill_grading(job: Job) -> None:
    kill(job.actor(GRADING))


def kill_limiter(job: Job) -> None:
    kill(job.actor(LIMITER))


def kill_store(job: Job) -> None:
    kill(job.actor(STORE))


def kill_driver(job: Job) -> None:
    kill(job.process)


def sigterm(job: Job) -> None:
    job.interrupt(signal.SIGTERM)


def ctrl_c(job: Job) -> None:
    job.interrupt(signal.SIGINT)


def ctrl_c_twice(job: Job) -> None:
    job.interrupt(signal.SIGINT)
    job.interrupt(signal.SIGINT)


def a_samples_file(experiment: Path) -> Path:
    return min((experiment / "samples").glob("*.parquet"))


def units_lines(experiment: Path) -> Path:
    return experiment / "samples" / "units.jsonl"


def verdict_journal(experiment: Path) -> Path:
    return experiment / "verdicts" / "journal.jsonl"


def verdict_file(experiment: Path) -> Path:
    return experiment / "verdicts" / "0000.parquet"


def cases_of_jobs_that_go_on(gone_for_s: float = MINUTE_S) -> Iterator[Case]:
    """`gone_for_s`: how long the grading server is away."""
    yield from _killed_actors()
    yield Case(
        fault=f"grading server gone for {gone_for_s:.0f} s",
        when="middle",
        at="request",
        strike=lambda job: job.api.go_away(gone_for_s),
        exit_code=0,
    )


def _killed_actors() -> Iterator[Case]:
    for when in WHENS:
        yield Case(fault="kill -9 of the sampling actor", when=when, at="unit", strike=kill_sampling, exit_code=0)
        yield Case(fault="kill -9 of the grading actor", when=when, at="request", strike=kill_grading, exit_code=0)
        yield Case(fault="kill -9 of the limiter", when=when, at="request", strike=kill_limiter, exit_code=0)
        last: At = "request" if when == "end" else "unit"
        yield Case(fault="kill -9 of the store", when=when, at=last, strike=kill_store, exit_code=0)
    for fault, strike in (("sampling actor", kill_sampling), ("store", kill_store)):
        name = f"kill -9 of the {fault}, 2 replicas"
        yield Case(fault=name, when="middle", at="unit", strike=strike, exit_code=0, num_replicas=2)


def cases_of_stopped_jobs() -> Iterator[Case]:
    ends = (
        ("kill -9 of the driver", kill_driver, KILLED),
        ("SIGTERM", sigterm, 128 + signal.SIGTERM),
        ("Ctrl-C", ctrl_c, 128 + signal.SIGINT),
        ("Ctrl-C twice", ctrl_c_twice, 128 + signal.SIGINT),
    )
    for fault, strike, code in ends:
        yield Case(fault=fault, when="start", at="unit", strike=strike, exit_code=code)
        yield Case(fault=fault, when="middle", at="unit", strike=strike, exit_code=code)
        yield Case(fault=fault, when="end", at="request", strike=strike, exit_code=code)
        yield Case(fault=fault, when="assembly", at="dataset written", strike=strike, exit_code=code)


def cases_of_files() -> Iterator[Case]:
    yield from _full_disks()
    yield from _damaged_files()


def _full_disks() -> Iterator[Case]:
    places: tuple[tuple[When, At], ...] = (
        ("start", "unit"),
        ("middle", "unit"),
        ("end", "request"),
        ("assembly", "dataset begun"),
    )
    for when, at in places:
        yield Case(
            fault="disk full",
            when=when,
            at=at,
            strike=lambda job: fill_disk(job.output_dir),
            exit_code=1,
            then=lambda experiment: empty_disk(experiment.parent),
            on_small_disk=True,
        )


def _damaged_files() -> Iterator[Case]:
    """Of a job that was killed: half of the units are stored, and some verdicts."""
    for how, damage in (("truncated", truncate), ("bit flipped", flip_a_bit)):
        for name, path in (
            ("samples file", a_samples_file),
            ("units.jsonl", units_lines),
            ("verdict journal", verdict_journal),
        ):
            yield Case(
                fault=f"{name} {how}",
                when="middle",
                at="unit",
                strike=kill_driver,
                exit_code=KILLED,
                then=_damaging(damage, path),
            )
        # The journal is a file once all is judged.
        yield Case(
            fault=f"verdict file {how}",
            when="assembly",
            at="dataset written",
            strike=kill_driver,
            exit_code=KILLED,
            then=_damaging(damage, verdict_file),
        )


def _damaging(damage: Callable[[Path], None], path: Callable[[Path], Path]) -> Callable[[Path], None]:
    return lambda experiment: damage(path(experiment))


def cases_of_nodes(nodes: Nodes) -> Iterator[Case]:
    """On a cluster with two nodes that sample, one of which dies; another is added."""

    def kill_a_node(job: Job) -> None:
        nodes.kill_node_of(job.sampling_process())

    def replace_a_node(job: Job) -> None:
        kill_a_node(job)
        nodes.add()

    for when in WHENS:
        fault = "kill -9 of a worker node, another added"
        yield Case(fault=fault, when=when, at="unit", strike=replace_a_node, exit_code=0, num_replicas=2)
    fault = "kill -9 of a worker node, none added"
    yield Case(fault=fault, when="middle", at="unit", strike=kill_a_node, exit_code=0, num_replicas=2)
