"""Coroutines of one process share few calls to the limiter, and none of them loses or keeps a lease by that."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest

from evalgen.errors import GraderUnavailable
from evalgen.grading.breaker import Breaker
from evalgen.grading.leases import WAITS_TOLD_EVERY_S, Leases
from evalgen.grading.limiter_records import Demand, Lease, Outcome
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.records import Limits
from tests.virtual_time import now, run_in_virtual_time

DEMAND = Demand(topic="", num_bytes=1)


class Counting(RateLimiter):
    """Counts the calls, each of which takes a moment, as in another process."""

    num_calls = 0

    async def acquire(self, demands: Sequence[Demand], holder: str) -> list[Lease]:
        self.num_calls += 1
        await asyncio.sleep(0.0015)
        return await super().acquire(demands, holder)


def test_many_waiters_share_few_calls_and_are_served_in_order() -> None:
    async def scenario() -> None:
        gate, served = Counting(max_connections=10_000, clock=now, breaker=Breaker(900)), list[int]()
        leases = Leases(gate, "p")

        async def one(name: int) -> None:
            lease = await leases.acquire(DEMAND)
            served.append(name)
            leases.settle(Outcome(lease=lease, kind="answered"))

        await asyncio.gather(*map(one, range(1_000)))
        assert served == list(range(1_000))
        assert gate.num_calls <= 22  # one for the first, which shows that the server answers

    run_in_virtual_time(scenario())


def test_a_waiter_that_is_cancelled_gives_back_what_it_was_given() -> None:
    async def scenario() -> None:
        gate = RateLimiter(max_connections=2, limits=Limits(requests=60), clock=now, breaker=Breaker(900))
        leases = Leases(gate, "p")
        tasks = [asyncio.create_task(leases.acquire(DEMAND)) for _ in range(5)]
        await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(10)
        await leases.settled()
        assert gate.num_in_flight == sum(not task.cancelled() for task in tasks)
        await leases.acquire(DEMAND)  # it goes on

    run_in_virtual_time(scenario())


def test_waiters_with_leases_ahead_are_cancelled_without_end() -> None:
    """As many as a thousand connections have: none is lost, and nothing recurses from one to the next."""

    async def scenario() -> None:
        gate = RateLimiter(max_connections=2_000, clock=now, breaker=Breaker(900))
        leases = Leases(gate, "p")
        leases.settle(Outcome(lease=await leases.acquire(DEMAND), kind="answered"))
        tasks = [asyncio.create_task(leases.acquire(DEMAND)) for _ in range(3_000)]
        await asyncio.sleep(1)
        assert sum(task.done() for task in tasks) == 2_000
        for task in tasks:
            task.cancel()
        for task in tasks:
            if not task.cancelled() and task.done():
                leases.settle(Outcome(lease=task.result(), kind="answered"))
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(10)
        await leases.settled()
        assert gate.num_in_flight == 0

    run_in_virtual_time(scenario())


@pytest.mark.parametrize(("kind", "most"), [("throttled", 0), ("failed", 10)])
def test_what_was_granted_ahead_is_not_sent_to_a_server_that_wants_a_pause(
    kind: Literal["throttled", "failed"], most: int
) -> None:
    async def scenario() -> None:
        gate = RateLimiter(max_connections=100, clock=now, breaker=Breaker(900))
        leases, sent_at, answered_at = Leases(gate, "p"), list[float](), list[float]()
        leases.settle(Outcome(lease=await leases.acquire(DEMAND), kind="answered"))

        async def ask(topic: int) -> None:
            lease = await leases.acquire(Demand(topic=str(topic), num_bytes=1))
            sent_at.append(now())
            await asyncio.sleep(1 + topic / 1000)
            answered_at.append(now())
            leases.settle(Outcome(lease=lease, kind=kind, retry_after_s=60.0 if kind == "throttled" else 0.0))

        tasks = [asyncio.create_task(ask(topic)) for topic in range(200)]
        await asyncio.sleep(50)
        for task in tasks:
            task.cancel()
        assert sum(at > min(answered_at) for at in sent_at) <= most

    run_in_virtual_time(scenario())


def test_a_server_that_answers_all_at_once_does_not_get_more_at_once_than_the_rate_allows() -> None:
    async def scenario() -> None:
        gate = RateLimiter(max_connections=100, limits=Limits(requests=600), clock=now, breaker=Breaker(900))
        leases, answers, sent_at = Leases(gate, "p"), asyncio.Event(), list[float]()

        async def ask() -> None:
            lease = await leases.acquire(DEMAND)
            sent_at.append(now())
            await answers.wait()
            leases.settle(Outcome(lease=lease, kind="answered"))

        leases.settle(Outcome(lease=await leases.acquire(DEMAND), kind="answered"))
        tasks = [asyncio.create_task(ask()) for _ in range(300)]
        await asyncio.sleep(15)
        assert len(sent_at) == 100
        answers.set()
        answered_at = now()
        await asyncio.gather(*tasks)
        assert sum(answered_at <= at < answered_at + 0.1 for at in sent_at) <= 8

    run_in_virtual_time(scenario())


def test_an_error_of_the_limiter_reaches_every_waiter_and_the_next_one_asks_anew() -> None:
    class Broken(RateLimiter):
        is_broken = True

        async def acquire(self, demands: Sequence[Demand], holder: str) -> list[Lease]:
            if self.is_broken:
                raise GraderUnavailable("away")
            return await super().acquire(demands, holder)

    async def scenario() -> None:
        gate = Broken(max_connections=2, clock=now, breaker=Breaker(900))
        leases = Leases(gate, "p")
        ends = await asyncio.gather(*(leases.acquire(DEMAND) for _ in range(100)), return_exceptions=True)
        assert all(isinstance(end, GraderUnavailable) for end in ends)
        gate.is_broken = False
        assert await leases.acquire(DEMAND)

    run_in_virtual_time(scenario())


def test_what_is_given_back_arrives_without_anybody_waiting_for_it() -> None:
    async def scenario() -> None:
        gate = RateLimiter(max_connections=5, clock=now, breaker=Breaker(900))
        leases = Leases(gate, "p")
        held = [await leases.acquire(DEMAND) for _ in range(5)]
        for lease in held:
            leases.settle(Outcome(lease=lease, kind="answered"))
        await asyncio.sleep(0.1)
        assert gate.num_in_flight == 0

    run_in_virtual_time(scenario())


class Distant(RateLimiter):
    """Each way to it and back takes a while."""

    WAY_S = 0.04

    async def acquire(self, demands: Sequence[Demand], holder: str) -> list[Lease]:
        await asyncio.sleep(self.WAY_S)
        leases = await super().acquire(demands, holder)
        await asyncio.sleep(self.WAY_S)
        return leases

    async def settle(self, outcomes: Sequence[Outcome]) -> None:
        await asyncio.sleep(self.WAY_S)
        await super().settle(outcomes)
        await asyncio.sleep(self.WAY_S)


@pytest.mark.parametrize("num_processes", [1, 2, 8])
def test_connections_are_in_use_while_there_are_questions_though_the_limiter_is_far_and_never_too_many(
    num_processes: int,
) -> None:
    """A judge that takes a second on average, and a tenth of that to the limiter and back."""

    async def scenario() -> None:
        most, num_sent, num_answered, num_in_use = 200, 0, 0, 0
        gate, chance = Distant(max_connections=most, clock=now, breaker=Breaker(900)), random.Random(0)

        async def ask(leases: Leases) -> None:
            nonlocal num_sent, num_answered, num_in_use
            while True:
                lease = await leases.acquire(DEMAND)
                num_sent += 1
                num_in_use = max(num_in_use, num_sent - num_answered)
                await asyncio.sleep(chance.lognormvariate(-0.125, 0.5))
                num_answered += 1
                leases.settle(Outcome(lease=lease, kind="answered"))

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(ask(leases))
                for leases in (Leases(gate, str(number)) for number in range(num_processes))
                for _ in range(2 * most)
            ]
            await asyncio.sleep(10)  # until the processes have their shares
            before, begun_at = num_answered, now()
            await asyncio.sleep(30)
            rate = (num_answered - before) / (now() - begun_at)
            for task in tasks:
                task.cancel()
        assert rate >= 0.97 * most and num_in_use == most

    run_in_virtual_time(scenario())


def test_no_process_keeps_most_connections_from_another_whoever_came_first() -> None:
    async def scenario() -> None:
        gate, answered = Distant(max_connections=100, clock=now, breaker=Breaker(900)), Counter[str]()

        async def ask(leases: Leases, name: str) -> None:
            while True:
                lease = await leases.acquire(DEMAND)
                await asyncio.sleep(1)
                answered[name] += 1
                leases.settle(Outcome(lease=lease, kind="answered"))

        async with asyncio.TaskGroup() as group:
            tasks = []
            for name in ("first", "second"):
                leases = Leases(gate, name)
                tasks += [group.create_task(ask(leases, name)) for _ in range(200)]
                await asyncio.sleep(10)
            answered.clear()
            await asyncio.sleep(10)
            for task in tasks:
                task.cancel()
        assert 0.3 * answered.total() <= answered["second"] <= 0.7 * answered.total()

    run_in_virtual_time(scenario())


class Mortal:
    """A limiter whose process may die; `now_lives` answers from then on."""

    def __init__(self) -> None:
        self.now_lives = RateLimiter(max_connections=4, clock=now, breaker=Breaker(900))

    async def acquire(self, demands: Sequence[Demand], holder: str) -> list[Lease]:
        return await self.now_lives.acquire(demands, holder)

    async def settle(self, outcomes: Sequence[Outcome]) -> None:
        await self.now_lives.settle(outcomes)

    async def waited(self, seconds_of: Mapping[str, float]) -> None:
        await self.now_lives.waited(seconds_of)

    async def still_here(self, holder: str) -> None:
        await self.now_lives.still_here(holder)


def test_a_limiter_that_begins_anew_keeps_to_the_number_of_connections() -> None:
    """It has not seen what the process settled before."""

    async def scenario() -> None:
        gate = Mortal()
        leases = Leases(gate, "p")
        for _ in range(100):
            leases.settle(Outcome(lease=await leases.acquire(DEMAND), kind="answered"))
        gate.now_lives = RateLimiter(max_connections=4, clock=now, breaker=Breaker(900))
        leases.settle(Outcome(lease=await leases.acquire(DEMAND), kind="answered"))
        tasks = [asyncio.create_task(leases.acquire(DEMAND)) for _ in range(10)]
        await asyncio.sleep(1)
        assert sum(task.done() for task in tasks) == 4
        for task in tasks:
            task.cancel()

    run_in_virtual_time(scenario())


def test_every_request_that_waits_counts_as_time_passes() -> None:
    async def scenario() -> None:
        gate = RateLimiter(max_connections=500, limits=Limits(requests=60), clock=now, breaker=Breaker(900))
        leases = Leases(gate, "p")
        leases.settle(Outcome(lease=await leases.acquire(DEMAND), kind="answered"))
        await asyncio.sleep(60)
        waited_s = [gate.state().requests.wait_s]
        asked = [asyncio.create_task(leases.acquire(DEMAND)) for _ in range(50)]
        for _ in range(4):  # one goes each second, the first at once
            await asyncio.sleep(10 + WAITS_TOLD_EVERY_S)
            waited_s.append(gate.state().requests.wait_s)
        num_waiting = [(after - before) / (10 + WAITS_TOLD_EVERY_S) for before, after in pairwise(waited_s)]
        assert num_waiting == pytest.approx([44, 33, 22, 11], abs=5)
        await asyncio.gather(*asked)
        await asyncio.sleep(2 * WAITS_TOLD_EVERY_S)
        assert gate.state().requests.wait_s - waited_s[0] == pytest.approx(sum(range(50)), rel=0.001)

    run_in_virtual_time(scenario())


def test_requests_that_wait_behind_a_call_for_others_count_while_the_server_wants_a_pause() -> None:
    """Also one that gives up, for as long as it waited."""

    async def scenario() -> None:
        gate, held_s = RateLimiter(max_connections=500, clock=now, breaker=Breaker(900)), 120
        leases, by_grader = Leases(gate, "p"), {"cheap": 300, "dear": 20}
        first = await leases.acquire(DEMAND)
        leases.settle(Outcome(lease=first, kind="throttled", retry_after_s=held_s))
        await leases.settled()
        demands = [replace(DEMAND, grader=grader) for grader, number in by_grader.items() for _ in range(number)]
        asked = [asyncio.create_task(leases.acquire(demand)) for demand in demands]
        await asyncio.sleep(held_s / 2)
        asked[-1].cancel()
        for grader, number in by_grader.items():
            told_s = gate.state().requests_of[grader].wait_s
            assert 0 <= held_s / 2 * number - told_s <= WAITS_TOLD_EVERY_S * number
        await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(2 * WAITS_TOLD_EVERY_S)
        waits = [gate.state().requests_of[grader].wait_s for grader in by_grader]
        assert waits == pytest.approx([held_s * 300, held_s * 19.5], rel=0.01)

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("kind", ["unsent", "rejected", "abandoned"])
def test_a_lease_comes_back_whatever_became_of_the_request(kind: str) -> None:
    async def scenario() -> None:
        gate = RateLimiter(max_connections=1, clock=now, breaker=Breaker(900))
        leases = Leases(gate, "p")
        for _ in range(3):
            leases.settle(Outcome(lease=await leases.acquire(DEMAND), kind=kind))  # type: ignore[arg-type]

    run_in_virtual_time(scenario())
