"""A real HTTP server on loopback that speaks enough of the Messages API for the real SDK, faults included.

Start it by ``with MessagesApi() as api:`` and set ``ANTHROPIC_BASE_URL`` to ``api.base_url``, in any
process. Replies given to ``api.script(...)`` answer the next requests in order; after them the judge answers. A request
can be held (``api.hold``), and the server can be away for a while (``api.go_away``).
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
Judge = Callable[[dict[str, str]], Json]  # prompt, reference, completion -> the reply object

API_KEY = "sk-ant-test-0123456789"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One scripted HTTP response."""

    status: int = 200
    body: Json | str = ""  # a str is sent as it is
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False  # no response at all: the connection is reset
    announced_extra_bytes: int = 0  # above 0: the body ends that much before its Content-Length


@dataclass(frozen=True, kw_only=True)
class RecordedRequest:
    """A request as it arrived."""

    body: Json
    headers: Mapping[str, str]  # names in lower case

    @property
    def question(self) -> dict[str, str]:
        """What the judge was asked, parsed from the user message."""
        parsed: dict[str, str] = json.loads(self.body["messages"][0]["content"])
        return parsed

    @property
    def num_questions(self) -> int:
        return len(self.question.get("completions", ("one",)))


def error(status: int, kind: str, message: str, *, code: str | None = None, **headers: str) -> Reply:
    """An error of the API; header names are given with underscores."""
    detail: Json = {"type": kind, "message": message}
    if code is not None:
        detail["details"] = {"error_code": code}
    return Reply(
        status=status,
        body={"type": "error", "error": detail, "request_id": "req_scripted"},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def rate_limited(retry_after: float | None = None) -> Reply:
    headers = {} if retry_after is None else {"retry_after": str(retry_after)}
    return error(429, "rate_limit_error", "This request would exceed your rate limit.", **headers)


def spend_cap() -> Reply:
    """What https://platform.claude.com/docs/en/api/rate-limits shows for a tier's monthly spend cap."""
    message = "You have reached your API usage limits: your organization has crossed its monthly threshold."
    return error(429, "rate_limit_error", message, code="enforced_spend_limit_reached")


def overloaded() -> Reply:
    return error(529, "overloaded_error", "Overloaded")


def server_error() -> Reply:
    return error(500, "api_error", "Internal server error")


def connection_reset() -> Reply:
    return Reply(reset=True)


def message(
    text: str | None,
    *,
    stop_reason: str = "end_turn",
    thinking: str | None = None,
    input_tokens: int = 100,
    output_tokens: int = 20,
) -> Reply:
    """A successful response with this text; `text` None: no text block."""
    content: list[Json] = []
    if thinking is not None:
        content.append({"type": "thinking", "thinking": thinking, "signature": "c2lnbmF0dXJl"})
    if text is not None:
        content.append({"type": "text", "text": text})
    body = {
        "id": "msg_scripted",
        "type": "message",
        "role": "assistant",
        "model": "claude-scripted",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens},
    }
    return Reply(body=body)


def answer(reply: Json) -> Reply:
    """A successful response in which the judge gives this reply object."""
    return message(json.dumps(reply))


def verdict(kind: str, *, trimmed: str | None = None, reasoning: str = "scripted") -> Json:
    """The reply object that the judge is asked for."""
    return {"reasoning": reasoning, "verdict": kind, "trimmed_completion": trimmed}


def honest_judge(question: dict[str, str]) -> Json:
    """Equivalent if and only if the completion starts with the reference, blanks aside."""
    reference, completion = question["reference"].strip(), question["completion"]
    num_blanks = len(completion) - len(completion.lstrip())
    if not reference or not completion.lstrip().startswith(reference):
        return verdict("not_equivalent", reasoning="The completion does not start with the reference.")
    trimmed = completion[: num_blanks + len(reference)]
    return verdict("equivalent", trimmed=trimmed, reasoning="The completion starts with the reference.")


def judged(judge: Judge, question: Json) -> Json:
    """The reply object to one question, or to several about one prompt."""
    if "completions" not in question:
        return judge(question)
    one = {"prompt": question["prompt"], "reference": question["reference"]}
    replies = [judge(one | {"completion": completion}) for completion in question["completions"]]
    return {"verdicts": [{"index": index, **reply} for index, reply in enumerate(replies)]}


class HeldRequest:
    """A request that is answered only when it is released, to come yet or there already."""

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._released = threading.Event()

    @property
    def has_arrived(self) -> bool:
        return self._arrived.is_set()

    def release(self) -> None:
        self._released.set()

    def wait(self) -> None:
        """Called by the server's threads."""
        self._arrived.set()
        self._released.wait()


class MessagesApi:
    """The server, running while its ``with`` block does. Safe to read and to script from any thread."""

    def __init__(self, judge: Judge | None = None, *, api_key: str = API_KEY) -> None:
        self._judge = judge or honest_judge
        self._api_key = api_key
        self._lock = threading.Lock()
        self._script: deque[Reply] = deque()
        self._requests: list[RecordedRequest] = []
        self._num_in_flight = 0
        self.max_in_flight = 0  # most requests served at one time
        self._held: dict[int, HeldRequest] = {}
        self._back: threading.Timer | None = None
        self.is_away = False
        self._listen(port=0)

    def __enter__(self) -> MessagesApi:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._back is not None:
            self._back.join()
        for held in self._held.values():
            held.release()
        self._stop()

    def _listen(self, port: int) -> None:
        self._server = _Server(("127.0.0.1", port), _handler_of(self))
        self._server.socket.listen(256)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def _stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def hold(self, number: int) -> HeldRequest:
        """Holds the `number`th request, counted from 1, until it is released."""
        with self._lock:
            return self._held.setdefault(number, HeldRequest())

    def go_away(self, seconds: float) -> None:
        """From now on connections are refused, and those that are there are reset. After `seconds` all is as before."""
        self.is_away = True
        self._stop()
        self._back = threading.Timer(seconds, self._come_back, (self._server.server_port,))
        self._back.start()

    def _come_back(self, port: int) -> None:
        self._listen(port)
        self._thread.start()
        self.is_away = False

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request so far whose key was right, in order of arrival."""
        with self._lock:
            return list(self._requests)

    @property
    def calls(self) -> int:
        return len(self.requests)

    def script(self, *replies: Reply) -> None:
        """Answer the next requests with these, one each."""
        with self._lock:
            self._script.extend(replies)

    def respond(self, headers: Mapping[str, str], body: Json) -> Reply:
        """What one request gets; called by the server's threads."""
        if self._api_key not in (
            headers.get("x-api-key"),
            headers.get("authorization", "")[len("Bearer ") :],
        ):
            return error(401, "authentication_error", "invalid x-api-key")
        if self.is_away:
            return connection_reset()  # it came on an old connection
        with self._lock:
            self._requests.append(RecordedRequest(body=body, headers=headers))
            held = self._held.get(len(self._requests))
            scripted = self._script.popleft() if self._script else None
            self._num_in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._num_in_flight)
        try:
            if held is not None:
                held.wait()
            return connection_reset() if self.is_away else scripted or self._judged(body)
        finally:
            with self._lock:
                self._num_in_flight -= 1

    def _judged(self, body: Json) -> Reply:
        if problem := _invalid(body):
            return error(400, "invalid_request_error", problem)
        text = json.dumps(judged(self._judge, json.loads(body["messages"][0]["content"])))
        return message(text, input_tokens=len(json.dumps(body)) // 4, output_tokens=len(text) // 4)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may be killed before it has its answer
            super().handle_error(request, client_address)


def _invalid(body: Json) -> str | None:
    """What the API would object to; the newest models refuse sampling parameters too."""
    for name in ("model", "max_tokens", "messages", "output_config"):
        if name not in body:
            return f"{name}: Field required"
    if unknown := body.keys() & {"temperature", "top_p", "top_k"}:
        return f"{sorted(unknown)[0]}: not supported by this model"
    output_format = body["output_config"].get("format", {})
    if output_format.keys() != {"type", "schema"} or output_format["type"] != "json_schema":
        return "output_config.format: Input should be a json_schema with its schema"
    if output_format["schema"].get("additionalProperties") is not False:
        return "output_config.format.schema: 'additionalProperties' must be explicitly set to false"
    return None


def _handler_of(api: MessagesApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept alive, as the API's are
        wbufsize = -1  # buffered: head and body leave in one segment
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            is_known = self.path.split("?")[0] == "/v1/messages"
            self._send(api.respond(headers, body) if is_known else error(404, "not_found_error", self.path))

        def _send(self, reply: Reply) -> None:
            if reply.reset:
                self.close_connection = True
                # Closing with a linger time of zero sends RST in place of FIN.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                return
            is_json = not isinstance(reply.body, str)
            payload = (json.dumps(reply.body) if is_json else str(reply.body)).encode()
            self.send_response(reply.status)
            self.send_header("content-type", "application/json" if is_json else "text/html")
            self.send_header("content-length", str(len(payload) + reply.announced_extra_bytes))
            self.send_header("request-id", "req_scripted")
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(payload)
            self.close_connection = self.close_connection or reply.announced_extra_bytes > 0

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
