"""Coroutines of one process share few calls to the limiter, and none of them loses or keeps a lease by that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from evalgen.errors import GraderUnavailable
from evalgen.grading.leases import Leases
from evalgen.grading.rate_limiter import Demand, Outcome, RateLimiter
from evalgen.records import Limits
from tests.virtual_time import now, run_in_virtual_time, until_all_wait

DEMAND = Demand(topic="", num_bytes=1)


class Counting(RateLimiter):
    """Counts the calls, each of which takes a moment, as in another process."""

    num_calls = 0

    async def acquire(self, demands: Sequence[Demand], holder: str) -> list[int]:
        self.num_calls += 1
        await asyncio.sleep(0.0015)
        return await super().acquire(demands, holder)


def test_many_waiters_share_few_calls_and_are_served_in_order() -> None:
    async def scenario() -> None:
        gate, served = Counting(max_connections=10_000, clock=now), list[int]()
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
        gate = RateLimiter(max_connections=2, limits=Limits(requests=60), clock=now)
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


def test_an_error_of_the_limiter_reaches_every_waiter_and_the_next_one_asks_anew() -> None:
    class Broken(RateLimiter):
        is_broken = True

        async def acquire(self, demands: Sequence[Demand], holder: str) -> list[int]:
            if self.is_broken:
                raise GraderUnavailable("away")
            return await super().acquire(demands, holder)

    async def scenario() -> None:
        gate = Broken(max_connections=2, clock=now)
        leases = Leases(gate, "p")
        ends = await asyncio.gather(*(leases.acquire(DEMAND) for _ in range(100)), return_exceptions=True)
        assert all(isinstance(end, GraderUnavailable) for end in ends)
        gate.is_broken = False
        assert await leases.acquire(DEMAND)

    run_in_virtual_time(scenario())


def test_what_is_given_back_arrives_without_anybody_waiting_for_it() -> None:
    async def scenario() -> None:
        gate = RateLimiter(max_connections=5, clock=now)
        leases = Leases(gate, "p")
        held = [await leases.acquire(DEMAND) for _ in range(5)]
        for lease in held:
            leases.settle(Outcome(lease=lease, kind="answered"))
        await until_all_wait()
        assert gate.num_in_flight == 0

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("kind", ["unsent", "rejected", "abandoned"])
def test_a_lease_comes_back_whatever_became_of_the_request(kind: str) -> None:
    async def scenario() -> None:
        gate = RateLimiter(max_connections=1, clock=now)
        leases = Leases(gate, "p")
        for _ in range(3):
            leases.settle(Outcome(lease=await leases.acquire(DEMAND), kind=kind))  # type: ignore[arg-type]

    run_in_virtual_time(scenario())
