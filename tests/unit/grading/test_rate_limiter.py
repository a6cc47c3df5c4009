"""The limiter's promises, on a clock that only the test moves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgen.grading.rate_limiter import RateLimiter, RequestLimiter


class FakeTime:
    """A clock and its sleep. Time passes only in `advance`, which then lets every task run until it waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Wakes the sleepers one after another, each at its own time."""
        await settle()
        end = self.now + seconds
        while due := [sleeper for sleeper in self._sleepers if sleeper[0] <= end and not sleeper[1].done()]:
            self.now, future = min(due, key=lambda sleeper: sleeper[0])
            future.set_result(None)
            await settle()
        self.now = end


async def settle() -> None:
    """Let every other task run until all of them wait."""
    for _ in range(50):
        await asyncio.sleep(0)


def limiter(
    time: FakeTime,
    *,
    requests_per_minute: float | None = None,
    max_connections: int = 1_000,
    **options: float,
) -> RateLimiter:
    return RateLimiter(
        requests_per_minute=requests_per_minute,
        max_connections=max_connections,
        clock=time.clock,
        sleep=time.sleep,
        **options,
    )


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(test)


async def ask(gate: RequestLimiter, name: int, served: list[tuple[int, int]]) -> None:
    served.append((name, await gate.acquire()))


def test_requests_are_spread_over_the_minute_and_served_in_order() -> None:
    async def scenario() -> None:
        time, served = FakeTime(), list[tuple[int, int]]()
        gate = limiter(time, requests_per_minute=30)
        tasks = [asyncio.create_task(ask(gate, name, served)) for name in range(6)]
        counts = []
        for _ in range(6):
            await time.advance(0)
            counts.append(len(served))
            await time.advance(2)
        assert counts == [1, 2, 3, 4, 5, 6]
        assert [name for name, _ in served] == list(range(6))
        assert gate.num_granted == 6
        assert gate.wait_s == pytest.approx(2 + 4 + 6 + 8 + 10)
        await asyncio.gather(*tasks)

    run(scenario())


@settings(max_examples=50, deadline=None)
@given(
    requests_per_minute=st.floats(1, 10_000),
    steps=st.lists(st.tuples(st.integers(0, 30), st.floats(0, 5)), min_size=1, max_size=10),
)
def test_no_stretch_of_time_sees_more_than_its_share(
    requests_per_minute: float, steps: list[tuple[int, float]]
) -> None:
    async def scenario() -> None:
        time = FakeTime()
        gate = limiter(time, requests_per_minute=requests_per_minute)
        granted_at: list[float] = []

        async def one() -> None:
            await gate.acquire()
            granted_at.append(time.now)

        tasks = []
        for num_new, pause in steps:
            tasks += [asyncio.create_task(one()) for _ in range(num_new)]
            await time.advance(pause)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        burst, rate = max(1.0, requests_per_minute / 60), requests_per_minute / 60
        for first, last in itertools.combinations(range(len(granted_at)), 2):
            num, stretch = last - first + 1, granted_at[last] - granted_at[first]
            assert num <= burst + stretch * rate + 1e-6

    run(scenario())


def test_an_idle_limiter_saves_up_no_more_than_a_seconds_worth() -> None:
    async def scenario() -> None:
        time, served = FakeTime(), list[tuple[int, int]]()
        gate = limiter(time, requests_per_minute=300)  # 5 a second
        await time.advance(3600)
        tasks = [asyncio.create_task(ask(gate, name, served)) for name in range(20)]
        await time.advance(0)
        assert len(served) == 5
        await time.advance(3)
        await asyncio.gather(*tasks)

    run(scenario())


def test_without_a_rate_only_connections_are_limited() -> None:
    async def scenario() -> None:
        time, served = FakeTime(), list[tuple[int, int]]()
        gate = limiter(time, max_connections=3)
        tasks = [asyncio.create_task(ask(gate, name, served)) for name in range(5)]
        await settle()
        assert gate.num_in_flight == len(served) == 3
        await gate.release(served[1][1])
        await settle()
        assert [name for name, _ in served] == [0, 1, 2, 3]
        await gate.release(served[0][1])
        await asyncio.gather(*tasks)
        assert gate.num_in_flight == 3

    run(scenario())


def test_releasing_twice_frees_one_connection() -> None:
    async def scenario() -> None:
        gate = limiter(FakeTime(), max_connections=2)
        first, _ = await gate.acquire(), await gate.acquire()
        await gate.release(first)
        await gate.release(first)
        await gate.release(999)
        assert gate.num_in_flight == 1

    run(scenario())


def test_the_lease_of_a_killed_client_is_reclaimed(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        time, served = FakeTime(), list[tuple[int, int]]()
        gate = limiter(time, max_connections=1, lease_timeout_s=900)
        lost = await gate.acquire()
        task = asyncio.create_task(ask(gate, 1, served))
        await time.advance(899)
        assert not served
        await time.advance(1)
        await task
        assert gate.num_reclaimed == 1
        await gate.release(lost)  # it was only slow: its lease is another's connection by now
        assert gate.num_in_flight == 1

    run(scenario())
    assert "reclaimed" in caplog.text


def test_a_waiter_that_gives_up_holds_nobody_back_and_takes_nothing() -> None:
    async def scenario() -> None:
        time, served = FakeTime(), list[tuple[int, int]]()
        gate = limiter(time, requests_per_minute=60, max_connections=1)
        held = await gate.acquire()
        first, second, third = (asyncio.create_task(ask(gate, name, served)) for name in range(3))
        await time.advance(10)
        first.cancel()  # the one whose turn it is
        second.cancel()  # one behind it
        await gate.release(held)
        await asyncio.gather(first, second, third, return_exceptions=True)
        assert [name for name, _ in served] == [2]
        assert (gate.num_granted, gate.num_in_flight) == (2, 1)

    run(scenario())


@pytest.mark.parametrize(("requests_per_minute", "max_connections"), [(0, 1), (-1, 1), (None, 0)])
def test_a_limit_that_would_let_nothing_through_is_refused(
    requests_per_minute: float | None, max_connections: int
) -> None:
    with pytest.raises(AssertionError):
        limiter(FakeTime(), requests_per_minute=requests_per_minute, max_connections=max_connections)
