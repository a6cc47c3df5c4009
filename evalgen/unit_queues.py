"""What `Schedule` keeps of each unit and of each checkpoint; it alone decides, and changes them."""

from __future__ import annotations

from bisect import insort_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from evalgen.records import SamplingUnit

State = Literal["waiting", "in flight", "finished", "failed"]


@dataclass(eq=False)
class Task:
    """A unit, and what became of it."""

    unit: SamplingUnit
    cost: float
    queue: Queue = field(init=False)
    state: State = "waiting"
    num_attempts: int = 0  # that ended without a result
    num_deaths: int = 0  # of them: the process ended
    failed_on: set[str] = field(default_factory=set)  # replicas
    # Of the last attempt:
    ticket: int | None = None
    replica: str = ""
    loads: bool = False  # the checkpoint, first
    begun_at: float = 0.0


class Queue:
    """The units of one checkpoint, and the replicas that hold its weights."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.path = tasks[0].unit.checkpoint.path
        self.waiting: list[Task] = []  # the largest last, and of equal ones the first
        self.waiting_cost = 0.0
        self.num_in_flight = self.num_loading = 0
        self.cost_in_flight = self.sum_begun_at = 0.0
        self.holders: set[str] = set()
        self.loaded_by: set[str] = set()  # at any time
        self.unable: set[str] = set()  # replicas that could not load it
        self.measured = Measured()
        for task in tasks:
            task.queue = self
            self.add(task)

    def add(self, task: Task) -> None:
        insort_left(self.waiting, task, key=lambda other: other.cost)
        self.waiting_cost += task.cost

    def begin(self, task: Task) -> None:
        self.remove(task)
        task.state = "in flight"
        self.holders.add(task.replica)
        self.loaded_by.add(task.replica)
        self._count_in_flight(task, +1)

    def remove(self, task: Task) -> None:
        if task.state == "in flight":
            self._count_in_flight(task, -1)
            return
        self.waiting.remove(task)
        self.waiting_cost = self.waiting_cost - task.cost if self.waiting else 0.0  # no rounding is carried on

    def _count_in_flight(self, task: Task, sign: int) -> None:
        self.num_in_flight += sign
        self.num_loading += sign * task.loads
        self.cost_in_flight += sign * task.cost
        self.sum_begun_at += sign * task.begun_at


@dataclass
class Measured:
    """What finished units took."""

    sample_s: float = 0.0
    cost: float = 0.0
    load_s: float = 0.0
    num_loads: int = 0

    @property
    def pace(self) -> float:
        """0: not known."""
        return self.sample_s / self.cost if self.cost else 0.0

    @property
    def mean_load_s(self) -> float:
        return self.load_s / self.num_loads if self.num_loads else 0.0
