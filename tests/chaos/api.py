"""The chaos server without its sockets: what each request gets, when, and what that does to the books."""

from __future__ import annotations

import hashlib
import importlib
import random
import time
from collections import Counter

from tests.chaos import judging
from tests.chaos.batches import Batches
from tests.chaos.books import Books
from tests.chaos.chance import chance, latency_s, struck_by
from tests.chaos.judging import Answer, Asked
from tests.chaos.limits import Clock, RateLimits
from tests.chaos.settings import AT_A_BATCH, BEFORE_WORK, IN_PACK, IN_REPLY, ON_THE_WAY_BACK, Settings
from tests.chaos.wire import (
    BEFORE_WORK_REPLIES,
    Call,
    Refused,
    Response,
    endpoint_of,
    invalid,
    message_json,
    parsed,
    problem_with,
    rate_limited,
)
from tests.messages_api import Json, Judge, Reply, error, overloaded, spend_cap

JSON_LINES = {"content-type": "application/x-jsonl"}


class Api:
    """Both APIs and their books. Nothing here waits, so one thread may serve any number of requests."""

    def __init__(self, settings: Settings, *, clock: Clock = time.monotonic, wall_clock: Clock = time.time) -> None:
        self._clock = clock
        self.settings = settings
        self.limits = RateLimits(settings.limits, clock=clock, wall_clock=wall_clock)
        self.books = Books(clock=clock)
        self._batches = Batches(self._finish, clock=clock, wall_clock=wall_clock)
        self._judge = _load(settings.judge)
        self._num_seen: Counter[bytes] = Counter()  # how often this very request was made: a retry has its own luck
        self._storm_set_at = clock()

    def change(self, settings: Settings) -> None:
        """From now on the server behaves like this; the books go on."""
        if settings.limits != self.settings.limits:
            self.limits.change(settings.limits)
        if settings.storm != self.settings.storm:
            self._storm_set_at = self._clock()
        if settings.judge != self.settings.judge:
            self._judge = _load(settings.judge)
        self.settings = settings

    def respond(self, call: Call) -> Response:
        """What this request gets."""
        keys = (call.headers.get("x-api-key"), call.headers.get("authorization", "").removeprefix("Bearer "))
        if self.settings.api_key not in keys:
            return Response(reply=error(401, "authentication_error", "invalid x-api-key"))
        try:
            if (call.method, call.path) == ("POST", "/v1/messages"):
                return self._message(call)
            return self._batch_call(call)
        except Refused as refused:
            return Response(reply=refused.reply)

    def _message(self, call: Call) -> Response:
        body = parsed(call, self.settings.max_message_bytes)
        if problem := problem_with(body):
            raise invalid(problem)
        asked = judging.read_questions(body)
        self.books.ask(asked.digests)
        self._check_storm()
        if self.settings.prices is not None and asked.model not in self.settings.prices:
            raise Refused(error(404, "not_found_error", f"model: {asked.model}"))
        self._check_spend()
        if refusal := self.limits.admit(asked.input_tokens):
            self.books.refuse(refusal.limit)
            raise Refused(rate_limited(refusal))
        self.books.tick("served")
        stream = self._luck(call)
        fault = self._fault((*BEFORE_WORK, *ON_THE_WAY_BACK, *IN_REPLY, *(IN_PACK if asked.is_pack else ())), stream)
        if fault in BEFORE_WORK_REPLIES:
            return Response(reply=BEFORE_WORK_REPLIES[fault], latency_s=latency_s(self.settings, stream))
        answer = judging.answer(asked, self._judge, fault, stream)
        self.books.num_served += 1
        spoilt_on_the_way = fault in ON_THE_WAY_BACK and fault != "slow"

        def settle() -> None:
            self.limits.produced(answer.output_tokens)
            self._bill(asked, answer, is_lost=spoilt_on_the_way)

        return Response(
            reply=Reply(body=message_json(asked, answer, self.books.num_served)),
            latency_s=latency_s(self.settings, stream) + (self.settings.slow_s if fault == "slow" else 0.0),
            fault=fault if fault in ON_THE_WAY_BACK else None,
            settle=settle,
        )

    def _batch_call(self, call: Call) -> Response:
        name, batch_id = endpoint_of(call)
        self.books.batch_calls[name] += 1
        self._check_storm()
        if name == "create":
            self._check_spend()
        stream = self._luck(call)
        fault = self._fault((*BEFORE_WORK, *(AT_A_BATCH if batch_id else ()), *ON_THE_WAY_BACK), stream)
        if fault in BEFORE_WORK_REPLIES:
            return Response(reply=BEFORE_WORK_REPLIES[fault])
        if name == "create" and self.books.batch_calls[name] <= self.settings.lost_batch_creates:
            fault = "lost"
        return Response(
            reply=self._batch_reply(name, batch_id, call),
            latency_s=self.settings.slow_s if fault == "slow" else 0.0,
            fault=fault,
        )

    def _batch_reply(self, name: str, batch_id: str, call: Call) -> Reply:
        match name:
            case "create":
                batch = self._batches.create(parsed(call, self.settings.max_batch_bytes), self.settings)
                for _, params in batch.requests:
                    if problem_with(params) is None:
                        self.books.ask(judging.read_questions(params).digests)
            case "list":
                return Reply(body=self._batches.page(call.query, call.base_url, self.settings))
            case "results":
                lines = "".join(f"{line}\n" for line in self._batches.results(batch_id))
                return Reply(body=lines, headers=JSON_LINES)
            case "cancel":
                batch = self._batches.cancel(batch_id)
            case _:
                batch = self._batches.poll(batch_id, self.settings)
        return Reply(body=batch.to_json(call.base_url))

    def _finish(self, number: int, position: int, params: Json) -> Json:
        """The result of one item of a batch."""
        stream = chance(self.settings.seed, "item", number, position)
        kinds = {
            "overloaded": ("overloaded_error", "Overloaded"),
            "server_error": ("api_error", "Internal server error"),
            "invalid_request": ("invalid_request_error", "messages: the item is said to be invalid"),
        }
        outcome = struck_by(self.settings.batch_faults, (*kinds, "expired", "canceled"), stream)
        if outcome in ("expired", "canceled"):
            return {"type": outcome}
        problem = problem_with(params)
        kind, text = ("invalid_request_error", problem) if problem else kinds.get(outcome or "", (None, ""))
        if kind is not None:
            return {"type": "errored", "error": error(400, kind, text).body}
        asked = judging.read_questions(params)
        fault = self._fault((*IN_REPLY, *(IN_PACK if asked.is_pack else ())), stream)
        answer = judging.answer(asked, self._judge, fault, stream)
        self.books.num_served += 1
        self._bill(asked, answer, in_batch=True)
        return {"type": "succeeded", "message": message_json(asked, answer, self.books.num_served)}

    def _check_storm(self) -> None:
        """Raises `Refused` while a storm lasts."""
        storm = self.settings.storm
        if storm is not None and 0 <= self._clock() - self._storm_set_at - storm.start_s < storm.duration_s:
            self.books.faults["storm"] += 1
            raise Refused(overloaded())

    def _check_spend(self) -> None:
        """Raises `Refused` once the budget is spent."""
        cap_requests, cap_usd = self.settings.spend_cap_requests, self.settings.spend_cap_usd
        is_spent = cap_requests is not None and self.books.num_served >= cap_requests
        if is_spent or (cap_usd is not None and self.books.billed_usd >= cap_usd):
            self.books.faults["spend_cap"] += 1
            raise Refused(spend_cap())

    def _luck(self, call: Call) -> random.Random:
        request = hashlib.sha256(f"{call.method} {call.path}?{sorted(call.query.items())}\n".encode() + call.body)
        key = request.digest()[:16]
        self._num_seen[key] += 1
        return chance(self.settings.seed, key, self._num_seen[key])

    def _fault(self, possible: tuple[str, ...], stream: random.Random) -> str | None:
        fault = struck_by(self.settings.faults, possible, stream)
        if fault is not None:
            self.books.faults[fault] += 1
        return fault

    def _bill(self, asked: Asked, answer: Answer, *, is_lost: bool = False, in_batch: bool = False) -> None:
        if not is_lost:
            self.books.answered(answer.answered)
        self.books.bill(
            (self.settings.prices or {}).get(asked.model),
            input_tokens=asked.input_tokens,
            output_tokens=answer.output_tokens,
            in_batch=in_batch,
        )


def _load(path: str) -> Judge:
    module, name = path.split(":")
    judge = getattr(importlib.import_module(module), name)
    made: Judge = judge() if isinstance(judge, type) else judge
    return made
