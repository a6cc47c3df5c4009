"""The judge that is a Claude model, asked over the Messages API one question at a time.

A question gets a verdict, or is `ungraded` with its reason, or stops the job: a reply that cannot be read is
never taken for "not equivalent", and a transient failure is waited out within a budget of time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import anthropic
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential
from tenacity.wait import wait_base

from evalgen.errors import GraderUnavailable, GradingError
from evalgen.grading.claude_errors import describe, is_transient, retry_after_s, unavailable
from evalgen.grading.messages import message_params, model_name, read_message, verdict_in
from evalgen.grading.prices import cost_usd
from evalgen.grading.rate_limiter import RequestLimiter
from evalgen.records import Question, Verdict

MAX_ASKS = 2  # how often one question is asked before an unreadable reply leaves it ungraded

logger = logging.getLogger(__name__)


class ClaudeGrader:
    """Judges questions whose grader is `anthropic/<model>`; any number at once, on one event loop."""

    def __init__(
        self,
        *,
        limiter: RequestLimiter,
        retry_budget_s: float = 900.0,
        request_timeout_s: float = 120.0,
        backoff: wait_base | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Every HTTP request holds a lease of `limiter` while it lasts.

        `retry_budget_s` bounds what one question spends on requests and on the waits between them. Its time
        in the limiter's queue does not count, as that grows with the job and not with the trouble. `backoff`
        is added to the server's `retry-after`. Raises `GraderUnavailable` if there is no usable key.
        """
        self._client = connect(request_timeout_s)
        self._limiter = limiter
        self._retry_budget_s = retry_budget_s
        self._backoff = backoff or wait_random_exponential(multiplier=1, max=60)
        self._sleep = sleep

    async def grade(self, question: Question) -> Verdict:
        """The verdict, `ungraded` with its error if this question gets none.

        Raises `GraderUnavailable` if no question can: bad key, no permission, unknown model, spend cap.
        """
        spent = _Spent(model=model_name(question))
        try:
            return spent.on(await self._ask(question, spent))
        except GradingError as error:
            return spent.on(Verdict(kind="ungraded", error=str(error)))

    async def aclose(self) -> None:
        """Close the connections. The grader cannot be used afterwards."""
        await self._client.close()

    async def _ask(self, question: Question, spent: _Spent) -> Verdict:
        """Raises `GradingError` when the API fails for good or no reply can be read."""
        for ask in range(1, MAX_ASKS + 1):
            body = await self._request(question, spent)
            try:
                message = read_message(body)
                spent.input_tokens += message.usage.input_tokens
                spent.output_tokens += message.usage.output_tokens
                return verdict_in(message, question)
            except GradingError as error:
                logger.info("question %s, reply %d is unusable: %s", question.key[:8], ask, error)
                last_error = error
        raise GradingError(f"asked {MAX_ASKS} times without a usable reply; the last: {last_error}")

    async def _request(self, question: Question, spent: _Spent) -> bytes:
        """The body of the first successful response; transient failures are retried within the budget."""

        def wait_s(state: RetryCallState) -> float:
            assert state.outcome is not None
            return retry_after_s(state.outcome.exception()) + float(self._backoff(state))

        async def pause(seconds: float) -> None:
            spent.seconds += seconds
            await self._sleep(seconds)

        retrying = AsyncRetrying(
            retry=retry_if_exception(is_transient),
            wait=wait_s,
            stop=lambda state: spent.seconds + state.upcoming_sleep > self._retry_budget_s,
            sleep=pause,
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            return await retrying(self._send, question, spent)
        except anthropic.AnthropicError as error:
            # Not chained: the SDK's error holds the request, and the request's headers hold the key.
            raise unavailable(error, spent.model) or GradingError(describe(error)) from None

    async def _send(self, question: Question, spent: _Spent) -> bytes:
        """One HTTP request. Returns the raw body, for the SDK would build a message of any JSON whatever."""
        lease = await self._limiter.acquire()
        started_at = time.monotonic()
        try:
            spent.api_calls += 1
            response = await self._client.messages.with_raw_response.create(**message_params(question))
            body: bytes = await response.read()
            return body
        finally:
            spent.seconds += time.monotonic() - started_at
            await self._limiter.release(lease)


def connect(request_timeout_s: float) -> anthropic.AsyncAnthropic:
    """A client from the SDK's own environment, without its retries: ours tell a spend cap from a rate limit.

    Sends nothing. Raises `GraderUnavailable` where no request could ever be sent, so a driver can call it
    before any work is done.
    """
    try:
        client = anthropic.AsyncAnthropic(max_retries=0, timeout=request_timeout_s)
    except anthropic.AnthropicError as error:
        name = type(error).__name__
        raise GraderUnavailable(f"the anthropic SDK cannot load its credentials ({name})") from None
    headers = {name.lower(): value for name, value in client.default_headers.items()}
    if client.credentials is None and not headers.keys() & {"authorization", "x-api-key"}:
        raise GraderUnavailable("no API key for the grader: set ANTHROPIC_API_KEY")
    if client.api_key is not None and not all("!" <= char <= "~" for char in client.api_key):
        raise GraderUnavailable("ANTHROPIC_API_KEY holds a space, a line break or another stray character")
    if client.base_url.scheme not in ("http", "https"):
        raise GraderUnavailable(f"ANTHROPIC_BASE_URL is no http or https address: {str(client.base_url)!r}")
    return client


@dataclass(kw_only=True)
class _Spent:
    """What one question has cost so far, over all its requests."""

    model: str
    api_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0  # in requests and in waits between them

    def on(self, verdict: Verdict) -> Verdict:
        """`verdict` with its costs filled in."""
        return replace(
            verdict,
            api_calls=self.api_calls,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cost_usd=cost_usd(self.model, self.input_tokens, self.output_tokens),
        )


def _log_retry(state: RetryCallState) -> None:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, anthropic.AnthropicError)
    logger.info("%s; request %d in %.1f s", describe(error), state.attempt_number + 1, state.upcoming_sleep)
