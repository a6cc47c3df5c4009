"""Who samples what: nothing lost, nothing twice, no deadlock whatever fails, and makespans near their lower bound."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgen.records import Checkpoint, SamplingUnit
from evalgen.schedule import MAX_ATTEMPTS, Schedule
from tests.benchmarks.simulate_schedule import SimulatedJob, bound_of_any_cut_s, bound_s, cost_of, simulate
from tests.unit.tiny import query, unit_of


def unit(name: str, checkpoint: str = "a", num_prompts: int = 1) -> SamplingUnit:
    return unit_of(
        [query(f"{name} {index}") for index in range(num_prompts)],
        id=name,
        checkpoint=Checkpoint(run="run", name=checkpoint, path=f"/{checkpoint}", tokenizer_path=""),
        num_draws=10_000,  # so that prompts are what a unit costs
    )


def units_of(sizes: dict[str, Sequence[int]]) -> list[SamplingUnit]:
    """By checkpoint the numbers of prompts of its units, which are named a0, a1, b0 ..."""
    return [unit(f"{name}{index}", name, size) for name, its in sizes.items() for index, size in enumerate(its)]


class Replicas:
    """Take units of a schedule, each call with a ticket of its own."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.tickets: dict[str, int] = {}

    def take(self, replica: str) -> str | None:
        ticket = self.tickets[replica] = 1 + max(self.tickets.values(), default=0)
        taken = self.schedule.take(ticket, replica)
        return taken.id if taken else None

    def repeat(self, replica: str, on: str) -> str | None:
        """The process of `replica` has died: Ray repeats its call."""
        taken = self.schedule.take(self.tickets[replica], on)
        self.tickets[on] = self.tickets[replica]
        return taken.id if taken else None

    def finish(self, unit_id: str, sample_s: float = 1.0, load_s: float = 0.0) -> None:
        self.schedule.finished(unit_id, cost_of(sample_s, load_s))


def replicas_of(sizes: dict[str, Sequence[int]], num_replicas: int = 2) -> Replicas:
    return Replicas(Schedule(units_of(sizes), num_replicas))


def test_a_replica_keeps_to_its_checkpoint_and_then_takes_the_one_with_most_work_that_nobody_holds() -> None:
    job = replicas_of({"a": [9, 1, 5], "b": [6, 6], "c": [20]})
    assert [job.take("x"), job.take("y")] == ["c0", "a0"]
    job.finish("a0")
    assert job.take("y") == "a2"
    job.finish("c0")
    assert job.take("x") == "b0"
    job.finish("a2")
    assert job.take("y") == "a1"


def test_a_second_replica_loads_a_checkpoint_only_if_that_is_sooner() -> None:
    for load_s, joins in ((2.0, True), (100.0, False)):
        job = replicas_of({"a": [4, 4, 4, 4], "b": [1]})
        assert [job.take("x"), job.take("y")] == ["a0", "b0"]
        job.finish("a0", 4.0, load_s)
        assert job.take("x") == "a1"
        job.finish("b0", 1.0, load_s)
        assert job.take("y") == ("a2" if joins else None)


def test_a_load_that_has_begun_is_not_waited_for_again() -> None:
    job = replicas_of({"a": [4, 1], "b": [4, 1]})
    assert [job.take("x"), job.take("y")] == ["a0", "b0"]
    job.finish("a0", 4.0, 100.0)  # so b0 is nearly done, too
    assert job.take("x") == "a1"
    job.finish("a1", 1.0)
    assert job.take("x") is None


def test_replicas_move_on_to_what_would_be_done_last_and_leave_the_rest_to_the_others() -> None:
    job = replicas_of({"a": [2] * 4, "b": [2] * 40}, 3)
    assert [job.take("x"), job.take("y"), job.take("z")] == ["b0", "a0", "b1"]
    for taken in ("b0", "b1", "a0"):
        job.finish(taken, 2.0, 0.1)
    assert [job.take(replica) for replica in "xyz"] == ["b2", "a1", "b3"]
    job = replicas_of({"a": [2] * 3, "b": [2] * 40}, 4)
    assert [job.take(replica) for replica in "xyzw"] == ["b0", "a0", "b1", "b2"]
    job.finish("a0", 2.0, 0.1)
    assert job.take("y") == "a1"


def test_a_process_that_dies_loses_an_attempt_and_the_third_gives_the_unit_up() -> None:
    job = replicas_of({"a": [2]}, 4)
    assert job.take("x") == "a0"
    assert [job.repeat("x", on="y"), job.repeat("y", on="z")] == ["a0", "a0"]
    assert not job.schedule.is_over
    assert job.repeat("z", on="w") is None
    (failure,) = job.schedule.failures
    assert (failure.unit.id, failure.num_attempts) == ("a0", 3)
    assert failure.reason == (
        "sampling 2 prompts of checkpoint /a ended its process 3 times; was it out of memory? "
        "Give fewer --num_replicas, or see the Ray dashboard"
    )
    assert job.schedule.is_over


def test_what_a_process_had_in_flight_is_given_out_though_ray_repeats_the_next_call_first() -> None:
    """A replica has two calls, one after the other; both are repeated when its process dies, in any order."""
    job = replicas_of({"a": [2]}, 1)
    assert job.take("x") == "a0"
    first = job.tickets["x"]
    assert job.take("x") == "a0", "the second call does not wait for the first, which waits behind it"
    job.finish("a0")
    assert job.schedule.take(first, "x") is None
    assert job.schedule.is_over and not job.schedule.failures


def test_a_lost_result_is_read_again_and_not_sampled_again() -> None:
    job = replicas_of({"a": [2, 1]})
    assert job.take("x") == "a0"
    ticket = job.tickets["x"]
    assert job.schedule.finished_unit_of(ticket) is None
    job.finish("a0")
    lost = job.schedule.finished_unit_of(ticket)
    assert lost is not None and lost.id == "a0"
    assert job.take("x") == "a1"
    assert job.schedule.finished_unit_of(ticket) == lost
    assert job.schedule.finished_unit_of(999) is None


def test_a_result_belongs_to_the_ticket_that_finished_it() -> None:
    job = replicas_of({"a": [2]})
    assert job.take("x") == "a0"
    job.schedule.failed("a0", "odd")
    assert job.take("y") == "a0"
    job.finish("a0")
    assert job.schedule.finished_unit_of(job.tickets["x"]) is None
    assert job.schedule.finished_unit_of(job.tickets["y"]) is not None


def test_a_failed_unit_goes_to_another_replica_if_there_is_one() -> None:
    job = replicas_of({"a": [4, 3], "b": [1, 1]})
    assert [job.take("x"), job.take("y")] == ["a0", "b0"]
    job.schedule.failed("a0", "odd")
    assert job.take("x") == "a1"
    job.finish("a1")
    assert job.take("x") is None, "b is soon done, and a0 is for y"
    job.finish("b0")
    assert job.take("y") == "b1"
    job.finish("b1")
    assert job.take("y") == "a0"
    job.schedule.failed("a0", "odd again")
    assert job.take("x") == "a0", "by now it has failed everywhere"
    job.schedule.failed("a0", "odd for ever")
    assert [(f.reason, f.num_attempts) for f in job.schedule.failures] == [("odd for ever", MAX_ATTEMPTS)]
    assert job.schedule.is_over


def test_an_only_replica_tries_a_failed_unit_again_before_it_leaves_the_checkpoint() -> None:
    job = replicas_of({"a": [4, 3], "b": [5]}, 1)
    taken = []
    while (name := job.take("x")) is not None:
        if name == "a0" and "a0" not in taken:
            job.schedule.failed("a0", "odd")
        else:
            job.finish(name)
        taken.append(name)
    assert taken == ["a0", "a0", "a1", "b0"]


def test_a_checkpoint_that_cannot_be_loaded_fails_with_all_that_waits_for_it() -> None:
    job = replicas_of({"a": [4, 3, 2], "b": [1]})
    assert job.take("x") == "a0"
    job.schedule.failed("a0", "no such file", for_good=True)
    assert {(f.unit.id, f.reason, f.num_attempts) for f in job.schedule.failures} == {
        ("a0", "no such file", 1),
        ("a1", "no such file", 0),
        ("a2", "no such file", 0),
    }
    assert job.take("x") == "b0"
    job.finish("b0")
    assert job.schedule.is_over


def test_a_replica_that_cannot_load_a_checkpoint_leaves_it_to_the_others_and_uses_up_no_attempt() -> None:
    job = replicas_of({"a": [4, 3, 2, 1], "b": [1]})
    assert job.take("x") == "a0"
    for _ in range(2):
        job.schedule.load_failed("a0", "x", "no such file (node 7)")
    assert job.take("x") == "b0", "a is for y, which may see the file"
    job.finish("b0")
    assert job.take("y") == "a0"
    assert job.take("x") is None
    for name in ("a0", "a1", "a2", "a3"):
        job.finish(name)
        assert job.take("y") == (f"a{int(name[1]) + 1}" if name != "a3" else None)
    assert job.schedule.is_over and not job.schedule.failures


def test_a_failure_to_load_that_is_told_again_is_not_that_of_who_has_the_unit_now() -> None:
    job = replicas_of({"a": [4]})
    assert job.take("x") == "a0"
    job.schedule.load_failed("a0", "x", "stale file handle")
    assert job.take("y") == "a0"
    job.schedule.load_failed("a0", "x", "stale file handle")
    assert job.take("x") is None
    job.finish("a0")
    assert job.schedule.is_over and not job.schedule.failures


def test_one_that_cannot_load_does_not_wait_for_one_whose_device_is_retired() -> None:
    job = replicas_of({"a": [4, 3, 2]})
    assert [job.take("x"), job.take("y")] == ["a0", "a1"]
    job.schedule.load_failed("a0", "x", "stale file handle")
    job.schedule.device_failed("a1", "gpu 1", "CUDA error")
    assert job.take("y") == "a0"
    assert job.take("x") is None
    job.schedule.device_failed("a0", "gpu 1", "CUDA error")
    assert job.take("x") is not None


def test_what_no_replica_can_load_is_given_up_after_as_many_attempts_as_any_other_unit() -> None:
    job = replicas_of({"a": [4]})
    for replica in "xyxy":
        assert job.take(replica) == "a0"
        assert not job.schedule.is_over
        job.schedule.load_failed("a0", replica, "stale file handle")
    (failure,) = job.schedule.failures
    assert (failure.reason, failure.num_attempts) == ("stale file handle", MAX_ATTEMPTS)
    assert job.schedule.is_over


def test_a_replica_that_is_left_alone_tries_again_what_it_could_not_load() -> None:
    """A disk that was away for a moment; the other node has died."""
    job = replicas_of({"a": [4]})
    assert job.take("x") == "a0"
    job.schedule.load_failed("a0", "x", "stale file handle")
    assert job.take("x") is None, "y is yet to come"
    job.schedule.node_died("y")
    assert job.take("x") is None and job.schedule.is_stuck, "it may come back"
    job.schedule.expect_nobody_else()
    assert job.take("x") == "a0"
    job.finish("a0")
    assert job.schedule.is_over and not job.schedule.failures


def test_a_device_is_retired_when_two_different_units_have_failed_on_it() -> None:
    job = replicas_of({"a": [4, 3]}, 1)
    assert job.take("x") == "a0"
    job.schedule.device_failed("a0", "gpu 0", "CUDA error")
    assert not job.schedule.is_retired("gpu 0")
    assert job.take("x") == "a0"
    job.schedule.device_failed("a0", "gpu 0", "CUDA error")
    assert not job.schedule.is_retired("gpu 0"), "the unit may be to blame"
    assert job.take("x") == "a0"
    job.finish("a0")
    assert job.take("x") == "a1"
    job.schedule.device_failed("a1", "gpu 0", "CUDA error")
    assert job.schedule.is_retired("gpu 0") and not job.schedule.is_retired("gpu 1")
    assert job.take("y") == "a1"


def test_a_retired_replica_gives_back_what_its_ticket_had_in_flight() -> None:
    job = replicas_of({"a": [4]})
    assert job.take("x") == "a0"
    assert job.take("y") is None
    job.schedule.came_again(job.tickets["x"])
    job.schedule.came_again(job.tickets["x"])
    assert job.take("y") == "a0"
    job.finish("a0")
    assert job.schedule.is_over and not job.schedule.failures


def test_what_a_node_that_died_had_in_flight_goes_to_the_others_and_what_comes_back_later_changes_nothing() -> None:
    job = replicas_of({"a": [4]})
    assert job.take("x") == "a0"
    assert job.take("y") is None
    job.schedule.node_died("x")
    job.schedule.node_died("x")
    assert job.take("y") == "a0"
    assert job.repeat("x", on="x") is None, "there is room again for the replica that was lost"
    job.finish("a0")
    assert job.schedule.is_over and not job.schedule.failures


def test_when_nobody_is_left_all_that_waits_fails_and_what_is_in_flight_ends() -> None:
    job = replicas_of({"a": [4, 3], "b": [2], "c": [1]}, 3)
    assert [job.take(replica) for replica in "xy"] == ["a0", "b0"]
    job.schedule.give_up("every device has failed")
    assert not job.schedule.is_over and job.take("z") is None
    job.schedule.failed("a0", "CUDA error")
    job.finish("b0")
    assert job.schedule.is_over
    reasons = {failure.unit.id: failure.reason for failure in job.schedule.failures}
    assert reasons == {"a1": "every device has failed", "c0": "every device has failed", "a0": "CUDA error"}


def test_what_the_schedule_does_not_know_or_knows_already_changes_nothing() -> None:
    job = replicas_of({"a": [4, 3]})
    assert job.take("x") == "a0"
    for _ in range(2):
        job.finish("a0")
        job.finish("of another job")
        job.schedule.failed("a0", "too late")
        job.schedule.failed("of another job", "odd")
    job.finish("a1")  # by a replica that took it before the process of the schedule was started again
    assert job.take("x") is None
    assert job.schedule.is_over and not job.schedule.failures


def test_the_checkpoint_that_is_read_ahead_is_the_one_that_is_taken_next() -> None:
    job = replicas_of({"a": [9], "b": [8], "c": [3], "d": [2]})
    assert [job.take("x"), job.take("y")] == ["a0", "b0"]
    assert [job.schedule.next_checkpoint("x"), job.schedule.next_checkpoint("y")] == ["/d", "/c"]
    job.finish("b0")
    assert job.take("y") == "c0"
    job.finish("a0")
    assert job.take("x") == "d0"
    assert job.schedule.next_checkpoint("x") == job.schedule.next_checkpoint("of nobody") == ""


class TroubledJob:
    """Replicas whose processes die, whose units fail and whose devices break, as a random number says."""

    def __init__(self, schedule: Schedule, num_replicas: int, numbers: random.Random, trouble: float) -> None:
        self.schedule = schedule
        self.numbers = numbers
        self.trouble = trouble
        self.busy: dict[str, tuple[int, SamplingUnit]] = {}
        self.idle = [f"replica {index}" for index in range(num_replicas)]
        self.num_replicas = num_replicas
        self.num_tickets = self.num_names = 0
        self.given: Counter[str] = Counter()
        self.not_loaded: Counter[str] = Counter()  # of these, may have cost no attempt
        self.finished: set[str] = set()
        self.failed_on: dict[str, set[str]] = defaultdict(set)
        self.without_room: list[int] = []  # tickets of replicas whose node has died

    def run(self) -> None:
        while True:
            self.numbers.shuffle(self.idle)
            waiting, self.idle = self.idle, []
            for replica in waiting:
                self.take(self.new_ticket(), replica)
            if self.busy:
                self.end(self.numbers.choice(sorted(self.busy)))
            elif self.schedule.is_stuck and self.schedule.expects_others:
                self.schedule.expect_nobody_else()  # those whose node has died do not come back
            else:
                break
        assert self.schedule.is_over, "a deadlock"
        for ticket in self.without_room:  # now there is some
            assert self.schedule.take(ticket, self.new_name()) is None

    def new_ticket(self) -> int:
        self.num_tickets += 1
        return self.num_tickets

    def take(self, ticket: int, replica: str) -> None:
        """A replica on a retired device waits to the end; there is always one that never breaks."""
        self.schedule.came_again(ticket)
        if self.schedule.is_retired(replica):
            self.schedule.left(replica)
        taken = None if self.schedule.is_retired(replica) else self.schedule.take(ticket, replica)
        if taken is None:
            self.idle.append(replica)
            return
        assert taken.id not in self.finished, "sampled twice"
        assert taken.id not in {unit.id for _, unit in self.busy.values()}, "in flight twice"
        others_are_at_work = bool(self.busy)
        if replica in self.failed_on[taken.id] and others_are_at_work:
            assert len(self.failed_on[taken.id]) >= self.num_replicas, "another could have taken it"
        self.given[taken.id] += 1
        self.busy[replica] = (ticket, taken)

    def end(self, replica: str) -> None:
        ticket, unit = self.busy.pop(replica)
        kind = "finish" if self.numbers.random() > self.trouble else self.numbers.choice(KINDS)
        if kind == "finish":
            self.schedule.finished(unit.id, cost_of(self.numbers.random(), self.numbers.random()))
            self.finished.add(unit.id)
            if self.numbers.random() < self.trouble:  # the process dies before Ray has the result
                lost = self.schedule.finished_unit_of(ticket)
                assert lost is not None and lost.id == unit.id
            self.idle.append(replica)
            return
        self.failed_on[unit.id].add(replica)
        if kind == "fail":
            self.schedule.failed(unit.id, "odd")
            self.take(ticket, replica)  # the same call goes on
        elif kind == "fail to load":
            self.schedule.load_failed(unit.id, replica, "stale file handle")
            self.not_loaded[unit.id] += 1
            self.take(ticket, replica)
        elif kind == "fail for good":
            self.schedule.failed(unit.id, "no such file", for_good=True)
            self.take(ticket, replica)
        elif kind == "break" and replica != "replica 0":
            self.schedule.device_failed(unit.id, replica, "CUDA error")
            self.take(ticket, replica)
        elif kind == "lose the node" and replica != "replica 0":
            self.schedule.node_died(replica)
            self.without_room.append(ticket)
        else:
            self.repeat(ticket, replica)

    def repeat(self, ticket: int, replica: str) -> None:
        """Under its old name, a new one, or on a replica that has nothing to do."""
        names = ["old", "new", *(["idle"] if self.idle else [])]
        where = self.numbers.choice(names) if replica != "replica 0" else "old"
        if where == "idle":
            other = self.idle.pop()
            self.idle.append(replica)
        else:
            other = self.new_name() if where == "new" else replica
        self.take(ticket, other)

    def new_name(self) -> str:
        self.num_names += 1
        return f"new replica {self.num_names}"


KINDS = ("fail", "fail", "fail to load", "fail for good", "break", "die", "die", "die", "lose the node")


@settings(max_examples=300, derandomize=True)
@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1, max_size=6),
    num_replicas=st.integers(1, 6),
    seed=st.integers(0, 10**9),
    trouble=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
)
def test_whatever_fails_every_unit_ends_once_and_nothing_waits_for_ever(
    sizes: list[list[int]], num_replicas: int, seed: int, trouble: float
) -> None:
    units = units_of({chr(ord("a") + index): its for index, its in enumerate(sizes)})
    job = TroubledJob(Schedule(units, num_replicas), num_replicas, random.Random(seed), trouble)
    job.run()
    failed = [failure.unit.id for failure in job.schedule.failures]
    assert sorted([*failed, *job.finished]) == sorted(unit.id for unit in units)
    assert all(count <= MAX_ATTEMPTS + job.not_loaded[name] for name, count in job.given.items())
    assert all(failure.num_attempts <= job.given[failure.unit.id] for failure in job.schedule.failures)
    if not trouble:
        assert not failed


SIZES = [
    (1, 4, 100),
    (2, 4, 1000),
    (8, 4, 1000),
    (8, 40, 10),
    (8, 40, 1000),
    (64, 4, 5000),
    (64, 40, 1000),
    (64, 400, 10),
]


@pytest.mark.parametrize(("num_replicas", "num_checkpoints", "num_prompts"), SIZES)
def test_the_makespan_is_near_its_lower_bound(num_replicas: int, num_checkpoints: int, num_prompts: int) -> None:
    job = SimulatedJob(num_replicas, num_checkpoints, num_prompts)
    exact, noisy = job.seconds(0, 0), job.seconds(0.2, 0)
    mean = sum(exact.values()) / len(exact)
    for load_s in (0.0, mean, 10 * mean):
        outcome = simulate(job.units, num_replicas, exact, load_s)
        assert outcome.makespan_s <= 1.15 * bound_of_any_cut_s(job, load_s)
        assert max(outcome.loads.values()) == 1, "a replica loads a checkpoint once"
        outcome = simulate(job.units, num_replicas, noisy, load_s)
        assert outcome.makespan_s <= 1.15 * bound_s(job.units, num_replicas, noisy, load_s)
        assert max(outcome.loads.values()) == 1


def test_dear_loads_are_few_and_cheap_ones_keep_all_replicas_busy() -> None:
    job = SimulatedJob(8, 40, 100)
    exact = job.seconds(0, 0)
    dear = simulate(job.units, 8, exact, 100 * max(exact.values()))
    assert dear.loads.total() == 40
    free = simulate(job.units, 8, exact, 0.0)
    assert free.makespan_s <= 1.02 * sum(exact.values()) / 8


def test_the_time_that_is_left_is_what_finished_units_took_shared_by_the_replicas() -> None:
    job = replicas_of({"a": [4, 4, 4], "b": [4]})
    assert job.schedule.figures.seconds_left is None, "nothing is measured yet"
    assert [job.take("x"), job.take("y")] == ["a0", "b0"]
    job.finish("a0", sample_s=10.0, load_s=2.0)
    figures = job.schedule.figures
    assert (figures.num_finished, figures.num_failed, figures.num_retried) == (1, 0, 0)
    assert figures.cost_done == pytest.approx(figures.cost_left / 3)
    # Three units of 10 s and a load of 2 s, of which b's has spent 12 s already.
    assert figures.seconds_left == pytest.approx((20 + 10 + 2 - 12) / 2)
    for name in ("a1", "b0", "a2"):
        job.take("x")
        job.finish(name, sample_s=10.0)
    end = job.schedule.figures
    assert (end.num_finished, end.cost_left) == (4, 0.0) and end.seconds_left == pytest.approx(0.0, abs=1e-6)


def test_attempts_that_are_followed_by_another_are_counted_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    job = replicas_of({"a": [1]}, num_replicas=1)
    for _ in range(MAX_ATTEMPTS):
        assert job.take("x") == "a0"
        job.schedule.failed("a0", "the disk is full")
    figures = job.schedule.figures
    assert (figures.num_retried, figures.num_failed, figures.num_finished) == (MAX_ATTEMPTS - 1, 1, 0)
    assert [name.name for name in job.schedule.retried] == ["a"]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == MAX_ATTEMPTS - 1 and all(it.endswith("sampled again: the disk is full") for it in messages)
