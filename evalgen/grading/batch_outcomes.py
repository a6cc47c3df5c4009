"""What a batch brought for one question: a verdict, or why there is none and whether to ask again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import anthropic
import httpx2

from evalgen.errors import GraderUnavailable, GradingError
from evalgen.grading.batch_api import Result
from evalgen.grading.claude_errors import describe, is_transient, unavailable
from evalgen.grading.messages import read_message, verdict_in
from evalgen.grading.prices import BATCH_DISCOUNT, PriceList
from evalgen.records import Question, Verdict


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a batch brought for one question; its verdict is `ungraded`, with the reason, unless it was judged."""

    fate: Literal["judged", "malformed", "lost", "given_up", "refused"]
    verdict: Verdict
    refusal: GraderUnavailable | None = None  # the judge refuses every question


def outcome_of_item(question: Question, result: Result | None, prices: PriceList) -> Outcome:
    if result is None or result.type not in ("succeeded", "errored"):
        # expired or canceled, which nobody pays for
        reason = f"its batch {'brought no reply' if result is None else f'left it {result.type}'}"
        return Outcome(fate="lost", verdict=_ungraded(reason))
    if result.type == "succeeded":
        return _judged(question, result, prices)
    error = _item_error(result.error)
    verdict = _ungraded(describe(error))
    if refusal := unavailable(error, question.grader.api_model):
        return Outcome(fate="refused", verdict=verdict, refusal=refusal)
    return Outcome(fate="lost" if is_transient(error) else "given_up", verdict=verdict)


def _judged(question: Question, result: Result, prices: PriceList) -> Outcome:
    """The verdict in a reply, with what it cost, which a reply that cannot be used does as well."""
    input_tokens, output_tokens = 0, 0
    fate: Literal["judged", "malformed"] = "judged"
    try:
        message = read_message(result.message if isinstance(result.message, dict) else {})
        input_tokens, output_tokens = message.usage.all_input_tokens, message.usage.output_tokens
        verdict = verdict_in(message, question)
    except GradingError as error:
        fate, verdict = "malformed", Verdict(kind="ungraded", error=str(error))
    list_usd = prices.cost_usd(question.grader.api_model, input_tokens, output_tokens)
    paid = replace(
        verdict,
        api_calls=1,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_usd=None if list_usd is None else list_usd * BATCH_DISCOUNT,
    )
    return Outcome(fate=fate, verdict=paid)


def _ungraded(reason: str) -> Verdict:
    return Verdict(kind="ungraded", error=reason, api_calls=1)


_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_CLASSES: dict[int, type[anthropic.APIStatusError]] = {
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
}


def _item_error(body: Any) -> anthropic.APIStatusError:
    """An item's error as the exception that the SDK raises for the same error of a request of its own."""
    body = body if isinstance(body, dict) else {}
    detail = body.get("error")
    kind = detail.get("type") if isinstance(detail, dict) else None
    status = _STATUSES.get(str(kind), 500)  # api_error, and what we do not know: it may pass
    headers = {"request-id": str(body["request_id"])} if body.get("request_id") else {}
    response = httpx2.Response(status, headers=headers, request=httpx2.Request("POST", "/v1/messages/batches"))
    return _CLASSES.get(status, anthropic.APIStatusError)(str(kind), response=response, body=body)
