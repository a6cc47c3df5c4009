"""The Claude grader's verdicts, costs and leases, against a real HTTP server through the real SDK."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from evalgen.grading import claude
from evalgen.grading.breaker import Breaker
from evalgen.grading.claude import ClaudeGrader
from evalgen.grading.limiter_records import Demand, Lease, Outcome
from evalgen.grading.question_text import REPLY_SCHEMA
from evalgen.grading.rate_limiter import RateLimiter
from tests import messages_api
from tests.claude_calls import grade, grade_all, question, sdk_pointed_at_messages_api, unlimited
from tests.messages_api import Json, MessagesApi

GOOD_TEXT = '{"reasoning": "same", "verdict": "equivalent", "trimmed_completion": null}'


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with sdk_pointed_at_messages_api() as api:
        yield api


def test_an_equivalent_completion_comes_back_trimmed_and_with_its_costs(api: MessagesApi) -> None:
    verdict = grade()
    assert (verdict.kind, verdict.trimmed_completion) == ("equivalent", " Grace Miller")
    assert verdict.reasoning and verdict.error is None
    assert (verdict.api_calls, api.calls) == (1, 1)
    assert verdict.input_tokens > 0 and verdict.output_tokens > 0
    expected_usd = (verdict.input_tokens * 1.00 + verdict.output_tokens * 5.00) / 1e6
    assert verdict.cost_usd == pytest.approx(expected_usd)


def test_a_wrong_completion_is_not_equivalent(api: MessagesApi) -> None:
    assert grade(" Ethan Parker").kind == "not_equivalent"


def test_the_request_names_the_bare_model_and_its_schema_and_no_sampling_parameter(api: MessagesApi) -> None:
    grade()
    body = api.requests[0].body
    assert body.keys() == {"model", "max_tokens", "system", "messages", "output_config"}
    assert body["model"] == "claude-haiku-4-5-20251001"
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": REPLY_SCHEMA}}


def test_a_model_of_unknown_price_has_an_unknown_cost(api: MessagesApi) -> None:
    (verdict,) = grade_all(question(model="anthropic/claude-haiku-4"))
    assert verdict.kind == "equivalent" and verdict.cost_usd is None


def test_a_thinking_block_before_the_text_is_passed_over(api: MessagesApi) -> None:
    api.script(messages_api.message(GOOD_TEXT, thinking='{"verdict": "not_equivalent"}'))
    assert grade().kind == "equivalent"


@pytest.mark.parametrize("proposed", ["Miller", " Grace Miller!", "\n", " Grace Miller\nQ:"])
def test_a_trim_that_is_no_shorter_prefix_changes_nothing(api: MessagesApi, proposed: str) -> None:
    answer = messages_api.verdict("equivalent", trimmed=proposed)
    api.script(messages_api.answer(answer))
    verdict = grade()
    assert verdict.kind == "equivalent" and verdict.trimmed_completion is None


def test_a_completion_that_is_not_equivalent_is_never_trimmed(api: MessagesApi) -> None:
    api.script(messages_api.answer(messages_api.verdict("not_equivalent", trimmed=" Grace")))
    assert grade().trimmed_completion is None


def test_every_request_holds_a_lease_and_gives_it_back_whatever_happens(api: MessagesApi) -> None:
    api.script(messages_api.overloaded(), messages_api.message("?"), messages_api.connection_reset())
    limiter = unlimited()
    grade(limiter=limiter)
    assert limiter.num_granted == api.calls == 4
    assert limiter.num_in_flight == 0


def test_no_more_requests_are_in_flight_than_the_limiter_allows() -> None:
    pairs = threading.Barrier(2)  # a reply comes only when two requests are there at once

    def judge(data: dict[str, str]) -> Json:
        if data["completion"] != " first":
            pairs.wait(timeout=30)
        return messages_api.honest_judge(data)

    with sdk_pointed_at_messages_api(judge) as paired:
        limiter = RateLimiter(max_connections=2, breaker=Breaker(900))
        grade_all(question(" first"), limiter=limiter)  # until the server has answered, one request is in flight
        verdicts = grade_all(*[question()] * 10, limiter=limiter)
    assert [verdict.kind for verdict in verdicts] == ["equivalent"] * 10
    assert paired.max_in_flight == 2


def test_time_in_the_limiters_queue_is_no_part_of_the_retry_budget(
    api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    class LongQueue:
        async def acquire(self, demands: Sequence[Demand], holder: str) -> list[Lease]:
            now[0] += 1000
            return [Lease(id=1, limiter=1)]

        async def settle(self, outcomes: Sequence[Outcome]) -> None:
            pass

        async def waited(self, seconds_of: Mapping[str, float]) -> None:
            pass

        async def still_here(self, holder: str) -> None:
            pass

    monkeypatch.setattr(claude, "time", SimpleNamespace(monotonic=lambda: now[0]))
    api.script(messages_api.overloaded(), messages_api.overloaded())
    assert grade_all(question(), limiter=LongQueue(), retry_budget_s=10)[0].kind == "equivalent"


def test_a_cancelled_question_gives_its_lease_back() -> None:
    arrived, done = threading.Event(), threading.Event()

    def hang(data: dict[str, str]) -> Json:
        arrived.set()
        done.wait(timeout=30)
        return messages_api.honest_judge(data)

    async def cancel_in_flight(limiter: RateLimiter) -> None:
        grader = ClaudeGrader(limiter=limiter)
        task = asyncio.create_task(grader.grade([question()]))
        await asyncio.to_thread(arrived.wait, 30)
        assert limiter.num_in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await grader.aclose()

    with sdk_pointed_at_messages_api(hang):
        limiter = unlimited()
        asyncio.run(cancel_in_flight(limiter))
        done.set()
    assert limiter.num_in_flight == 0


def test_the_server_serves_graders_of_other_processes(api: MessagesApi) -> None:
    program = "from tests.claude_calls import grade; print(grade().kind)"
    command, root = [sys.executable, "-c", program], Path(__file__).parents[3]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "equivalent", result.stderr
    assert api.calls == 1
