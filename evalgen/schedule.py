"""Which replica samples which unit: decided whenever one asks, from what is left and from what was measured so far.

A replica keeps to the checkpoint that it holds; then it takes one that nobody holds; then it helps with the one that
would be done last, if that is sooner for it even after a load. The largest unit goes first. No clock and no Ray: all
that is known of time are the seconds that finished units report.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from evalgen.records import Checkpoint, SamplingUnit
from evalgen.unit_costs import estimated_cost
from evalgen.unit_queues import Measured, Queue, State, Task
from evalgen.unit_store import SamplingCost

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # of a unit
MAX_UNITS_FAILED = 2  # on one device: once the unit may be to blame


@dataclass(frozen=True, kw_only=True)
class FailedUnit:
    """A unit that is given up."""

    unit: SamplingUnit
    reason: str
    num_attempts: int  # 0: its checkpoint cannot be loaded, or nobody is left to sample it


@dataclass(frozen=True, kw_only=True)
class ScheduleFigures:
    """How far sampling is. Costs are as `estimated_cost` has them."""

    num_finished: int = 0  # units
    num_failed: int = 0
    num_retried: int = 0  # attempts that failed and were followed by another
    cost_done: float = 0.0
    cost_left: float = 0.0
    seconds_left: float | None = None  # by what finished units took; None: none has finished


class Schedule:
    """The state of a job's units: each waits, is in flight on a replica, is finished, or has failed."""

    def __init__(self, units: Sequence[SamplingUnit], num_replicas: int) -> None:
        self._num_replicas = num_replicas
        self._tasks = {unit.id: Task(unit, estimated_cost(unit)) for unit in units}
        assert len(self._tasks) == len(units), "two units of one id"
        by_weights: dict[object, list[Task]] = defaultdict(list)
        for task in self._tasks.values():
            by_weights[task.unit.checkpoint, task.unit.dtype].append(task)
        self._queues = [Queue(tasks) for tasks in by_weights.values()]
        self._held: dict[str, Queue] = {}  # by replica
        self._gone: set[str] = set()  # replicas
        self.expects_others = True
        self._of_ticket: dict[int, Task] = {}
        self._last_of: dict[str, Task] = {}  # by replica
        self._num_in_flight = 0
        self._measured = Measured()
        self._now = 0.0  # seconds since the first take, as far as a finished unit has told
        self._failures: list[FailedUnit] = []
        self._is_given_up = False
        self._failed_on_device: dict[str, set[str]] = defaultdict(set)
        self._survey: _Survey | None = None  # None: something has changed since the last
        self._num_finished, self._cost_done = 0, 0.0
        self.retried: Counter[Checkpoint] = Counter()  # attempts that failed and were followed by another

    def take(self, ticket: int, replica: str) -> SamplingUnit | None:
        """What `replica` samples next. None: nothing for now; ask again after a change, or stop if it `is_over`.

        A ticket is one call of Ray's actor pool; see `came_again`.
        """
        assert self.finished_unit_of(ticket) is None, ticket
        self.came_again(ticket)
        # It does one unit at a time: what it has in flight, under a ticket that waits behind this one, died with it.
        self._lose(self._last_of.get(replica), replica)
        self._gone.discard(replica)
        task = self._choice(replica)
        if task is None:
            return None
        self._begin(task, ticket, replica)
        return task.unit

    def came_again(self, ticket: int) -> None:
        """Ray repeats a call whose process has died, maybe on another replica: its unit in flight has lost an attempt.

        `take` sees to it. Only a replica that is not to take anything has to tell.
        """
        task = self._of_ticket.get(ticket)
        if task is not None and task.ticket == ticket:
            self._lose(task, task.replica)

    def node_died(self, replica: str) -> None:
        """That of `replica`: its unit in flight has lost an attempt.

        Ray repeats the call when there is room for it; the others would wait for the unit, and keep the room.
        """
        self._process_ended(replica)
        for task in self._tasks.values():
            if task.state == "in flight" and task.replica == replica:
                self._end_attempt(task, f"the node of its replica died (checkpoint {task.unit.checkpoint.path})")

    def left(self, replica: str) -> None:
        """It takes no more units, unless it asks for one."""
        self._process_ended(replica)
        self._gone.add(replica)

    def finished_unit_of(self, ticket: int) -> SamplingUnit | None:
        """The unit that this ticket has finished: Ray lost the result, which is stored."""
        task = self._of_ticket.get(ticket)
        return task.unit if task is not None and task.state == "finished" and task.ticket == ticket else None

    def finished(self, unit_id: str, cost: SamplingCost) -> None:
        """The unit is stored. Telling it again, or of a unit of another job, changes nothing."""
        task = self._tasks.get(unit_id)
        if task is None or task.state in ("finished", "failed"):
            return
        if task.state == "in flight":
            self._measure(task, cost)
        self._leave_queue(task, "finished")
        self._num_finished += 1
        self._cost_done += task.cost

    def failed(self, unit_id: str, reason: str, *, for_good: bool = False) -> None:
        """An attempt ended with an exception. `for_good`: so would any with this checkpoint, all its units fail."""
        task = self._tasks.get(unit_id)
        if task is None or task.state in ("finished", "failed"):
            return
        self._end_attempt(task, reason, for_good=for_good)
        if for_good:
            for waiting in reversed(list(task.queue.waiting)):
                self._give_up(waiting, reason)

    def load_failed(self, unit_id: str, replica: str, reason: str) -> None:
        """`replica` cannot load the unit's checkpoint: it is for the others to sample, if they can.

        No attempt is lost until none of them can, so that a node which does not see the files cannot use them all up.
        """
        task = self._tasks.get(unit_id)
        if task is None or task.state != "in flight" or task.replica != replica:
            return
        task.queue.unable.add(task.replica)
        self._process_ended(task.replica)
        self._end_attempt(task, reason, is_lost=not self._is_for_others(task.queue, task.replica))

    def device_failed(self, unit_id: str, device: str, reason: str) -> None:
        """As `failed`; the device is to blame, and the replica's process ends."""
        self._failed_on_device[device].add(unit_id)
        task = self._tasks.get(unit_id)
        if task is not None and task.state == "in flight":
            self._process_ended(task.replica)
            if self.is_retired(device):
                self.left(task.replica)
        self.failed(unit_id, reason)

    def expect_nobody_else(self) -> None:
        """Replicas that were expected do not come: those that are here try even what they could not load."""
        self.expects_others = False

    def give_up(self, reason: str) -> None:
        """Nobody is left to sample: what waits fails now, and what is in flight has its last attempt."""
        self._is_given_up = True
        for task in self._tasks.values():
            if task.state == "waiting":
                self._give_up(task, reason)

    def is_retired(self, device: str) -> bool:
        """Whether different units have failed on it: no replica on it is to take another."""
        return len(self._failed_on_device.get(device, ())) >= MAX_UNITS_FAILED

    @property
    def is_over(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not self._num_in_flight and not any(queue.waiting for queue in self._queues)

    @property
    def is_stuck(self) -> bool:
        """Units wait, and nobody is at work."""
        return not self._num_in_flight and not self.is_over

    @property
    def failures(self) -> tuple[FailedUnit, ...]:
        return tuple(self._failures)

    @property
    def figures(self) -> ScheduleFigures:
        return ScheduleFigures(
            num_finished=self._num_finished,
            num_failed=len(self._failures),
            num_retried=self.retried.total(),
            cost_done=self._cost_done,
            cost_left=sum(queue.waiting_cost + queue.cost_in_flight for queue in self._queues),
            seconds_left=sum(map(self._work_left_s, self._queues)) / self._num_replicas
            if self._measured.cost
            else None,
        )

    def next_checkpoint(self, replica: str) -> str:
        """Path of the checkpoint that `replica` will probably load next, so that it can be read ahead; "": none."""
        held, unserved = self._held.get(replica), self._surveyed().unserved
        if held is None or not unserved:
            return ""
        time_left = self._time_left(held)
        sooner = [queue for queue in self._queues if queue.holders and self._time_left(queue) < time_left]
        place = sum(len(queue.holders) for queue in sooner) + sorted(held.holders).index(replica)
        return unserved[place].path if place < len(unserved) else ""

    def _choice(self, replica: str) -> Task | None:
        held = self._held.get(replica)
        if held is not None and (task := self._next_of(held, replica)) is not None:
            return self._more_urgent(replica, held) or task
        unserved = sorted(self._surveyed().unserved, key=lambda queue: replica in queue.loaded_by)
        for queue in (*unserved, *self._helpable(replica)):
            if (task := self._next_of(queue, replica)) is not None:
                return task
        return None if self._num_in_flight else self._last_resort(replica)

    def _next_of(self, queue: Queue, replica: str) -> Task | None:
        """The largest waiting unit that has not failed on this replica, unless it failed on all."""
        if self._is_for_others(queue, replica):
            return None
        for task in reversed(queue.waiting):
            if replica not in task.failed_on or len(task.failed_on) >= self._num_replicas:
                return task
        return None

    def _more_urgent(self, replica: str, held: Queue) -> Task | None:
        """A unit of another checkpoint, if the others who hold this one will have done it before that one is done."""
        if len(held.holders) > 1:
            for queue in self._helpable(replica):
                if self._time_left(held, -1) <= self._time_left(queue, +1):
                    return self._next_of(queue, replica)
        return None

    def _last_resort(self, replica: str) -> Task | None:
        """Any unit at all: nobody is at work who could take it."""
        queues = [queue for queue in self._queues if queue.waiting and not self._is_for_others(queue, replica)]
        waiting = [self._next_of(queue, replica) or queue.waiting[-1] for queue in queues]
        held = self._held.get(replica)
        return min(waiting, key=lambda task: (replica in task.failed_on, task.queue is not held), default=None)

    def _is_for_others(self, queue: Queue, replica: str) -> bool:
        """Whether `replica` could not load the checkpoint, and there are others, at work or to come, that may."""
        num_out = len(queue.unable | self._gone)
        return self.expects_others and replica in queue.unable and num_out < self._num_replicas

    def _helpable(self, replica: str) -> list[Queue]:
        """No replica loads a checkpoint twice to help with it."""
        return [queue for queue in self._surveyed().helpable if replica not in queue.loaded_by]

    def _surveyed(self) -> _Survey:
        if self._survey is None:
            unserved, helpable = [], []
            for queue in self._queues:
                if not queue.waiting:
                    continue
                if not any(self._next_of(queue, holder) for holder in queue.holders):
                    unserved.append((queue.waiting_cost, queue))
                elif (time_left := self._time_left(queue)) > self._time_to_help(queue):
                    helpable.append((time_left, queue))
            self._survey = _Survey(_by_falling(unserved), _by_falling(helpable))
        return self._survey

    def _time_to_help(self, queue: Queue) -> float:
        """Seconds after which another replica would have sampled one unit."""
        return self._measured.mean_load_s + queue.waiting[-1].cost * self._pace(queue)

    def _time_left(self, queue: Queue, num_joining: int = 0) -> float:
        """Seconds until all units of `queue` are done by those who hold it and `num_joining` more (-1: one fewer)."""
        num_holders = len(queue.holders) + num_joining
        return self._work_left_s(queue, max(0, num_joining)) / num_holders if num_holders else inf

    def _work_left_s(self, queue: Queue, num_joining: int = 0) -> float:
        """Seconds of all replicas together until all units of `queue` are done, after the loads of `num_joining`."""
        num_loads = queue.num_loading + num_joining
        if not queue.holders and queue.waiting:
            num_loads = max(1, num_loads)
        sampling_s = (queue.waiting_cost + queue.cost_in_flight) * self._pace(queue)
        spent_s = queue.num_in_flight * self._now - queue.sum_begun_at
        return max(0.0, num_loads * self._measured.mean_load_s + sampling_s - spent_s)

    def _pace(self, queue: Queue) -> float:
        """Seconds for a unit of cost. Before anything is measured everyone is loading, and any pace will do."""
        return queue.measured.pace or self._measured.pace or 1.0

    def _lose(self, task: Task | None, replica: str) -> None:
        """The attempt of `replica`, if it is not over: its process has died."""
        if task is not None and task.state == "in flight" and task.replica == replica:
            task.num_deaths += 1
            self._process_ended(replica)
            self._end_attempt(task, _reason_of_death(task))

    def _begin(self, task: Task, ticket: int, replica: str) -> None:
        before = self._held.get(replica)
        if before is not None and before is not task.queue:
            before.holders.discard(replica)
        task.ticket, task.replica = ticket, replica
        task.loads, task.begun_at = before is not task.queue, self._now
        task.queue.begin(task)
        self._held[replica] = task.queue
        self._of_ticket[ticket] = self._last_of[replica] = task
        self._num_in_flight += 1
        self._survey = None

    def _end_attempt(self, task: Task, reason: str, *, for_good: bool = False, is_lost: bool = True) -> None:
        task.num_attempts += is_lost
        if for_good or self._is_given_up or task.num_attempts == MAX_ATTEMPTS:
            self._give_up(task, reason)
        elif task.state == "in flight":
            self.retried[task.unit.checkpoint] += 1
            log.warning("%d prompts of %s are sampled again: %s", len(task.unit.queries), task.unit.dataset, reason)
            task.failed_on.add(task.replica)
            self._leave_queue(task, "waiting")
            task.queue.add(task)

    def _give_up(self, task: Task, reason: str) -> None:
        self._leave_queue(task, "failed")
        self._failures.append(FailedUnit(unit=task.unit, reason=reason, num_attempts=task.num_attempts))

    def _leave_queue(self, task: Task, state: State) -> None:
        self._num_in_flight -= task.state == "in flight"
        task.queue.remove(task)
        task.state = state
        self._survey = None

    def _process_ended(self, replica: str) -> None:
        """What comes next under its name holds no checkpoint."""
        held = self._held.pop(replica, None)
        if held is not None:
            held.holders.discard(replica)
            self._survey = None

    def _measure(self, task: Task, cost: SamplingCost) -> None:
        self._now = max(self._now, task.begun_at + cost.load_s + cost.sample_s)
        for measured in (self._measured, task.queue.measured):
            measured.sample_s += cost.sample_s
            measured.cost += task.cost
        if task.loads and cost.load_s > 0:
            self._measured.load_s += cost.load_s
            self._measured.num_loads += 1


class _Survey(NamedTuple):
    """Checkpoints with waiting units, for replicas that hold none of them."""

    unserved: list[Queue]  # nobody who holds it can take its units; most work first
    helpable: list[Queue]  # to be done sooner by one replica more; last to be done first


def _by_falling(keyed: list[tuple[float, Queue]]) -> list[Queue]:
    return [queue for _, queue in sorted(keyed, key=lambda pair: -pair[0])]


def _reason_of_death(task: Task) -> str:
    times = "once" if task.num_deaths == 1 else f"{task.num_deaths} times"
    return (
        f"sampling {len(task.unit.queries)} prompts of checkpoint {task.unit.checkpoint.path} ended its process "
        f"{times}; was it out of memory? Give fewer --num_replicas, or see the Ray dashboard"
    )
