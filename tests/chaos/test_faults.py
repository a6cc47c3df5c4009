"""Each fault of the chaos server really happens to the real SDK, and the books tell what it cost."""

from __future__ import annotations

import asyncio
import json

import anthropic
import httpx2
import pytest

from evalgen.errors import GradingError
from evalgen.grading.messages import read_message, verdict_in
from tests.chaos.books import Stats
from tests.chaos.sdk_calls import RIGHT, ask, ask_all, ask_raw, num_ok, params, run
from tests.chaos.server import ChaosApi
from tests.chaos.settings import Faults, Price
from tests.claude_calls import question
from tests.waiting import wait_until

PRICES = {"claude-haiku-4-5-20251001": Price(input_usd=1.0, output_usd=5.0)}


BEFORE_WORK: dict[str, tuple[type[Exception], int]] = {
    "server_error": (anthropic.InternalServerError, 500),
    "bad_gateway": (anthropic.InternalServerError, 502),
    "unavailable": (anthropic.InternalServerError, 503),
    "overloaded": (anthropic.APIStatusError, 529),
    "reset": (anthropic.APIConnectionError, 0),
}


@pytest.mark.parametrize("fault", BEFORE_WORK)
def test_a_request_that_fails_on_arrival_costs_nothing(api: ChaosApi, fault: str) -> None:
    kind, status = BEFORE_WORK[fault]
    api.start_over(faults=Faults(**{fault: 1.0}))
    with pytest.raises(kind) as failed:
        ask(api, params())
    stats = api.stats()
    assert getattr(failed.value, "status_code", 0) == status
    assert stats.by_status == {status: 1} and stats.faults == {fault: 1}
    assert stats.input_tokens == 0 and stats.times_answered == {0: 1}


@pytest.mark.parametrize("fault", ["lost", "cut", "malformed"])
def test_a_reply_that_goes_astray_is_billed_and_no_answer(api: ChaosApi, fault: str) -> None:
    api.start_over(faults=Faults(**{fault: 1.0}), prices=PRICES)
    with pytest.raises((anthropic.APIConnectionError, httpx2.HTTPError, json.JSONDecodeError)):
        ask(api, params())
    stats = api.stats()
    assert stats.by_status == {0 if fault == "lost" else 200: 1}
    assert_billed_without_answer(stats, fault)


def test_a_reply_that_never_comes_is_billed_and_its_connection_is_held_until_the_client_gives_up(api: ChaosApi) -> None:
    async def give_up(client: anthropic.AsyncAnthropic) -> None:
        asked = asyncio.create_task(client.messages.create(**params()))
        await asyncio.to_thread(wait_until, lambda: bool(api.stats().faults), 60, "the request is there")
        assert api.stats().num_in_flight == 1 and not asked.done()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await asyncio.to_thread(wait_until, lambda: api.stats().by_status == {0: 1}, 60, "the server has noticed")

    api.start_over(faults=Faults(hang=1.0), prices=PRICES)
    run(api, give_up)
    assert api.stats().num_in_flight == 0
    assert_billed_without_answer(api.stats(), "hang")


def assert_billed_without_answer(stats: Stats, fault: str) -> None:
    assert stats.faults == {fault: 1}
    assert (stats.times_asked, stats.times_answered) == ({1: 1}, {0: 1})
    assert stats.input_tokens > 0 and stats.output_tokens > 0
    assert stats.billed_usd == pytest.approx((stats.input_tokens * 1.0 + stats.output_tokens * 5.0) / 1e6)


@pytest.mark.parametrize("fault", ["refusal", "max_tokens", "prose", "not_a_message"])
def test_a_reply_without_a_verdict_is_no_answer(api: ChaosApi, fault: str) -> None:
    api.start_over(faults=Faults(**{fault: 1.0}))
    body = ask_raw(api, params()).content
    with pytest.raises(GradingError):
        verdict_in(read_message(body), question())
    stats = api.stats()
    assert stats.by_status == {200: 1} and stats.times_answered == {0: 1}
    assert (stats.output_tokens > 0) == (fault != "not_a_message")


def test_which_requests_fail_depends_on_the_seed_and_not_on_their_order(api: ChaosApi) -> None:
    completions = [f"{RIGHT}{i}" for i in range(60)]
    failed: list[set[str]] = []
    for seed, order in [(1, completions), (1, completions[::-1]), (2, completions)]:
        api.start_over(seed=seed, faults=Faults(overloaded=0.2, reset=0.2))
        outcomes = dict(zip(order, ask_all(api, order), strict=True))
        stats = api.stats()
        failed.append({completion for completion, outcome in outcomes.items() if num_ok([outcome]) == 0})
        assert sum(stats.faults.values()) == len(failed[-1])
    assert failed[0] == failed[1] != failed[2]
    assert 0 < len(failed[0]) < 60


def test_a_retry_of_the_same_request_has_luck_of_its_own(api: ChaosApi) -> None:
    api.start_over(faults=Faults(overloaded=0.5))
    outcomes = ask_all(api, [RIGHT] * 40)
    assert 0 < num_ok(outcomes) < 40
