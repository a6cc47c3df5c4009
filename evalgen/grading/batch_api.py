"""The requests of the Message Batches API, each with patience for what passes, and what its responses say.

Source: https://platform.claude.com/docs/en/build-with-claude/batch-processing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar

import anthropic
import httpx2
from pydantic import BaseModel, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential
from tenacity.wait import wait_base

from evalgen.errors import JobStopped
from evalgen.grading.batch_ledger import BatchLedger, PlannedBatch
from evalgen.grading.claude_errors import describe, is_transient, retry_after_s, unavailable
from evalgen.grading.messages import message_params
from evalgen.records import Question

MAX_SHORT_RESULTS = 3  # how often results that lack items are fetched before these are taken for lost
CLOCKS_APART_S = 24 * 3600.0  # how far this machine's clock and the API's may disagree

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How batches are sent and waited for."""

    max_requests: int = 10_000  # in one batch; the API takes 100,000
    max_bytes: int = 200 * 2**20  # of one batch's requests as JSON; the API takes 256 MB
    poll_s: float = 30.0  # between looks at the batches, at most
    retry_budget_s: float = 900.0  # what one request to the API spends on failures and the waits between them
    # Added to the server's `retry-after`.
    backoff: wait_base = field(default_factory=lambda: wait_random_exponential(multiplier=1, max=60))
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Counts(BaseModel):
    processing: int
    succeeded: int
    errored: int
    expired: int
    canceled: int

    @property
    def total(self) -> int:
        return self.processing + self.succeeded + self.errored + self.expired + self.canceled


class Batch(BaseModel):
    """The part of the API's `message_batch` that is read."""

    id: str
    processing_status: str
    request_counts: Counts
    created_at: datetime
    results_url: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.processing_status == "ended"


class Page(BaseModel):
    data: list[Batch]
    has_more: bool
    last_id: str | None


class Result(BaseModel):
    type: str
    message: Any = None
    error: Any = None


class Item(BaseModel):
    """One line of a batch's results."""

    custom_id: str
    result: Result


class BrokenResponse(Exception):
    """A response of the API broke off or is none of its own; the same request can succeed later."""


class BatchesApi:
    """The requests that are sent, each with patience for what passes."""

    def __init__(self, client: anthropic.AsyncAnthropic, ledger: BatchLedger, settings: BatchSettings) -> None:
        self._batches = client.messages.batches
        self._ledger = ledger
        self._settings = settings
        self._foreign: set[str] = set()  # batches that are none of ours

    async def find(self, batch: PlannedBatch) -> Batch | Literal["perhaps sent"] | None:
        """A batch that may have arrived; "perhaps sent": some may be this one, which shows when that has ended."""
        keys = self._ledger.questions(batch)
        try:
            return await self._patiently(batch, lambda: self._find(batch, keys))
        except anthropic.NotFoundError as error:
            raise self._stopped(error, batch) from None

    async def send(
        self, batch: PlannedBatch, requests: Sequence[Any] | None = None
    ) -> Batch | Literal["perhaps sent", "refused"]:
        """Sends a batch, unless it has arrived already; `requests` are given of a new one, which cannot have.

        "perhaps sent" is as from `find`. "refused": the queue at the server is full, of batches of ours among others.
        """
        may_be_there = requests is None
        sent = requests or [batch_request(question) for question in self._ledger.questions(batch).values()]

        async def attempt() -> Batch | Literal["perhaps sent", "refused"]:
            nonlocal may_be_there
            if may_be_there and (found := await self._find(batch, [request["custom_id"] for request in sent])):
                return found
            may_be_there = True  # for a request that fails may have arrived
            try:
                response = await self._batches.with_raw_response.create(requests=sent)
            except anthropic.RateLimitError as error:
                if unavailable(error, batch.model) or not any(other.id for other in self._ledger.open):
                    raise
                return "refused"
            return _parsed(Batch, await response.read())

        try:
            return await self._patiently(batch, attempt)
        except anthropic.NotFoundError as error:
            raise self._stopped(error, batch) from None

    async def look_at(self, batch: PlannedBatch) -> Batch:
        """Raises `anthropic.NotFoundError`: now and then of a batch that exists (anthropic-sdk-python, issue 1432)."""
        batch_id = batch.id
        assert batch_id is not None, batch
        return await self._patiently(batch, lambda: self._retrieve(batch_id))

    async def results(self, batch: PlannedBatch) -> dict[str, Result]:
        """The results by question key; fewer where the API has no more. Raises as `look_at` does."""
        expected, num_short = self._ledger.questions(batch).keys(), 0

        async def attempt() -> dict[str, Result]:
            nonlocal num_short
            assert batch.id is not None, batch
            found: dict[str, Result] = {}
            num_unknown = 0
            async with aclosing(self._items(batch.id)) as items:
                async for item in items:
                    if item.custom_id in expected:
                        found.setdefault(item.custom_id, item.result)
                    else:
                        num_unknown += 1
            if len(found) < len(expected) and num_short < MAX_SHORT_RESULTS - 1:
                num_short += 1
                raise BrokenResponse(f"batch {batch.id} has {len(found)} of {len(expected)} results")
            if num_unknown:
                logger.warning(
                    "batch %s: %d results answer no question of ours, and are ignored", batch.id, num_unknown
                )
            return found

        return await self._patiently(batch, attempt)

    async def _find(self, batch: PlannedBatch, keys: Iterable[str]) -> Batch | Literal["perhaps sent"] | None:
        """The batch at the API that is `batch`, proven by the questions that it answers, as nothing else names it."""
        ours, is_open = set(keys), False
        for listed in await self._candidates(batch):
            try:
                candidate = await self._retrieve(listed.id)
                if not candidate.has_ended:
                    is_open = True
                elif candidate.results_url is not None and await self._answers_only(candidate.id, ours):
                    return candidate
                else:
                    self._foreign.add(candidate.id)
            except anthropic.NotFoundError:
                raise BrokenResponse(f"batch {listed.id} is listed and not found") from None
        return "perhaps sent" if is_open else None

    async def _candidates(self, batch: PlannedBatch) -> list[Batch]:
        since = batch.planned_at - CLOCKS_APART_S
        found: list[Batch] = []
        after: dict[str, Any] = {}
        while True:  # a page of batches, newest first
            response = await self._batches.with_raw_response.list(limit=100, **after)
            page = _parsed(Page, await response.read())
            recent = [other for other in page.data if other.created_at.timestamp() >= since]
            found += [other for other in recent if other.request_counts.total == batch.num_questions]
            if not page.has_more or len(recent) < len(page.data):
                return [other for other in found if other.id not in self._ledger.ids | self._foreign]
            after = {"after_id": page.last_id}

    async def _answers_only(self, batch_id: str, keys: set[str]) -> bool:
        num_items = 0
        async with aclosing(self._items(batch_id)) as items:
            async for item in items:
                if item.custom_id not in keys:
                    return False
                num_items += 1
        return num_items > 0

    async def _retrieve(self, batch_id: str) -> Batch:
        response = await self._batches.with_raw_response.retrieve(batch_id)
        return _parsed(Batch, await response.read())

    async def _items(self, batch_id: str) -> AsyncGenerator[Item]:
        rest = b""
        try:
            async with self._batches.with_streaming_response.results(batch_id) as response:
                async for chunk in response.iter_bytes():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield _parsed(Item, line)
        except httpx2.HTTPError as error:
            raise BrokenResponse(f"the results of batch {batch_id} broke off ({type(error).__name__})") from None
        if rest:
            yield _parsed(Item, rest)

    async def _patiently(self, batch: PlannedBatch, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` returns in the end. Raises `anthropic.NotFoundError` as it comes, all else as `JobStopped`."""
        spent_s = 0.0

        def wait_s(state: RetryCallState) -> float:
            assert state.outcome is not None
            return retry_after_s(state.outcome.exception()) + float(self._settings.backoff(state))

        async def pause(seconds: float) -> None:
            nonlocal spent_s
            spent_s += seconds
            await self._settings.sleep(seconds)

        async def timed() -> T:
            nonlocal spent_s
            started_at = time.monotonic()
            try:
                return await call()
            finally:
                spent_s += time.monotonic() - started_at

        retrying = AsyncRetrying(
            retry=retry_if_exception(_passes),
            wait=wait_s,
            stop=lambda state: spent_s + state.upcoming_sleep > self._settings.retry_budget_s,
            sleep=pause,
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            return await retrying(timed)
        except anthropic.NotFoundError:
            raise
        except (anthropic.AnthropicError, BrokenResponse) as error:
            # Not chained: the SDK's error holds the request, and the request's headers hold the key.
            raise self._stopped(error, batch) from None

    def _stopped(self, error: anthropic.AnthropicError | BrokenResponse, batch: PlannedBatch) -> JobStopped:
        if isinstance(error, anthropic.AnthropicError) and (refusal := unavailable(error, batch.model)):
            return refusal
        at_server = [other for other in self._ledger.open if other.id]
        num_questions = sum(other.num_questions for other in at_server)
        return JobStopped(
            f"the Message Batches API fails: {_describe(error)}. {len(at_server)} batches with {num_questions} "
            "questions go on at the server, which keeps their results for 29 days: --resume picks them up"
        )


def batch_request(question: Question) -> dict[str, Any]:
    return {"custom_id": question.key, "params": message_params(question)}


def _parsed(model: type[M], body: bytes) -> M:
    """Our own reading: the SDK would build its models of any JSON whatever."""
    try:
        return model.model_validate_json(body)
    except ValidationError:
        raise BrokenResponse("a response is not one of the Message Batches API") from None


def _passes(error: BaseException) -> bool:
    return isinstance(error, BrokenResponse) or is_transient(error)


def _describe(error: BaseException) -> str:
    return describe(error) if isinstance(error, anthropic.AnthropicError) else str(error)


def _log_retry(state: RetryCallState) -> None:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    logger.info("%s; request %d in %.1f s", _describe(error), state.attempt_number + 1, state.upcoming_sleep)
