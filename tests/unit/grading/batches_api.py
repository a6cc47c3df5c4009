"""A small real HTTP server on loopback that speaks the Message Batches API for the real SDK, with faults on demand.

Start it by ``with batches_api() as api:``. Batches move on by being polled, so no test needs a clock. What is billed is
counted item by item, for tests that nothing is paid for twice.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from tests import messages_api
from tests.claude_calls import sdk_pointed_at
from tests.messages_api import API_KEY, HeldRequest, Json, Reply

Call = Literal["create", "retrieve", "list", "results"]
PATH = "/v1/messages/batches"
COUNTS = ("processing", "succeeded", "errored", "expired", "canceled")

EXPIRED: Json = {"type": "expired"}
CANCELED: Json = {"type": "canceled"}


def errored(kind: str, message: str = "scripted") -> Json:
    """The result of an item that failed."""
    detail = {"type": kind, "message": message}
    return {"type": "errored", "error": {"type": "error", "error": detail, "request_id": "req_item"}}


def succeeded(text: str, **options: Any) -> Json:
    """The result of an item whose reply is this text; `options` as of `messages_api.message`."""
    return {"type": "succeeded", "message": messages_api.message(text, **options).body}


@dataclass(kw_only=True)
class Batch:
    id: str
    requests: list[tuple[str, Json]]  # custom id, parameters
    created_at: datetime
    num_polls: int = 0
    is_archived: bool = False
    lines: list[str] | None = None  # the results; None: it has not ended
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one request in place of its response."""

    reply: Reply
    is_after_work: bool = False  # the work is done all the same
    held: HeldRequest | None = None  # it happens only when this is released


class BatchesApi:
    """The server's state; safe to read and to script from any thread."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.lock = threading.RLock()
        self.batches: list[Batch] = []  # in order of creation
        self.num_created = 0
        self._results_of: dict[str, deque[Json]] = {}  # scripted, by completion
        self.extra_lines: list[str] = []  # in the results of every batch
        self.num_short = 0  # so many of the next results lack their last line, in a response that seems whole
        self.num_cut = 0  # so many of the next results break off in the middle
        self.polls_to_end = 1  # how many polls find a batch in progress; SDK and grader both poll
        self.queue_size: int | None = None  # most items in progress
        self.clock_skew = timedelta()
        self.billed: Counter[str] = Counter()  # items by custom id
        self.billed_tokens: Counter[str] = Counter()  # "input_tokens", "output_tokens"
        self.calls: Counter[str] = Counter()
        self._faults: dict[str, deque[Fault]] = {}

    def script(self, completion: str, *results: Json) -> None:
        """The results of the next items that ask about a completion; after them the honest judge answers."""
        self._results_of.setdefault(completion, deque()).extend(results)

    def fail(self, call: Call, *replies: Reply, is_after_work: bool = False) -> None:
        """What the next requests of a kind get, one each."""
        faults = [Fault(reply=reply, is_after_work=is_after_work) for reply in replies]
        self._faults.setdefault(call, deque()).extend(faults)

    def hold(self, call: Call, *, is_after_work: bool) -> HeldRequest:
        """The next request of a kind gets nothing until it is released, and then a reset connection."""
        held = HeldRequest()
        fault = Fault(reply=messages_api.connection_reset(), is_after_work=is_after_work, held=held)
        self._faults.setdefault(call, deque()).append(fault)
        return held

    def forget(self) -> None:
        """Everything that was sent, billed and scripted so far."""
        for each in (self.batches, self.billed, self.billed_tokens, self._results_of):
            each.clear()

    def create(self, requests: Sequence[tuple[str, Json]]) -> Batch:
        """A new batch, of whichever client."""
        self.num_created += 1
        # Nothing in an id tells the order of creation, as in the API's own.
        batch_id = f"msgbatch_{random.Random(self.num_created).getrandbits(96):024x}"
        batch = Batch(id=batch_id, requests=list(requests), created_at=datetime.now(UTC) + self.clock_skew)
        batch.counts["processing"] = len(requests)
        self.batches.append(batch)
        return batch

    def respond(self, method: str, path: str, key: str, body: bytes) -> Reply:
        """What one request gets; called by the server's threads."""
        if key != API_KEY:
            return messages_api.error(401, "authentication_error", f"invalid x-api-key {key}")
        url = urlsplit(path)
        batch_id, _, rest = url.path.removeprefix(PATH).strip("/").partition("/")
        call = "create" if method == "POST" else "results" if rest else "retrieve" if batch_id else "list"
        with self.lock:
            self.calls[call] += 1
            faults = self._faults.get(call)
            fault = faults.popleft() if faults else None
            reply = (
                None
                if fault and not fault.is_after_work
                else self._work(call, batch_id, dict(parse_qsl(url.query)), body)
            )
        if fault is None:
            assert reply is not None
            return reply
        if fault.held is not None:
            fault.held.wait()
        return fault.reply

    def _work(self, call: str, batch_id: str, query: dict[str, str], body: bytes) -> Reply:
        if call == "create":
            return self._created(json.loads(body))
        if call == "list":
            return self._page(query)
        batch = next((batch for batch in self.batches if batch.id == batch_id), None)
        if batch is None:
            return messages_api.error(404, "not_found_error", f"no batch {batch_id}")
        if call == "retrieve":
            batch.num_polls += 1
            if batch.lines is None and batch.num_polls > self.polls_to_end:
                self.end(batch)
            return Reply(body=self._json(batch))
        if batch.lines is None or batch.is_archived:
            return messages_api.error(404, "not_found_error", f"no results of {batch_id}")
        return self._results(batch.lines)

    def _created(self, body: Json) -> Reply:
        requests = [(item["custom_id"], item["params"]) for item in body["requests"]]
        assert requests and len(requests) == len(dict(requests)), "custom ids must be unique"
        in_progress = sum(batch.counts["processing"] for batch in self.batches)
        if self.queue_size is not None and in_progress + len(requests) > self.queue_size:
            return messages_api.rate_limited()
        return Reply(body=self._json(self.create(requests)))

    def _page(self, query: dict[str, str]) -> Reply:
        newest_first = self.batches[::-1]
        start = next((i + 1 for i, batch in enumerate(newest_first) if batch.id == query.get("after_id")), 0)
        end = start + int(query["limit"])
        page = newest_first[start:end]
        ids = [batch.id for batch in page] or [None]
        body = {"data": [self._json(batch) for batch in page], "first_id": ids[0], "last_id": ids[-1]}
        return Reply(body=body | {"has_more": end < len(newest_first)})

    def _results(self, lines: list[str]) -> Reply:
        lines = lines + self.extra_lines
        if self.num_short:
            self.num_short -= 1
            lines = lines[:-1]
        text = "".join(f"{line}\n" for line in lines)
        if self.num_cut:
            self.num_cut -= 1
            return Reply(body=text[: len(text) // 2], announced_extra_bytes=len(text) - len(text) // 2)
        return Reply(body=text)

    def end(self, batch: Batch) -> None:
        """Ends a batch now."""
        batch.lines = []
        for custom_id, params in batch.requests:
            result = self._result(params)
            batch.counts["processing"] -= 1
            batch.counts[result["type"]] += 1
            if result["type"] == "succeeded":
                self.billed[custom_id] += 1
                self.billed_tokens.update(result["message"]["usage"])
            batch.lines.append(json.dumps({"custom_id": custom_id, "result": result}, ensure_ascii=False))
        batch.requests = []
        random.Random(0).shuffle(batch.lines)

    def _result(self, params: Json) -> Json:
        question = json.loads(params["messages"][0]["content"])
        if scripted := self._results_of.get(question["completion"]):
            return scripted.popleft()
        text = json.dumps(messages_api.honest_judge(question), ensure_ascii=False)
        return succeeded(text, input_tokens=len(json.dumps(params)) // 4, output_tokens=len(text) // 4)

    def _json(self, batch: Batch) -> Json:
        has_ended = batch.lines is not None
        has_results = has_ended and not batch.is_archived
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if has_ended else "in_progress",
            "request_counts": batch.counts,
            "created_at": batch.created_at.isoformat(),
            "expires_at": (batch.created_at + timedelta(hours=24)).isoformat(),
            "results_url": f"{self.base_url}{PATH}/{batch.id}/results" if has_results else None,
        }


@contextmanager
def batches_api() -> Iterator[BatchesApi]:
    """A running server that the SDK of this process and of its children takes for the real API."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.api = api = BatchesApi(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    with sdk_pointed_at(api.base_url):
        try:
            yield api
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    api: BatchesApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may be killed before it has its answer
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def do_GET(self) -> None:
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        key = self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")
        reply = self.server.api.respond(self.command, self.path, key, body)
        if reply.reset:
            self.close_connection = True
            # Closing with a linger time of zero sends RST in place of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        payload = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        self.send_response(reply.status)
        self.send_header("content-length", str(len(payload) + reply.announced_extra_bytes))
        self.send_header("content-type", "application/json")
        self.send_header("request-id", "req_scripted")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)
        self.close_connection = self.close_connection or reply.announced_extra_bytes > 0

    def log_message(self, format: str, *args: Any) -> None:
        pass
