"""What becomes of a question when the Messages API fails, against a real HTTP server through the real SDK."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace

import anthropic
import httpx2
import pytest
from tenacity import wait_fixed

from evalgen.errors import GraderUnavailable
from evalgen.grading.breaker import Breaker
from evalgen.grading.claude_errors import outcome_of, retry_after_s
from evalgen.grading.limiter_records import Lease
from evalgen.grading.messages import MAX_ASKS
from evalgen.grading.rate_limiter import LONGEST_HOLD_S, RateLimiter
from tests import messages_api
from tests.claude_calls import RecordedSleep, grade, grade_all, question, sdk_pointed_at_messages_api
from tests.messages_api import API_KEY, Json, MessagesApi, Reply

GOOD_TEXT = '{"reasoning": "same", "verdict": "equivalent", "trimmed_completion": null}'


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with sdk_pointed_at_messages_api() as api:
        yield api


TRANSIENT = {
    "rate limit": messages_api.rate_limited(),
    "rate limit with retry-after": messages_api.rate_limited(retry_after=3),
    "limit of a workspace": messages_api.error(
        429,
        "rate_limit_error",
        "You have reached your specified workspace API usage limits.",
        retry_after="3",
    ),
    "overloaded": messages_api.overloaded(),
    "server error": messages_api.server_error(),
    "request timeout": messages_api.error(408, "timeout_error", "timeout"),
    "conflict": messages_api.error(409, "conflict_error", "conflict"),
    "a proxy's page": Reply(status=502, body="<html>Bad gateway</html>"),
    "connection reset": messages_api.connection_reset(),
    "body cut off": Reply(body='{"type": "mess', announced_extra_bytes=100),
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_a_transient_failure_is_waited_out(api: MessagesApi, fault: Reply) -> None:
    api.script(fault, fault)
    sleep = RecordedSleep()
    verdict = grade(sleep=sleep)
    assert (verdict.kind, verdict.error) == ("equivalent", None)
    assert verdict.api_calls == api.calls == 3
    assert len(sleep.seconds) == 2


def test_a_request_that_hangs_is_given_up_and_sent_again() -> None:
    done = threading.Event()
    num_calls = iter(range(10))

    def hang_once(data: dict[str, str]) -> Json:
        if next(num_calls) == 0:
            done.wait(timeout=30)
        return messages_api.honest_judge(data)

    with sdk_pointed_at_messages_api(hang_once):
        verdict = grade(request_timeout_s=0.3)
        done.set()
    assert (verdict.kind, verdict.api_calls) == ("equivalent", 2)


def test_retry_after_is_a_floor_under_the_backoff(api: MessagesApi) -> None:
    api.script(messages_api.rate_limited(retry_after=7), messages_api.overloaded())
    sleep = RecordedSleep()
    grade(sleep=sleep, backoff=wait_fixed(2))
    assert sleep.seconds == [9.0, 2.0]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Sun, 06 Nov 1994 08:51:37 GMT", "date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 120),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0),
        *(
            ({"retry-after": told}, 0)
            for told in ("", "0", "-3", "inf", "nan", "soon", "Sun, 06 Nov 9999999999 08:49:37")
        ),
        ({}, 0),
    ],
    ids=str,
)
def test_a_429_that_says_when_to_come_back_is_kept_to_and_any_other_is_a_failure(
    headers: dict[str, str], expected: float
) -> None:
    request = httpx2.Request("POST", "http://judge/v1/messages")
    error = anthropic.RateLimitError("", response=httpx2.Response(429, headers=headers, request=request), body=None)
    outcome = outcome_of(error, Lease(id=0, limiter=0))
    assert outcome.retry_after_s == retry_after_s(error) == expected
    assert outcome.kind == ("throttled" if expected else "failed"), "which many of open the breaker"


def test_the_last_question_does_not_sleep_for_hours_because_the_server_says_so(api: MessagesApi) -> None:
    api.script(messages_api.rate_limited(retry_after=7_200))
    limiter, sleep = RateLimiter(max_connections=1, breaker=Breaker(outage_budget_s=900)), RecordedSleep()
    with pytest.raises(GraderUnavailable, match="wants no request for 7200 s"):
        grade(limiter=limiter, sleep=sleep)
    assert sum(sleep.seconds) <= LONGEST_HOLD_S


def test_the_default_backoff_is_jittered_and_outlasts_a_bad_quarter_of_an_hour(api: MessagesApi) -> None:
    api.script(*[messages_api.overloaded()] * 500)
    sleep = RecordedSleep()
    verdict = grade(sleep=sleep, backoff=None)
    assert verdict.kind == "ungraded"
    assert 800 < sum(sleep.seconds) <= 900
    assert sleep.seconds[0] <= 1 and max(sleep.seconds) <= 60
    assert len(set(sleep.seconds)) == len(sleep.seconds)


@pytest.mark.parametrize("retry_after", [None, 4])
def test_a_retry_budget_is_spent_to_the_end_and_leaves_the_question_ungraded(
    api: MessagesApi, retry_after: float | None
) -> None:
    """What the server asks for is not taken from it."""
    api.script(*[messages_api.rate_limited(retry_after)] * 10)
    sleep = RecordedSleep()
    verdict = grade(retry_budget_s=3.5, backoff=wait_fixed(1.25), sleep=sleep)
    assert sum(sleep.seconds) - 3 * (retry_after or 0) == pytest.approx(3.5, abs=0.5), "less what the requests took"
    assert verdict.kind == "ungraded" and verdict.error is not None
    assert "HTTP 429 rate_limit_error" in verdict.error and "req_scripted" in verdict.error
    assert verdict.api_calls == api.calls == 4


@pytest.mark.parametrize(
    "reply, is_down", [(messages_api.overloaded(), True), (messages_api.server_error(), False)], ids=["529", "500"]
)
def test_the_last_question_of_a_job_is_not_given_up_where_the_server_is_to_blame(
    api: MessagesApi, reply: Reply, is_down: bool
) -> None:
    """That stops the job, which can be resumed. What the question itself may have caused leaves it ungraded."""
    api.script(*[reply] * 10)
    limiter = RateLimiter(max_connections=1, breaker=Breaker(outage_budget_s=0))
    patience = {"retry_budget_s": 3.5, "backoff": wait_fixed(1.25), "sleep": RecordedSleep()}
    if is_down:
        with pytest.raises(GraderUnavailable, match="HTTP 529"):
            grade(limiter=limiter, **patience)
    else:
        assert grade(limiter=limiter, **patience).kind == "ungraded"


UNUSABLE = {
    "prose": messages_api.message("They are equivalent."),
    "cut JSON": messages_api.message(GOOD_TEXT[:-20]),
    "unknown verdict": messages_api.message(GOOD_TEXT.replace('"equivalent"', '"maybe"')),
    "no verdict": messages_api.message('{"reasoning": "", "trimmed_completion": null}'),
    "verdict of another type": messages_api.message(GOOD_TEXT.replace('"equivalent"', "true")),
    "one key too many": messages_api.message(GOOD_TEXT.replace("{", '{"confidence": 1, ')),
    "a list": messages_api.message(f"[{GOOD_TEXT}]"),
    "two objects": messages_api.message(GOOD_TEXT + GOOD_TEXT),
    "empty text": messages_api.message(""),
    "no text block": messages_api.message(None, thinking=GOOD_TEXT),
    "max_tokens": messages_api.message(GOOD_TEXT, stop_reason="max_tokens"),
    "refusal": messages_api.message(GOOD_TEXT, stop_reason="refusal"),
    "unheard-of stop reason": messages_api.message(GOOD_TEXT, stop_reason="pause_turn"),
}
NO_MESSAGE = {
    "not a message": Reply(body={}),
    "a web page": Reply(body="<html>Welcome to the hotel's network</html>"),
    "broken JSON": Reply(body='{"type": "message", "content": ['),
}


@pytest.mark.parametrize("reply", NO_MESSAGE.values(), ids=NO_MESSAGE.keys())
def test_what_is_no_message_at_all_is_waited_out_like_a_failing_server(api: MessagesApi, reply: Reply) -> None:
    api.script(*[reply] * 5)
    patient = grade()
    assert (patient.kind, patient.api_calls) == ("equivalent", 6)
    api.script(*[reply] * 5)
    impatient = grade(retry_budget_s=10, backoff=wait_fixed(4), sleep=RecordedSleep())
    assert (impatient.kind, impatient.api_calls) == ("ungraded", 4)
    assert impatient.error == "the response is not a message of the Messages API"


@pytest.mark.parametrize("reply", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_reply_is_asked_again_and_then_ungraded_never_not_equivalent(
    api: MessagesApi, reply: Reply
) -> None:
    api.script(reply)
    second_time_lucky = grade()
    assert (second_time_lucky.kind, second_time_lucky.api_calls) == ("equivalent", 2)
    api.script(reply, reply)
    verdict = grade()
    assert (verdict.kind, verdict.api_calls) == ("ungraded", MAX_ASKS)
    assert verdict.error and verdict.trimmed_completion is None
    assert api.calls == 4


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("refusal", "refused the question"),
        ("max_tokens", "incomplete (stop_reason max_tokens)"),
        ("no text block", "has no text"),
        ("no verdict", "malformed: verdict: Field required"),
    ],
)
def test_an_ungraded_verdict_says_why(api: MessagesApi, reply: str, reason: str) -> None:
    api.script(UNUSABLE[reply], UNUSABLE[reply])
    assert reason in str(grade().error)


def test_the_tokens_of_unusable_replies_are_paid_for_and_counted(api: MessagesApi) -> None:
    cut_off = messages_api.message(GOOD_TEXT, stop_reason="max_tokens")  # 100 tokens in, 20 out
    api.script(cut_off, messages_api.overloaded(), cut_off)
    verdict = grade()
    assert (verdict.kind, verdict.api_calls) == ("ungraded", 3)
    assert (verdict.input_tokens, verdict.output_tokens) == (200, 40)
    assert verdict.cost_usd == pytest.approx((200 * 1.00 + 40 * 5.00) / 1e6)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_refused_for_its_content_loses_that_question_alone(api: MessagesApi, status: int) -> None:
    api.script(messages_api.error(status, "invalid_request_error", "prompt is too long: 210000 tokens"))
    one_at_a_time = RateLimiter(max_connections=1, breaker=Breaker(900))
    refused, judged = grade_all(question(), question(), limiter=one_at_a_time)
    assert (refused.kind, refused.api_calls) == ("ungraded", 1)
    assert refused.error is not None and "prompt is too long" in refused.error
    assert judged.kind == "equivalent"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"error": {"type": 400, "message": "no", "code": 400}}, "HTTP 400 400: no"),
        ({"error": {"type": ["a"], "message": {"b": 1}}}, "HTTP 400 ['a']: {'b': 1}"),
        ({"detail": "Not\n allowed"}, 'HTTP 400: {"detail": "Not\\n allowed"}'),
        ({"error": f"{API_KEY} is unknown"}, 'HTTP 400: {"error": "*** is unknown"}'),
        ({"error": {"type": f"bad\n{API_KEY}", "message": "a-proxys-own-key"}}, "HTTP 400 bad ***: ***"),
        ("<html>no</html>", "HTTP 400: <html>no</html>"),
        ("a\x1b]0;title\x07b", r"HTTP 400: a\x1b]0;title\x07b"),
        ("x" * 10**6, f"HTTP 400: {'x' * 290}…"),
        ("", "HTTP 400"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_another_kind_of_server_says_is_told(
    api: MessagesApi, body: Json | str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Proxy-Key: a-proxys-own-key")
    api.script(Reply(status=400, body=body))
    assert grade().error == f"{says} [req_scripted]"


def test_a_base_url_with_the_v1_of_its_paths_is_not_taken_for_a_wrong_model(api: MessagesApi) -> None:
    api.script(Reply(status=404, body={"detail": "Not Found"}))  # as vLLM says it
    with pytest.raises(GraderUnavailable, match=r"check ANTHROPIC_BASE_URL, which is given without the /v1 .*HTTP 404"):
        grade()


def test_tokens_that_a_server_read_from_its_cache_are_counted(api: MessagesApi) -> None:
    reply = messages_api.message(GOOD_TEXT)  # 100 tokens in, 20 out
    cached = {"cache_read_input_tokens": 384, "cache_creation_input_tokens": None}
    assert isinstance(reply.body, dict)
    api.script(replace(reply, body=reply.body | {"usage": reply.body["usage"] | cached}))
    assert (verdict := grade()).input_tokens == 484
    assert verdict.cost_usd == pytest.approx((484 * 1.00 + 20 * 5.00) / 1e6)


TERMINAL = {
    "no permission": (
        messages_api.error(403, "permission_error", f"{API_KEY} may not\nuse it"),
        "claude-haiku-4-5",
    ),
    "unknown model": (messages_api.error(404, "not_found_error", "model: x"), "claude-haiku-4-5-20251001"),
    "tier's spend cap": (messages_api.spend_cap(), "enforced_spend_limit_reached"),
    "contract's spend cap": (
        messages_api.error(429, "rate_limit_error", "spent", code="contract_spend_limit_reached"),
        "Claude Console",
    ),
    "spend cap without its code": (
        messages_api.error(429, "rate_limit_error", "You have reached your API usage limits: ..."),
        "Claude Console",
    ),
    "own spend limit": (
        messages_api.error(400, "invalid_request_error", "You have reached your specified API usage limits."),
        "specified API usage limits",
    ),
    "empty account": (
        messages_api.error(400, "invalid_request_error", "Your credit balance is too low to access the API."),
        "credit balance is too low",
    ),
    "billing": (messages_api.error(402, "billing_error", "check your payment details"), "payment details"),
    "on hold": (
        messages_api.error(400, "invalid_request_error", "on hold", code="organization_on_hold"),
        "organization_on_hold",
    ),
}


@pytest.mark.parametrize("fault, expected", TERMINAL.values(), ids=TERMINAL.keys())
def test_what_no_retry_mends_stops_the_job_in_one_line_without_the_key(
    api: MessagesApi, fault: Reply, expected: str
) -> None:
    api.script(fault)
    with pytest.raises(GraderUnavailable) as stopped:
        grade()
    line = str(stopped.value)
    assert expected in line and "\n" not in line and API_KEY not in line
    assert stopped.value.__cause__ is None
    assert api.calls == 1


def test_a_wrong_key_stops_the_job_unnamed(monkeypatch: pytest.MonkeyPatch, api: MessagesApi) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-wrong-key")
    with pytest.raises(GraderUnavailable, match="ANTHROPIC_API_KEY") as stopped:
        grade()
    assert "wrong-key" not in str(stopped.value)


@pytest.mark.parametrize(
    "name, value",
    [("ANTHROPIC_API_KEY", ""), ("ANTHROPIC_API_KEY", "sk-ant\n-x"), ("ANTHROPIC_BASE_URL", "foo")],
)
def test_settings_with_which_no_request_could_be_sent_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, api: MessagesApi, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(GraderUnavailable, match=name):
        grade()
    assert api.calls == 0


def test_the_log_never_holds_the_key(api: MessagesApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    api.script(messages_api.error(500, "api_error", f"key {API_KEY}"), messages_api.message("?"))
    grade()
    assert "HTTP 500" in caplog.text and API_KEY not in caplog.text
