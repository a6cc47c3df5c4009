"""One experiment as a test sees it: started, struck by a fault at a known place, ended, resumed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

import psutil

from tests.faults.driver import NUM_GENERATIONS, RECORD_VARIABLE
from tests.faults.evidence import Moment
from tests.faults.gates import Gate
from tests.faults.recording import Record
from tests.messages_api import API_KEY, MessagesApi
from tests.processes import started_here, title
from tests.ray.jobs import mayors_arguments
from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 180.0
MODEL = "anthropic/claude-haiku-4-5-20251001"
MAX_CONNECTIONS = 3
GO_ON = re.compile(r"Go on with:\s+(.+)")

RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
GRADING, LIMITER, STORE = "MapBatches(GradingActor)", "ray::RateLimiterActor", "ray::StoreActor"


class Place(Protocol):
    """Where a job waits for its test: a gate, or a request that the grading server holds."""

    @property
    def has_arrived(self) -> bool: ...

    def release(self) -> None: ...


@dataclass(kw_only=True)
class Job:
    """Use it as a context: nothing that it started outlives the block."""

    run: Path
    directory: Path
    api: MessagesApi
    num_replicas: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    output_dir: Path = field(init=False)
    record: Record = field(init=False)
    process: psutil.Popen = field(init=False)
    said_after_s: float | None = field(init=False, default=None)  # from a signal to the line that says how to go on

    def __post_init__(self) -> None:
        self.output_dir = self.directory / "outputs"
        self._gates.mkdir(parents=True)
        self.output_dir.mkdir()
        self.record = Record(self._gates)
        self._others = set(started_here())  # of earlier jobs on the same Ray
        self._ever_started: set[psutil.Process] = set()

    @property
    def _gates(self) -> Path:
        return self.directory / "record"

    @property
    def experiment(self) -> Path:
        (path,) = (path for path in self.output_dir.iterdir() if path.is_dir())
        return path

    @property
    def printed(self) -> str:
        """On stderr, by the process that was started last."""
        return (self.directory / "stderr").read_text()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, _: object, __: object, ___: TracebackType | None) -> None:
        self._note_processes()
        for process in self._ever_started:
            if process.is_running():
                process.kill()

    def start(self) -> None:
        script = str(REPOSITORY / "tests" / "faults" / "driver.py")
        flags = mayors_arguments(
            self.run,
            self.output_dir,
            grader_model=MODEL,
            max_connections=MAX_CONNECTIONS,
            num_replicas=self.num_replicas,
            num_generations=NUM_GENERATIONS,
        )
        self._start(shlex.join([sys.executable, script, *flags]))

    def resume(self) -> None:
        """With the very command that the job printed; one that could print nothing, with what is in the manual."""
        script = str(REPOSITORY / "tests" / "faults" / "driver.py")
        printed = GO_ON.search(self.printed)
        command = shlex.join([sys.executable, script, "--resume", str(self.experiment)])
        self._start(printed[1] if printed else command)

    def _start(self, command: str) -> None:
        with (self.directory / "stderr").open("w") as stderr:
            self.process = psutil.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=REPOSITORY,
                env=self._environment(),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # a terminal's Ctrl-C reaches the job and not the test
            )

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.environment,
            "ANTHROPIC_API_KEY": API_KEY,
            "ANTHROPIC_BASE_URL": self.api.base_url,
            "PYTHONPATH": str(REPOSITORY),
            RECORD_VARIABLE: str(self._gates),
        }

    def wait(self) -> int:
        """Until the job's process has ended; returns its exit code."""
        self._note_processes()
        return int(self.process.wait(PATIENCE_S))

    def gate(self, place: str) -> Gate:
        """A place at which this job stops: see `tests.faults.recording` and `tests.faults.driver`."""
        gate = Gate(self._gates, place)
        gate.close()
        return gate

    def wait_at(self, place: Place) -> None:
        """Until the job is there, where it stays."""
        self.wait_for(lambda: place.has_arrived, "it came to the place where the fault strikes")
        self._note_processes()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Until something holds that the running job brings about."""

        def is_so() -> bool:
            assert self.process.is_running() and self.process.poll() is None, f"ended before {what}: {self.printed}"
            return condition()

        wait_until(is_so, PATIENCE_S, what)

    def now(self) -> Moment:
        return Moment.now(self.experiment, self.record, self.api)

    def sampling_process(self) -> psutil.Process:
        """The one that began a unit last."""
        return psutil.Process(self.record.begun()[-1].process)

    def actor(self, kind: str) -> psutil.Process:
        """The process of this job that has one of the titles above."""
        found = [each for each in set(started_here()) - self._others if kind in title(each)]
        (process,) = found
        return process

    def interrupt(self, number: signal.Signals) -> None:
        """As a terminal or an operator does it. Returns when the job has said how it is resumed."""
        self._note_processes()
        sent_at = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)  # Ctrl-C is for the whole group
        else:
            self.process.send_signal(number)
        wait_until(lambda: GO_ON.search(self.printed) is not None, PATIENCE_S, "the resume command is printed")
        self.said_after_s = time.monotonic() - sent_at

    def processes_left(self) -> list[psutil.Process]:
        """What this job started, and has not ended yet; without Ray's agents, which look for their Ray for a minute."""
        alive = [process for process in self._ever_started if _is_alive(process)]
        return [process for process in alive if not any(agent in title(process) for agent in RAY_AGENTS)]

    def _note_processes(self) -> None:
        if self.process.is_running():
            self._ever_started.update(self.process.children(recursive=True), [psutil.Process(self.process.pid)])


def kill(process: psutil.Process) -> None:
    """kill -9; returns when it is dead."""
    with suppress(psutil.NoSuchProcess):
        process.kill()
    wait_until(lambda: not _is_alive(process), PATIENCE_S, f"{process} is dead")


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
