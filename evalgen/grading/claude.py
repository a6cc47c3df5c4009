"""The judge that is a Claude model, asked over the Messages API.

A question gets a verdict, or is `ungraded` with its reason, or stops the job: a reply that cannot be read is
never taken for "not equivalent", and a transient failure is waited out within a budget of time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anthropic
import httpx2
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential
from tenacity.wait import wait_base

from evalgen.errors import GradingError
from evalgen.grading.claude_errors import describe, is_transient, outcome_of, retry_after_s, unavailable
from evalgen.grading.connection import connect
from evalgen.grading.leases import Leases
from evalgen.grading.limiter_records import Demand, Outcome, RequestLimiter
from evalgen.grading.messages import (
    MAX_ASKS,
    Message,
    NotAMessage,
    message_params,
    pack_params,
    read_message,
    verdict_in,
    verdicts_in_pack,
)
from evalgen.grading.prices import PriceList
from evalgen.grading.rate_limiter import LONGEST_HOLD_S
from evalgen.grading.server_limits import announced_limits
from evalgen.grading.together import together
from evalgen.grading.votes import majority
from evalgen.records import Answer, Question, Verdict

logger = logging.getLogger(__name__)


Store = Callable[[Sequence[Answer]], Awaitable[None]]


class ClaudeGrader:
    """Judges questions whose grader is `anthropic/<model>`; any number at once, on one event loop."""

    def __init__(
        self,
        *,
        limiter: RequestLimiter,
        holder: str = "",
        prices: PriceList | None = None,
        retry_budget_s: float = 900.0,
        request_timeout_s: float = 120.0,
        backoff: wait_base | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Every HTTP request holds a lease of `limiter` while it lasts, as `holder`.

        `retry_budget_s` bounds what one question spends on requests and on the waits between them. Its time
        in the limiter's queue does not count, as that grows with the job and not with the trouble. `backoff`
        is added to the server's `retry-after`. Raises `GraderUnavailable` if there is no usable key.
        """
        self._client = connect(request_timeout_s)
        self._leases = Leases(limiter, holder)
        self._prices = prices or PriceList()
        self._retry_budget_s = retry_budget_s
        self._backoff = backoff or wait_random_exponential(multiplier=1, max=60)
        self._sleep = sleep

    async def grade(
        self,
        questions: Sequence[Question],
        store: Store | None = None,
        given: Sequence[Sequence[Verdict]] | None = None,
    ) -> list[Verdict]:
        """Verdicts in the order of `questions`, which go in one request: see `evalgen.grading.desk.packs`.

        Each is asked as often as its grader has votes, less those that were `given` to it before. A question that
        gets no verdict is `ungraded` with its error. `store` gets each as soon as it is there; with several votes
        each vote, with what it cost, and after the last the verdict, which costs nothing more.

        Raises:
            GraderUnavailable: no question gets one: bad key, no permission, unknown model, spend cap, outage.
            GradingBudgetSpent: nothing may be paid for any more.
        """
        store = store or _nowhere
        if questions[0].grader.num_votes == 1:
            return await self._grade_once(questions, store)
        verdicts = await self._vote(questions, store, given or [()] * len(questions))
        await store(_answers(questions, [verdict.unpaid() for verdict in verdicts]))
        return verdicts

    async def _vote(
        self, questions: Sequence[Question], store: Store, given: Sequence[Sequence[Verdict]]
    ) -> list[Verdict]:
        async def store_votes(answers: Sequence[Answer]) -> None:
            await store([replace(answer, is_vote=True) for answer in answers])

        num_votes = questions[0].grader.num_votes
        votes = {question.key: list(some[:num_votes]) for question, some in zip(questions, given, strict=True)}
        async with together() as group:
            rounds = []
            for number in range(num_votes):
                if asked := [question for question in questions if len(votes[question.key]) <= number]:
                    rounds.append((asked, group.create_task(self._grade_once(asked, store_votes))))
        for asked, answered in rounds:
            for question, vote in zip(asked, answered.result(), strict=True):
                votes[question.key].append(vote)
        return [majority(votes[question.key]) for question in questions]

    async def aclose(self) -> None:
        """Close the connections. The grader cannot be used afterwards."""
        await self._leases.aclose()
        await self._client.close()

    async def _grade_once(self, questions: Sequence[Question], store: Store) -> list[Verdict]:
        spent = _Spent(model=questions[0].grader.api_model)
        if len(questions) == 1:
            return [await self._grade_one(questions[0], spent, store)]
        params = pack_params(questions)
        try:
            verdicts = verdicts_in_pack(await self._request(params, questions, spent), questions)
        except GradingError as error:
            logger.info("%d questions in one request: %s; asked one by one", len(questions), error)
            verdicts = {}
        share_of = dict(zip((question.key for question in questions), spent.shares(len(questions)), strict=True))
        graded = [question for question in questions if question.key in verdicts]
        verdicts = {question.key: self._paid(verdicts[question.key], share_of[question.key]) for question in graded}
        if graded:
            await store(_answers(graded, verdicts.values()))
        missing = [question for question in questions if question.key not in verdicts]
        async with together() as group:
            singles = {it.key: group.create_task(self._grade_one(it, share_of[it.key], store)) for it in missing}
        verdicts |= {key: single.result() for key, single in singles.items()}
        return [verdicts[question.key] for question in questions]

    async def _grade_one(self, question: Question, spent: _Spent, store: Store) -> Verdict:
        """`spent` is what it has cost already."""
        try:
            verdict = await self._ask(question, spent)
        except GradingError as error:
            verdict = Verdict(kind="ungraded", error=str(error))
        verdict = self._paid(verdict, spent)
        await store(_answers([question], [verdict]))
        return verdict

    def _paid(self, verdict: Verdict, spent: _Spent) -> Verdict:
        return replace(
            verdict,
            api_calls=spent.api_calls,
            input_tokens=spent.input_tokens,
            output_tokens=spent.output_tokens,
            cost_usd=self._prices.cost_usd(spent.model, spent.input_tokens, spent.output_tokens),
        )

    async def _ask(self, question: Question, spent: _Spent) -> Verdict:
        """Raises `GradingError` when the API fails for good or no reply can be read."""
        params = message_params(question)
        for ask in range(1, MAX_ASKS + 1):
            try:
                return verdict_in(await self._request(params, [question], spent), question)
            except _RefusedForGood as error:
                raise GradingError(str(error)) from None
            except GradingError as error:
                logger.info("question %s, reply %d is unusable: %s", question.key[:8], ask, error)
                last_error = error
        raise GradingError(f"asked {MAX_ASKS} times without a usable reply; the last: {last_error}")

    async def _request(self, params: dict[str, Any], questions: Sequence[Question], spent: _Spent) -> Message:
        """The first message that comes back; transient failures are retried within the budget.

        Raises:
            _RefusedForGood: there was none, and it is of no use to ask again.
        """

        def wait_s(state: RetryCallState) -> float:
            remaining_s = max(0.0, self._retry_budget_s - spent.seconds)  # the budget's last second sees a request
            return _told_to_wait_s(state) + min(float(self._backoff(state)), remaining_s)

        def is_over(state: RetryCallState) -> bool:
            # What the server asks for is no failure; should it never end, the limiter stops the job.
            is_used_up = spent.seconds >= self._retry_budget_s
            spent.seconds += state.upcoming_sleep - _told_to_wait_s(state)
            return is_used_up

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: is_transient(error) or isinstance(error, NotAMessage)),
            wait=wait_s,
            stop=is_over,
            sleep=self._sleep,
            before_sleep=_log_retry,
            reraise=True,
        )
        body = json.dumps(params, ensure_ascii=False).encode()
        demand = Demand(
            topic=questions[0].key,
            grader=questions[0].grader.model,
            num_bytes=len(body),
            num_questions=len(questions),
            most_usd=self._prices.most_usd(spent.model, len(body), params["max_tokens"]),
        )
        try:
            return await retrying(self._send, body, demand, spent)
        except NotAMessage as error:
            raise _RefusedForGood(str(error)) from None
        except anthropic.AnthropicError as error:
            # Not chained: the SDK's error holds the request, and the request's headers hold the key.
            raise unavailable(error, spent.model) or _RefusedForGood(describe(error)) from None

    async def _send(self, body: bytes, demand: Demand, spent: _Spent) -> Message:
        """One HTTP request, read from its raw body: the SDK would build a message of any JSON whatever.

        It is written by us too: for a body that is ready the SDK takes a quarter less CPU than in `messages.create`.
        """
        lease = await self._leases.acquire(demand)
        outcome = Outcome(lease=lease, kind="abandoned", cost_usd=None)  # unless we learn better
        started_at = time.monotonic()
        try:
            spent.api_calls += 1
            response = await self._client.post("/v1/messages", cast_to=httpx2.Response, content=body)
            outcome = replace(outcome, kind="answered", limits=announced_limits(response.headers))
            message = read_message(response.content)
            input_tokens, output_tokens = message.usage.all_input_tokens, message.usage.output_tokens
            spent.input_tokens += input_tokens
            spent.output_tokens += output_tokens
            outcome = replace(
                outcome,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cost_usd=self._prices.cost_usd(spent.model, input_tokens, output_tokens),
            )
            return message
        except NotAMessage as error:
            outcome = replace(outcome, kind="failed", error=str(error))
            raise
        except anthropic.AnthropicError as error:
            outcome = outcome_of(error, lease)
            raise
        finally:
            spent.seconds += time.monotonic() - started_at
            self._leases.settle(outcome)


def _told_to_wait_s(state: RetryCallState) -> float:
    """By the server. Where that is longer the limiter has everybody wait, or stops the job: it is asked before."""
    assert state.outcome is not None
    return min(retry_after_s(state.outcome.exception()), LONGEST_HOLD_S)


async def _nowhere(answers: Sequence[Answer]) -> None:
    pass


def _answers(questions: Sequence[Question], verdicts: Iterable[Verdict]) -> list[Answer]:
    return [Answer(question=asked, verdict=verdict) for asked, verdict in zip(questions, verdicts, strict=True)]


class _RefusedForGood(GradingError):
    """The API fails this request, and asking again would not change that."""


@dataclass(kw_only=True)
class _Spent:
    """What a request has cost so far, over all its attempts."""

    model: str
    api_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0  # in requests and in waits between them

    def shares(self, num_questions: int) -> list[_Spent]:
        """The same but for the time, shared evenly among questions; what cannot be shared is the first's."""
        (of_input, more_input), (of_output, more_output) = (
            divmod(tokens, num_questions) for tokens in (self.input_tokens, self.output_tokens)
        )
        other = replace(self, api_calls=0, input_tokens=of_input, output_tokens=of_output, seconds=0.0)
        first = replace(
            other,
            api_calls=self.api_calls,
            input_tokens=of_input + more_input,
            output_tokens=of_output + more_output,
        )
        return [first, *(replace(other) for _ in range(num_questions - 1))]


def _log_retry(state: RetryCallState) -> None:
    assert state.outcome is not None
    error = state.outcome.exception()
    reason = describe(error) if isinstance(error, anthropic.AnthropicError) else error
    logger.info("%s; request %d in %.1f s", reason, state.attempt_number + 1, state.upcoming_sleep)
