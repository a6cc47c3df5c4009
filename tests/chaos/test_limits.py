"""The chaos server's limits are those of the API, on a clock that only the test moves."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.limits import STRICT, Bucket, Limits, RateLimits

MIDNIGHT = 1_800_000_000.0 - 1_800_000_000 % 86_400


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return MIDNIGHT + self.now


def rate_limits(clock: FakeClock, **limits: float | bool) -> RateLimits:
    return RateLimits(Limits(**limits), clock=clock, wall_clock=clock.wall)  # type: ignore[arg-type]


def num_admitted(limits: RateLimits, attempts: int, input_tokens: int = 1) -> int:
    return sum(limits.admit(input_tokens) is None for _ in range(attempts))


def test_a_full_minute_goes_at_once_and_then_one_request_at_a_time() -> None:
    clock = FakeClock()
    limits = rate_limits(clock, requests_per_minute=60)
    assert num_admitted(limits, 100) == 60
    for _ in range(100):
        clock.now += 0.5
        assert num_admitted(limits, 3) == 0
        clock.now += 0.5
        assert num_admitted(limits, 3) == 1


def test_a_strict_limit_starts_empty_and_saves_up_a_second() -> None:
    clock = FakeClock()
    limits = rate_limits(clock, requests_per_minute=300, **STRICT)
    assert num_admitted(limits, 10) == 0
    clock.now += 3600
    assert num_admitted(limits, 10) == 5


def test_less_than_a_request_a_second_still_lets_one_through() -> None:
    clock = FakeClock()
    limits = rate_limits(clock, requests_per_minute=6, **STRICT)
    clock.now += 10
    assert num_admitted(limits, 10) == 1


@given(
    per_minute=st.floats(1, 1e6),
    capacity_s=st.floats(0.1, 120),
    pauses=st.lists(st.floats(0, 30), min_size=1, max_size=50),
)
def test_never_more_than_the_capacity_and_the_refill(per_minute: float, capacity_s: float, pauses: list[float]) -> None:
    clock = FakeClock()
    limits = rate_limits(clock, requests_per_minute=per_minute, capacity_s=capacity_s)
    admitted = 0
    for pause in pauses:
        clock.now += pause
        admitted += num_admitted(limits, 20)
        assert admitted <= max(1, per_minute * capacity_s / 60) + clock.now * per_minute / 60 + 1e-3


@given(per_minute=st.floats(0.1, 1e6), tokens=st.integers(1, 10**6), elapsed=st.floats(0, 100))
def test_after_the_announced_wait_and_no_sooner_the_request_is_let_through(
    per_minute: float, tokens: int, elapsed: float
) -> None:
    clock = FakeClock()
    bucket = Bucket(per_minute, limits=Limits(), clock=clock)
    bucket.charge(1.5 * bucket.capacity)
    clock.now += elapsed
    wait_s = bucket.wait_s(tokens)
    clock.now += 0.99 * wait_s
    assert (bucket.wait_s(tokens) > 0) == (wait_s > 0)
    clock.now += 0.0100001 * wait_s + 1e-9
    assert bucket.wait_s(tokens) == 0


def test_a_refused_request_costs_nothing_and_says_which_limit_it_was() -> None:
    clock = FakeClock()
    limits = rate_limits(clock, requests_per_minute=100, input_tokens_per_minute=600)
    assert limits.admit(500) is None
    before = limits.headers()
    refusal = limits.admit(200)
    assert refusal is not None
    assert (refusal.limit, refusal.per_minute, refusal.retry_after_s) == ("input tokens", 600, 10)
    assert limits.headers() == before


def test_a_question_longer_than_the_bucket_goes_when_it_is_full_and_leaves_a_debt() -> None:
    clock = FakeClock()
    limits = rate_limits(clock, input_tokens_per_minute=6000, capacity_s=1)  # holds 100
    assert limits.admit(1000) is None
    refusal = limits.admit(1)
    assert refusal is not None and refusal.retry_after_s == 10  # 901 missing at 100 a second, rounded up


def test_output_is_charged_when_it_is_there_and_holds_up_those_after_it() -> None:
    clock = FakeClock()
    limits = rate_limits(clock, output_tokens_per_minute=60)
    limits.produced(60)
    assert limits.admit(1) is None  # nothing left, nothing owed
    limits.produced(30)
    refusal = limits.admit(1)
    assert refusal is not None and (refusal.limit, refusal.retry_after_s) == ("output tokens", 30)
    clock.now += 30
    assert limits.admit(1) is None


def test_a_lower_limit_holds_at_once_and_a_higher_one_grants_nothing_for_the_past() -> None:
    clock = FakeClock()
    limits = rate_limits(clock, requests_per_minute=600)
    limits.change(Limits(requests_per_minute=60))
    assert num_admitted(limits, 1000) == 60
    limits.change(Limits(requests_per_minute=6000))
    assert num_admitted(limits, 1000) == 0
    clock.now += 1
    assert num_admitted(limits, 1000) == 100
    limits.change(Limits())
    assert num_admitted(limits, 1000) == 1000


def test_headers_tell_what_is_left_and_when_it_is_all_back() -> None:
    clock = FakeClock()
    limits = rate_limits(clock, requests_per_minute=60, input_tokens_per_minute=50_000, output_tokens_per_minute=10_000)
    limits.admit(25_000)
    limits.produced(20_000)
    clock.now += 0.5
    headers = limits.headers()
    assert headers == {
        "date": "Fri, 15 Jan 2027 00:00:00 GMT",
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2027-01-15T00:00:01Z",
        "anthropic-ratelimit-input-tokens-limit": "50000",
        "anthropic-ratelimit-input-tokens-remaining": str(25_000 + 50_000 // 120),
        "anthropic-ratelimit-input-tokens-reset": "2027-01-15T00:00:30Z",
        "anthropic-ratelimit-output-tokens-limit": "10000",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2027-01-15T00:02:00Z",
    }


@pytest.mark.parametrize("skew_s", [-7200, 90])
def test_a_wrong_clock_shifts_the_date_and_every_reset_alike(skew_s: int) -> None:
    clock = FakeClock()
    limits = rate_limits(clock, requests_per_minute=60)
    limits.admit(1)
    right, wrong = limits.headers(), limits.headers(skew_s)
    resets = [datetime.fromisoformat(headers["anthropic-ratelimit-requests-reset"]) for headers in (right, wrong)]
    assert (resets[1] - resets[0]).total_seconds() == skew_s
    dates = [datetime.strptime(headers["date"], "%a, %d %b %Y %H:%M:%S GMT") for headers in (right, wrong)]
    assert (dates[1] - dates[0]).total_seconds() == skew_s


def test_tokens_that_remain_can_be_rounded_to_thousands_as_the_api_does() -> None:
    limits = rate_limits(FakeClock(), input_tokens_per_minute=80_000, round_remaining_to=1000)
    limits.admit(305)
    assert limits.headers()["anthropic-ratelimit-input-tokens-remaining"] == "80000"
