"""The requests and responses of the chaos server as values, and the texts in which the API refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.chaos.judging import Answer, Asked
from tests.chaos.limits import Refusal
from tests.messages_api import Json, Reply, connection_reset, error, message, overloaded, server_error
from tests.messages_api import _invalid as problem_with_params

PROXY_PAGE = "<html><body><h1>502 Bad Gateway</h1></body></html>"
BEFORE_WORK_REPLIES = {
    "server_error": server_error(),
    "bad_gateway": Reply(status=502, body=PROXY_PAGE),
    "unavailable": error(503, "api_error", "Service unavailable"),
    "overloaded": overloaded(),
    "reset": connection_reset(),
    "not_a_message": Reply(body="<html><body>Welcome to the hotel's network</body></html>"),
    "not_found": error(404, "not_found_error", "batch not found"),
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to the API as it arrived."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    base_url: str = ""


@dataclass(frozen=True, kw_only=True)
class Response:
    """What the call gets, after `latency_s`; then `settle` is called, whether or not anybody still waits for it."""

    reply: Reply
    latency_s: float = 0.0
    fault: str | None = None  # one of `ON_THE_WAY_BACK`
    settle: Callable[[], None] = lambda: None


class Refused(Exception):
    """A request that gets an error of the API."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.body)
        self.reply = reply


def invalid(message: str) -> Refused:
    return Refused(error(400, "invalid_request_error", message))


def parsed(call: Call, max_bytes: int) -> Json:
    if len(call.body) > max_bytes:
        raise Refused(error(413, "request_too_large", "Request exceeds the maximum size"))
    try:
        body = json.loads(call.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise invalid("The request body is not valid JSON")
    return body


def problem_with(params: Json) -> str | None:
    """What is wrong with the parameters of a message."""
    if problem := problem_with_params(params):
        return problem
    messages = params["messages"]
    if not isinstance(messages, list) or not messages or not all(isinstance(entry, dict) for entry in messages):
        return "messages: at least one message is required"
    if messages[0].get("role") != "user" or not isinstance(messages[0].get("content"), str):
        return "messages.0: a user message with its text is expected here"
    return None


def rate_limited(refusal: Refusal) -> Reply:
    text = (
        f"This request would exceed the rate limit for your organization of {refusal.per_minute:,.0f} "
        f"{refusal.limit} per minute. You can see the response headers for current usage."
    )
    return error(429, "rate_limit_error", text, retry_after=str(refusal.retry_after_s))


def message_json(asked: Asked, answer: Answer, number: int) -> Json:
    body = message(
        answer.text,
        stop_reason=answer.stop_reason,
        input_tokens=asked.input_tokens,
        output_tokens=answer.output_tokens,
    ).body
    assert isinstance(body, dict)
    return {**body, "id": f"msg_{number:024d}", "model": asked.model}


_BATCH_PATH = re.compile(r"/v1/messages/batches(?:/(?P<id>[^/]+)(?:/(?P<verb>[^/]+))?)?/?")
_BATCH_ENDPOINTS = {
    ("POST", False, None): "create",
    ("GET", False, None): "list",
    ("GET", True, None): "retrieve",
    ("GET", True, "results"): "results",
    ("POST", True, "cancel"): "cancel",
}


def endpoint_of(call: Call) -> tuple[str, str]:
    """The name of a Message Batches endpoint and the batch's id, "" where it has none. Raises `Refused`."""
    match = _BATCH_PATH.fullmatch(call.path)
    name = match and _BATCH_ENDPOINTS.get((call.method, match["id"] is not None, match["verb"]))
    if match and name:
        return name, match["id"] or ""
    raise Refused(error(404, "not_found_error", f"{call.method} {call.path}: no such endpoint"))
