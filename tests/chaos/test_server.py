"""The chaos server's Messages API does what it is told to, seen through the real SDK."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import anthropic
import psutil
import pytest

from tests.chaos.limits import Limits
from tests.chaos.sdk_calls import RIGHT, WRONG, ask, ask_all, ask_raw, num_ok, params, reply_in
from tests.chaos.server import ChaosApi
from tests.chaos.settings import Faults, Price, Storm
from tests.waiting import wait_until

MODEL = "claude-haiku-4-5-20251001"
PRICES = {MODEL: Price(input_usd=1.0, output_usd=5.0)}


def slowly(**limits: float) -> Limits:
    """Buckets that hold this much and get nothing more while a test runs."""
    rates: dict[str, Any] = {f"{name}_per_minute": amount / 1e8 for name, amount in limits.items()}
    return Limits(capacity_s=6e9, **rates)


def test_the_honest_judge_answers_and_the_books_count_each_question(api: ChaosApi) -> None:
    right, wrong, _ = ask_all(api, [RIGHT, WRONG, WRONG])
    stats, questions = api.stats(), api.questions()
    assert reply_in(right)["verdict"] == "equivalent" and reply_in(wrong)["verdict"] == "not_equivalent"
    assert stats.calls == 3 and stats.num_questions == 2 and 1 <= stats.max_in_flight <= 3
    assert (stats.times_asked, stats.times_answered) == ({1: 1, 2: 1}, {1: 1, 2: 1})
    assert stats.input_tokens == right.usage.input_tokens + 2 * wrong.usage.input_tokens
    assert stats.output_tokens == right.usage.output_tokens + 2 * wrong.usage.output_tokens
    assert sorted((counts.asked, counts.answered) for counts in questions.values()) == [(1, 1), (2, 2)]
    assert sum(stats.arrivals_by_s.values()) == sum(stats.served_by_s.values()) == 3


def test_requests_are_limited_to_the_last_one_and_refused_ones_are_told_why(api: ChaosApi) -> None:
    api.start_over(limits=slowly(requests=7))
    outcomes = ask_all(api, [f"{RIGHT}{i}" for i in range(20)])
    stats = api.stats()
    refused = [outcome for outcome in outcomes if isinstance(outcome, anthropic.RateLimitError)]
    assert (num_ok(outcomes), len(refused)) == (7, 13)
    assert stats.by_status == {200: 7, 429: 13} and stats.refused == {"requests": 13}
    assert sum(stats.refused_by_s.values()) == 13 and sum(stats.served_by_s.values()) == 7
    for error in refused:
        assert "requests per minute" in str(error.api_message) and error.type == "rate_limit_error"
        assert int(error.response.headers["retry-after"]) >= 1


def test_input_tokens_are_limited_when_a_request_arrives(api: ChaosApi) -> None:
    cost = 314  # of the question below; the first assertion would say if it were not
    api.start_over(limits=slowly(input_tokens=3 * cost + 1))
    assert ask(api, params(RIGHT)).usage.input_tokens == cost
    outcomes = ask_all(api, [RIGHT] * 10)
    assert num_ok(outcomes) == 2 and api.stats().refused == {"input tokens": 8}


def test_output_tokens_are_limited_by_what_was_produced_before(api: ChaosApi) -> None:
    api.start_over(limits=slowly(output_tokens=50))
    assert ask(api, params()).usage.output_tokens == 31
    ask(api, params())  # goes, as something is left, and overdraws it
    with pytest.raises(anthropic.RateLimitError, match="output tokens per minute"):
        ask(api, params())
    api.set(limits=Limits())
    ask(api, params())


def test_headers_are_honest_on_answers_and_refusals(api: ChaosApi) -> None:
    api.start_over(limits=slowly(requests=2), clock_skew_s=-5000.0)
    responses = [ask_raw(api, params()) for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert [response.headers["anthropic-ratelimit-requests-remaining"] for response in responses] == ["1", "0", "0"]
    sent = [parsedate_to_datetime(response.headers["date"]) for response in responses]
    resets = [datetime.fromisoformat(response.headers["anthropic-ratelimit-requests-reset"]) for response in responses]
    for number, (date, reset) in enumerate(zip(sent, resets, strict=True)):
        to_refill_s = min(number + 1, 2) * 3e9  # half of what the bucket holds for each request
        assert 0 <= (reset - date).total_seconds() - to_refill_s <= 600
    assert abs(time.time() - sent[0].timestamp() - 5000) < 600
    assert len({response.headers["request-id"] for response in responses}) == 3


def test_a_reply_longer_than_max_tokens_is_cut_off_there(api: ChaosApi) -> None:
    message = ask(api, {**params(), "max_tokens": 10})
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 10)


def test_latency_and_slowness_are_waited_for(api: ChaosApi) -> None:
    api.set(latency_s=0.05, slow_s=0.1, faults=Faults(slow=1.0))
    started_at = time.monotonic()
    ask(api, params())
    assert time.monotonic() - started_at >= 0.15


def test_in_a_storm_everything_is_overloaded_until_it_is_over(api: ChaosApi) -> None:
    api.set(storm=Storm(duration_s=1e9))
    outcomes = ask_all(api, [RIGHT] * 5)
    assert [getattr(outcome, "status_code", None) for outcome in outcomes] == [529] * 5
    api.set(storm=Storm(start_s=1e9, duration_s=1e9))
    ask(api, params())


@pytest.mark.parametrize("cap", [{"spend_cap_requests": 3}, {"spend_cap_usd": 0.0013}])
def test_a_spent_budget_looks_like_a_rate_limit_apart_from_its_code(api: ChaosApi, cap: dict[str, Any]) -> None:
    api.start_over(prices=PRICES, **cap)
    for _ in range(3):
        ask(api, params())  # 314 tokens in, 31 out: 0.000469 USD
    with pytest.raises(anthropic.RateLimitError) as stopped:
        ask(api, params())
    assert api.stats().billed_usd == pytest.approx(3 * 0.000469)
    assert stopped.value.error_code == "enforced_spend_limit_reached"
    assert "retry-after" not in stopped.value.response.headers


def test_wrong_keys_unknown_models_and_bad_requests_are_refused(api: ChaosApi) -> None:
    api.set(prices=PRICES, max_message_bytes=10_000)
    with pytest.raises(anthropic.AuthenticationError):
        ask(api, params(), api_key="sk-ant-wrong")
    with pytest.raises(anthropic.NotFoundError, match="claude-x"):
        ask(api, {**params(), "model": "claude-x"})
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        ask(api, {**params(), "extra_body": {"temperature": 0.0}})
    with pytest.raises(anthropic.APIStatusError, match="request_too_large"):
        ask(api, params("x" * 10_000))
    assert api.stats().by_status == {401: 1, 404: 1, 400: 1, 413: 1}


def test_the_server_ends_with_the_process_that_started_it() -> None:
    program = (
        "import os, signal; from tests.chaos.server import ChaosApi; api = ChaosApi().__enter__();"
        "print(api.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True)
    pid = int(killed.stdout)
    wait_until(lambda: not psutil.pid_exists(pid) or is_zombie(pid), 60, "the server has ended")


def is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
