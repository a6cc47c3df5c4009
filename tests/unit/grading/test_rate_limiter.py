"""The limiter's promises, in virtual time; and how near it comes to what a strict server allows."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgen.errors import GraderUnavailable
from evalgen.grading.breaker import Breaker
from evalgen.grading.leases import Leases
from evalgen.grading.limiter_records import Demand, Lease, Outcome
from evalgen.grading.presence import SILENCE_S
from evalgen.grading.rate_limiter import PACE, RateLimiter
from evalgen.grading.request_totals import RequestTotals
from evalgen.grading.server_limits import announced_limits
from evalgen.grading.token_bucket import HELD_S
from evalgen.records import Limits
from tests.chaos import limits as server
from tests.virtual_time import now, run_in_virtual_time, until_all_wait

HOLDER = "a process"


def limiter(max_connections: int = 1_000, *, breaker: Breaker | None = None, **limits: float) -> RateLimiter:
    return RateLimiter(
        limits=Limits(**limits), max_connections=max_connections, breaker=breaker or Breaker(900), clock=now
    )


def demand(topic: str = "", num_bytes: int = 1000) -> Demand:
    return Demand(topic=topic, num_bytes=num_bytes)


def answered(lease: Lease, input_tokens: int = 300, output_tokens: int = 100, **more: object) -> Outcome:
    base = Outcome(lease=lease, kind="answered", input_tokens=input_tokens, output_tokens=output_tokens)
    return replace(base, **more)  # type: ignore[arg-type]


async def heard(gate: RateLimiter) -> None:
    """From now on more than one request may be in flight."""
    (lease,) = await gate.acquire([demand()], HOLDER)
    await gate.settle([answered(lease)])


async def one(gate: RateLimiter, holder: str = HOLDER) -> Lease:
    while not (leases := await gate.acquire([demand()], holder)):
        pass  # it was silent for too long, and asks again
    return leases[0]


def test_requests_are_spread_over_the_minute_and_served_in_order() -> None:
    async def scenario() -> None:
        gate, served = limiter(requests=30), list[tuple[int, float]]()

        async def ask(name: int) -> None:
            await one(gate)
            served.append((name, now() - started_at))

        await heard(gate)
        await asyncio.sleep(60)
        started_at = now()
        await asyncio.gather(*map(ask, range(6)))
        assert [name for name, _ in served] == list(range(6))
        assert [at for _, at in served] == pytest.approx([0, 2, 4, 6, 8, 10])
        assert gate.num_granted == 1 + 6

    run_in_virtual_time(scenario())


@settings(max_examples=50, deadline=None)
@given(
    per_minute=st.floats(1, 10_000),
    steps=st.lists(st.tuples(st.integers(0, 30), st.floats(0, 5)), min_size=1, max_size=10),
)
def test_no_stretch_of_time_sees_more_than_its_share(per_minute: float, steps: list[tuple[int, float]]) -> None:
    async def scenario() -> None:
        gate, granted_at = limiter(requests=per_minute), list[float]()

        async def ask() -> None:
            await one(gate)
            granted_at.append(now())

        await heard(gate)
        tasks = []
        for num_new, pause in steps:
            tasks += [asyncio.create_task(ask()) for _ in range(num_new)]
            await asyncio.sleep(pause)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        burst, rate = max(1.0, HELD_S * per_minute / 60), per_minute / 60
        for first, last in itertools.combinations(range(len(granted_at)), 2):
            num, stretch = last - first + 1, granted_at[last] - granted_at[first]
            assert num <= burst + stretch * rate + 1e-6

    run_in_virtual_time(scenario())


def test_an_idle_limiter_saves_up_no_more_than_a_quarter_of_a_seconds_worth() -> None:
    async def scenario() -> None:
        gate = limiter(requests=1_200)  # 20 a second
        await heard(gate)
        await asyncio.sleep(3600)
        assert len(await gate.acquire([demand()] * 20, HOLDER)) == 5

    run_in_virtual_time(scenario())


def test_a_call_for_many_gets_what_may_go_now_and_waits_for_the_first_alone() -> None:
    async def scenario() -> None:
        gate = limiter(max_connections=3)
        await heard(gate)
        leases = await gate.acquire([demand()] * 10, HOLDER)
        assert [lease.after for lease in leases] == [0, 0, 0, 2, 3, 4, 5, 6, 7] and gate.num_in_flight == 3
        waiting = asyncio.create_task(gate.acquire([demand()] * 2, HOLDER))
        await until_all_wait()
        assert not waiting.done()
        await gate.settle([answered(leases[0])])
        assert [lease.after for lease in await waiting] == [8]
        assert gate.num_in_flight == 3

    run_in_virtual_time(scenario())


def test_settling_twice_frees_one_connection() -> None:
    async def scenario() -> None:
        gate = limiter(max_connections=2)
        await heard(gate)
        first, _ = await gate.acquire([demand()] * 2, HOLDER)
        await gate.settle([answered(first), answered(first), answered(Lease(id=999, limiter=0))])
        assert gate.num_in_flight == 1

    run_in_virtual_time(scenario())


def test_a_lease_of_a_limiter_that_died_frees_nothing_of_the_one_after_it() -> None:
    async def scenario() -> None:
        (old,), gate = await limiter().acquire([demand()], HOLDER), limiter()
        await gate.acquire([demand()], HOLDER)
        await gate.settle([answered(old)])
        assert gate.num_in_flight == 1

    run_in_virtual_time(scenario())


def test_what_a_silent_process_holds_is_reclaimed_and_what_a_living_one_holds_is_not() -> None:
    async def scenario() -> None:
        gate = limiter(max_connections=1)
        lost = await one(gate, "dies")
        dead_too = asyncio.create_task(gate.acquire([demand()], "dies in the queue"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(one(gate, "lives"))
        for _ in range(5):
            assert not waiting.done()
            await asyncio.sleep(SILENCE_S / 4)
            await gate.still_here("lives")
        await asyncio.sleep(SILENCE_S / 4)
        assert await dead_too == []
        assert waiting.done() and gate.num_reclaimed == 1
        await gate.settle([answered(lost)])  # it was only slow: its lease is another's connection by now
        assert gate.num_in_flight == 1
        third = asyncio.create_task(one(gate, "third"))
        for _ in range(20):
            await gate.still_here("lives")
            await asyncio.sleep(SILENCE_S / 2)
        assert not third.done() and gate.num_in_flight == 1
        third.cancel()

    run_in_virtual_time(scenario())


def test_a_waiter_that_gives_up_holds_nobody_back_and_takes_nothing() -> None:
    async def scenario() -> None:
        gate = limiter(max_connections=1, requests=60)
        held = await one(gate)
        first, second, third = (asyncio.create_task(one(gate)) for _ in range(3))
        await asyncio.sleep(10)
        first.cancel()  # the one whose turn it is
        second.cancel()  # one behind it
        await gate.settle([answered(held)])
        await asyncio.gather(first, second, third, return_exceptions=True)
        assert third.exception() is None
        assert (gate.num_granted, gate.num_in_flight) == (2, 1)

    run_in_virtual_time(scenario())


def test_tokens_are_reserved_by_estimate_and_settled_by_use() -> None:
    """1,000 bytes are taken for 300 tokens until it is known that they are 600."""

    async def scenario() -> None:
        gate, started_at = limiter(input_tokens=60 * 300), now()
        for _ in range(50):
            lease = await one(gate)
            await gate.settle([answered(lease, input_tokens=600)])
        assert now() - started_at == pytest.approx(50 * 2, rel=0.05)

    run_in_virtual_time(scenario())


def test_a_request_larger_than_the_bucket_goes_and_leaves_a_debt() -> None:
    async def scenario() -> None:
        gate, started_at = limiter(input_tokens=600), now()  # 10 a second
        lease = await one(gate)
        await gate.settle([answered(lease, input_tokens=600)])
        await one(gate)
        assert 50 < now() - started_at < 70

    run_in_virtual_time(scenario())


def test_until_the_server_has_said_what_its_limits_are_one_request_is_in_flight() -> None:
    async def scenario() -> None:
        gate = limiter()
        (first,) = await gate.acquire([demand()] * 20, HOLDER)
        others = asyncio.create_task(gate.acquire([demand()] * 20, HOLDER))
        await asyncio.sleep(30)
        assert not others.done()
        await gate.settle([answered(first, limits=Limits(requests=1_200))])
        assert 1 <= len(await others) <= 5

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("kind", ["unsent", "abandoned", "failed"])
def test_a_request_that_was_not_answered_says_nothing_of_the_servers_limits(kind: Any) -> None:
    async def scenario() -> None:
        gate = limiter()
        for _ in range(3):
            (lease,) = await gate.acquire([demand()] * 20, HOLDER)
            await gate.settle([Outcome(lease=lease, kind=kind)])

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("kind", ["throttled", "failed"])
def test_retry_after_holds_back_everyone(kind: Any) -> None:
    async def scenario() -> None:
        gate, started_at = limiter(), now()
        lease = await one(gate)
        await gate.settle([Outcome(lease=lease, kind=kind, retry_after_s=30)])
        assert (gate.state().held_for_s, gate.state().breaker) == (pytest.approx(30), "closed")
        await asyncio.sleep(10)
        assert gate.state().held_for_s == pytest.approx(20)
        await one(gate, "another process")
        assert now() - started_at == pytest.approx(30) and gate.state().held_for_s == 0
        assert gate.state().requests.outcomes["throttled"] == (kind == "throttled")

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("outage_budget_s", [900, 20])
def test_one_question_that_fails_with_a_long_retry_after_holds_back_the_others_for_a_minute(
    outage_budget_s: float,
) -> None:
    async def scenario() -> None:
        gate, started_at = limiter(breaker=Breaker(outage_budget_s)), now()
        await gate.settle([Outcome(lease=await one(gate), kind="failed", retry_after_s=3_600)])
        await one(gate)
        assert now() - started_at == pytest.approx(60)

    run_in_virtual_time(scenario())


def test_a_pause_that_the_server_asks_for_and_that_nobody_would_expect_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        gate, started_at = limiter(max_connections=3), now()
        await heard(gate)
        for lease in [await one(gate) for _ in range(3)]:
            await gate.settle([Outcome(lease=lease, kind="throttled", retry_after_s=600, error="HTTP 429")])
        await one(gate)
        assert now() - started_at == pytest.approx(600)

    run_in_virtual_time(scenario())
    assert caplog.messages == ["the judge's server wants no request for 600 s (HTTP 429)"]


def test_a_pause_beyond_the_budget_of_an_outage_stops_everyone_at_once() -> None:
    async def scenario() -> None:
        gate, started_at = limiter(), now()
        lease = await one(gate)
        waiting = [asyncio.ensure_future(one(gate)) for _ in range(3)]
        await until_all_wait()
        await gate.settle(
            [Outcome(lease=lease, kind="throttled", retry_after_s=7_200, error="HTTP 429 come back later")]
        )
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(end, GraderUnavailable) for end in ends)
        assert "for 7200 s, and --max_outage_minutes 15 is 900 s (HTTP 429 come back later)" in str(ends[0])
        assert now() == started_at

    run_in_virtual_time(scenario())


def test_a_pause_of_a_minute_that_many_questions_are_told_of_is_no_outage_though_the_budget_is_shorter() -> None:
    breaker = Breaker(30)

    def refuse(number: int, now: float) -> None:
        breaker.hold(60, "HTTP 429", now)
        breaker.refused(number, f"question {number}", "HTTP 429", now)

    for number in range(3):
        refuse(number, 0.0)
    assert [breaker.pause_s(now) for now in (0.0, 31.0, 60.0)] == [60.0, 29.0, 0.0]
    refuse(3, 60.0)
    with pytest.raises(GraderUnavailable, match="has answered no request for 120 s"):
        breaker.pause_s(120.0)


@pytest.mark.parametrize(("hold_s", "budget_s"), [(900.2, 900), (100, 20)])
def test_the_error_of_a_pause_shows_that_it_is_beyond_the_budget(hold_s: float, budget_s: float) -> None:
    breaker = Breaker(budget_s)
    breaker.hold(hold_s, "HTTP 429", 0.0)
    with pytest.raises(GraderUnavailable) as caught:
        breaker.pause_s(0.0)
    told = re.search(r"for (\d+) s, and --max_outage_minutes (\S+) is (\d+) s", str(caught.value))
    assert told is not None and float(told[1]) > float(told[3]) == budget_s
    assert float(told[2]) * 60 == pytest.approx(budget_s, rel=1e-5)


def test_of_several_models_the_lowest_limit_holds_whichever_answered_last(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        gate = limiter()
        for per_minute, model in [(4_000, "fast"), (50, "slow")] * 3:
            (lease,) = await gate.acquire([replace(demand(), grader=model)], HOLDER)
            await gate.settle([answered(lease, limits=Limits(requests=per_minute))])
        assert gate.state().limits.requests == PACE * 50

    run_in_virtual_time(scenario())
    assert caplog.text.count("the limit of requests a minute changed") == 1


@pytest.mark.parametrize(("announced", "expected"), [(600, 600), (6_000, 1_200), (60, 60)])
def test_the_lower_of_the_users_and_the_servers_limit_holds(announced: float, expected: float) -> None:
    async def scenario() -> None:
        gate = limiter(requests=1_200)
        await gate.settle([answered(await one(gate), limits=Limits(requests=announced))])
        await asyncio.sleep(60)
        started_at = now()
        for _ in range(200):
            await gate.settle([answered(await one(gate))])
        burst = HELD_S * expected / 60
        assert now() - started_at == pytest.approx((200 - burst) * 60 / expected, rel=0.03)

    run_in_virtual_time(scenario())


def test_many_failures_hold_back_everyone_until_a_probe_is_answered() -> None:
    async def scenario() -> None:
        gate, sent = limiter(breaker=Breaker(900)), 0
        is_well_at = now() + 120

        async def client(topic: int) -> None:
            nonlocal sent
            while True:
                (lease,) = await gate.acquire([demand(str(topic))], HOLDER)
                sent += now() < is_well_at
                await asyncio.sleep(0.2)
                if now() >= is_well_at:
                    await gate.settle([answered(lease)])
                    return
                await gate.settle([Outcome(lease=lease, kind="failed", error="HTTP 529 overloaded_error")])

        await asyncio.gather(*map(client, range(1_000)))
        assert sent < 1_000 + 25  # each once, before anybody could know, and then the probes of two minutes
        assert now() - is_well_at < 20

    run_in_virtual_time(scenario())


def test_an_outage_beyond_the_budget_stops_everyone() -> None:
    async def scenario() -> None:
        gate, started_at = limiter(breaker=Breaker(900)), now()

        async def client(topic: int) -> None:
            while True:
                (lease,) = await gate.acquire([demand(str(topic))], HOLDER)
                await gate.settle([Outcome(lease=lease, kind="failed", error="HTTP 529 overloaded_error")])

        ends = await asyncio.gather(*map(client, range(20)), return_exceptions=True)
        assert all(isinstance(end, GraderUnavailable) for end in ends)
        assert "and --max_outage_minutes 15 is 900 s (HTTP 529" in str(ends[0])
        assert now() - started_at == pytest.approx(900, abs=20)

    run_in_virtual_time(scenario())


def test_a_question_that_fails_by_itself_is_no_outage() -> None:
    async def scenario() -> None:
        gate = limiter(breaker=Breaker(900))
        for _ in range(300):
            (lease,) = await gate.acquire([demand("poison")], HOLDER)
            await gate.settle([Outcome(lease=lease, kind="failed", error="HTTP 500")])
        (lease,) = await gate.acquire([demand("good")], HOLDER)
        await gate.settle([answered(lease)])

    run_in_virtual_time(scenario())


def test_a_server_that_is_down_is_an_outage_though_one_question_is_left() -> None:
    async def scenario() -> None:
        gate, started_at = limiter(breaker=Breaker(900)), now()
        with pytest.raises(GraderUnavailable, match="max_outage_minutes 15 is 900 s"):
            while True:
                await gate.settle([Outcome(lease=await one(gate), kind="failed", error="HTTP 529", is_down=True)])
        assert now() - started_at == pytest.approx(900, abs=20)

    run_in_virtual_time(scenario())


class StrictServer:
    """Enforces limits to the request, without a burst; counts what it allowed and what it refused."""

    def __init__(self, **per_minute: float) -> None:
        self.limits = server.Limits(**per_minute, **server.STRICT)  # type: ignore[arg-type]
        self._enforced = server.RateLimits(self.limits, clock=now)
        self.answered_at: list[float] = []
        self.refused_at: list[float] = []
        self.num_input_tokens = self.num_output_tokens = 0
        self._random = random.Random(0)

    def change(self, **per_minute: float) -> None:
        self.limits = server.Limits(**per_minute, **server.STRICT)  # type: ignore[arg-type]
        self._enforced.change(self.limits)

    async def serve(self, lease: Lease, input_tokens: int) -> Outcome:
        await asyncio.sleep(self._random.uniform(0.01, 0.03))  # on the way
        refusal = self._enforced.admit(input_tokens)
        announced = announced_limits(self._enforced.headers())
        if refusal is not None:
            self.refused_at.append(now())
            return Outcome(lease=lease, kind="throttled", limits=announced, retry_after_s=refusal.retry_after_s)
        await asyncio.sleep(self._random.lognormvariate(0, 0.5))
        output_tokens = self._random.randint(40, 120)
        self._enforced.produced(output_tokens)
        self.num_input_tokens += input_tokens
        self.num_output_tokens += output_tokens
        self.answered_at.append(now())
        return answered(lease, input_tokens, output_tokens, limits=announced)


async def ask_without_end(gate: RateLimiter, it: StrictServer, num_processes: int, num_coroutines: int) -> None:
    sizes = random.Random(1)

    async def ask(leases: Leases) -> None:
        while True:
            num_bytes = sizes.randint(1_000, 3_000)
            lease = await leases.acquire(demand(num_bytes=num_bytes))
            leases.settle(await it.serve(lease, input_tokens=num_bytes // 4))

    async with asyncio.TaskGroup() as group:
        for process in range(num_processes):
            leases = Leases(gate, str(process))
            for _ in range(num_coroutines // num_processes):
                group.create_task(ask(leases))


@pytest.mark.parametrize("num_processes", [1, 2, 8])
@pytest.mark.parametrize(
    "per_minute",
    [{"requests_per_minute": 1_200}, {"input_tokens_per_minute": 400_000}, {"output_tokens_per_minute": 80_000}],
    ids=["requests", "input tokens", "output tokens"],
)
def test_a_strict_servers_limit_is_used_to_97_percent_and_not_exceeded(
    num_processes: int, per_minute: dict[str, float]
) -> None:
    """The limits are learned from the server's headers alone; the first minute does not count."""

    async def scenario() -> None:
        it = StrictServer(**per_minute)
        gate = RateLimiter(max_connections=400, clock=now, breaker=Breaker(900))
        begun_at = now() + 60
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await ask_without_end(gate, it, num_processes, 400)
        used = (it.num_input_tokens, it.num_output_tokens)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(120):
                await ask_without_end(gate, it, num_processes, 400)
        allowed = {
            "requests_per_minute": sum(at >= begun_at for at in it.answered_at),
            "input_tokens_per_minute": it.num_input_tokens - used[0],
            "output_tokens_per_minute": it.num_output_tokens - used[1],
        }
        ((name, limit),) = per_minute.items()
        assert allowed[name] / 2 >= 0.97 * limit
        assert not [at for at in it.refused_at if at >= begun_at]

    run_in_virtual_time(scenario())


def test_limits_that_drop_are_followed_within_seconds() -> None:
    async def scenario() -> None:
        it = StrictServer(requests_per_minute=1_200)
        gate = RateLimiter(max_connections=400, clock=now, breaker=Breaker(900))

        async def drop() -> None:
            await asyncio.sleep(120)
            it.change(requests_per_minute=300)

        dropping = asyncio.create_task(drop())
        started_at = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(240):
                await ask_without_end(gate, it, 4, 400)
        await dropping
        late = [at for at in it.refused_at if at > started_at + 60]
        assert late and max(late) < started_at + 120 + 5
        assert sum(at > started_at + 130 for at in it.answered_at) >= 0.97 * 300 * 110 / 60

    run_in_virtual_time(scenario())


@pytest.mark.parametrize(("per_minute", "max_connections"), [(0, 1), (-1, 1), (None, 0)])
def test_a_limit_that_would_let_nothing_through_is_refused(per_minute: float | None, max_connections: int) -> None:
    with pytest.raises(AssertionError):
        RateLimiter(limits=Limits(requests=per_minute), max_connections=max_connections, breaker=Breaker(900))


def test_its_state_says_what_became_of_requests_and_what_they_took() -> None:
    async def scenario() -> None:
        gate = limiter(requests=1_200, breaker=Breaker(900))
        assert (gate.state().requests_of, gate.state().breaker) == ({}, "closed")
        assert gate.state().limits == Limits(requests=pytest.approx(1_200))
        await gate.settle([answered(await one(gate), 300, 100, cost_usd=0.5)])
        await gate.settle([Outcome(lease=await one(gate), kind="throttled")])
        await gate.settle([Outcome(lease=await one(gate), kind="unsent")])
        lost = answered(await one(gate), 7, 3, cost_usd=None)
        for _ in range(2):  # settled once, however often it is told
            await gate.settle([lost])
        held = await one(gate)
        state = gate.state()
        assert (state.num_in_flight, state.requests) == (
            1,
            RequestTotals(
                outcomes=Counter({"answered": 2, "throttled": 1}),  # nothing was sent with the third
                input_tokens=307,
                output_tokens=103,
                cost_usd=0.5,
                num_unpriced=1,
            ),
        )
        assert state.cap_usd is None and state.spent_usd is None
        for topic in range(6):
            held = (await gate.acquire([demand(str(topic))], HOLDER))[0]
            await gate.settle([Outcome(lease=held, kind="failed", error="HTTP 529")])
        assert gate.state().breaker == "open"

    run_in_virtual_time(scenario())


def test_its_state_tells_graders_apart() -> None:
    async def scenario() -> None:
        gate = limiter(requests=60)
        for grader, cost_usd in [("cheap", 0.25), ("dear", 4.0), ("cheap", 0.25)]:
            (lease,) = await gate.acquire([replace(demand(), grader=grader)], HOLDER)
            await gate.settle([answered(lease, 300, 100, cost_usd=cost_usd)])
            await gate.waited({grader: 1.5})
        cheap, dear = (gate.state().requests_of[grader] for grader in ("cheap", "dear"))
        assert (cheap.cost_usd, cheap.outcomes, cheap.input_tokens) == (0.5, {"answered": 2}, 600)
        assert (dear.cost_usd, dear.outcomes, dear.input_tokens) == (4.0, {"answered": 1}, 300)
        assert (cheap.wait_s, dear.wait_s, gate.state().requests.wait_s) == (3.0, 1.5, 4.5)

    run_in_virtual_time(scenario())


def test_limits_that_are_learned_are_logged_and_those_that_change_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        gate = limiter()
        for announced in (1_000, 1_000, 300):
            await gate.settle([answered(await one(gate), limits=Limits(requests=announced))])

    with caplog.at_level("INFO", "evalgen"):
        run_in_virtual_time(scenario())
    assert [(record.levelname, "1000" in record.getMessage()) for record in caplog.records] == [
        ("INFO", True),
        ("WARNING", False),
    ]
    assert "we used 990 and use 297" in caplog.records[1].getMessage()
