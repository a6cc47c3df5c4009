"""The judge that is a Claude model, asked over Message Batches: half the price, and answers within a day.

Questions become batches, batches are looked at until they end, and what they bring becomes verdicts. The ledger knows
every batch before it is sent, so a job that is killed at any instant goes on with the batches that it has paid for.
Source: https://platform.claude.com/docs/en/build-with-claude/batch-processing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic

from evalgen.errors import GraderUnavailable
from evalgen.grading.batch_api import Batch, BatchesApi, BatchSettings, Result, batch_request
from evalgen.grading.batch_ledger import BatchLedger, PlannedBatch
from evalgen.grading.batch_outcomes import Outcome, outcome_of_item
from evalgen.grading.batch_progress import BatchProgress, BatchTotals
from evalgen.grading.connection import connect
from evalgen.grading.messages import MAX_ASKS, MAX_TOKENS
from evalgen.grading.prices import BATCH_DISCOUNT, PriceList
from evalgen.grading.question_text import template_digest
from evalgen.grading.spending import Spending
from evalgen.records import Answer, Question
from evalgen.verdict_store import VerdictStore

MAX_LOSSES = 3  # how often a question whose batch brought no reply to it is asked again
RESULTS_KEPT_S = 29 * 24 * 3600.0
FIRST_PAUSE_S = 1.0  # between looks at the batches; then twice as long each time, up to `BatchSettings.poll_s`
ADDED_AT_ONCE = 1000  # verdicts of earlier experiments that are made durable together
REQUEST_TIMEOUT_S = 600.0  # a batch may be 200 MB

logger = logging.getLogger(__name__)


def grade_in_batches(
    questions: Iterable[Question],
    verdicts: VerdictStore,
    directory: Path,
    *,
    prices: PriceList,
    progress: Callable[[BatchProgress], None],
    spending: Spending | None = None,
    settings: BatchSettings | None = None,
) -> None:
    """Asks every distinct question that `verdicts` does not know; returns when each has a verdict there.

    `questions` is read once, no further than the batch that is sent next. Called again with the same questions, in
    any order, it goes on with what an earlier call left in `directory`. A request in a batch counts as one API call.

    Raises:
        GraderUnavailable: the judge refuses every question: bad key, no permission, unknown model, spend cap.
        JobStopped: the API failed for all of the retry budget.
        GradingBudgetSpent: no question may be paid for any more, by `spending`.
    """
    settings = settings or BatchSettings()

    async def grade() -> None:
        with closing(BatchLedger(directory)) as ledger:
            async with connect(REQUEST_TIMEOUT_S) as client:
                api = BatchesApi(client, ledger, settings)
                await _BatchGrader(api, ledger, verdicts, prices, progress, spending, settings).run(questions)

    asyncio.run(grade())


class _BatchGrader:
    """Takes questions to batches and results to verdicts, until no question is left."""

    def __init__(
        self,
        api: BatchesApi,
        ledger: BatchLedger,
        verdicts: VerdictStore,
        prices: PriceList,
        progress: Callable[[BatchProgress], None],
        spending: Spending | None,
        settings: BatchSettings,
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._verdicts = verdicts
        self._prices = prices
        self._progress = progress
        self._spending = spending
        self._settings = settings
        self._planned: set[int] = set()  # the numbers of the batches of this process
        self._again: deque[Question] = deque()  # to be asked before any new question
        self._num_processing: dict[int, int] = {}  # questions, by the batch's number
        self._num_ended = 0
        self._totals = BatchTotals()
        self._num_known = 0
        self._is_held_back = False
        self._not_found_since: dict[int, float] = {}  # of `_waited_s`, by the batch's number
        self._waited_s = 0.0

    async def run(self, questions: Iterable[Question]) -> None:
        await self._take_over()
        due = self._due(questions, set(self._ledger.settled_keys()))
        pause_s = min(FIRST_PAUSE_S, self._settings.poll_s)  # a small batch may end in seconds
        while True:
            self._is_held_back = not await self._send_all(due) or bool(self._again)
            for batch in self._ledger.open:
                if batch.id is not None:
                    await self._look_at(batch)
                # No more than a batch of questions waits in memory to be asked again.
                if len(self._again) >= self._settings.max_requests and not await self._send_all(iter(())):
                    break
            self._progress(self._so_far())
            if not self._ledger.open and not self._again:
                return
            if self._ledger.open:
                await self._settings.sleep(pause_s)
                self._waited_s += max(pause_s, 1.0)
                pause_s = min(2 * pause_s, self._settings.poll_s)

    async def _take_over(self) -> None:
        """Goes on with the batches that an earlier part of the job left open."""
        if self._spending is not None:
            self._spending.take_over({batch.number: self._most_usd_of(batch) for batch in self._ledger.open})
            self._spending.write_down()
        for batch in self._ledger.open:
            if batch.id is None:
                await self._look_for(batch)
        digest, sent = template_digest(), map(self._ledger.questions, self._ledger.open)
        if num_outdated := sum(it.grader.template_digest != digest for batch in sent for it in batch.values()):
            logger.warning(
                "%d questions of batches that were begun before are in the words of another version of evalgen: they "
                "are paid for all the same, and asked anew in the words of this one",
                num_outdated,
            )

    async def _look_for(self, batch: PlannedBatch) -> bool:
        """Whether a batch that an earlier part of the job planned may have arrived. If not, it is not sent any more.

        Its questions may be others' than today's, or more than may be paid for today: those still due are planned anew.
        """
        found = await self._api.find(batch)
        if isinstance(found, Batch):
            self._note_created(batch, found)
        elif found is None:
            if self._spending is not None:
                self._spending.settle(batch.number, 0.0)
                self._spending.write_down()
            self._ledger.ended(batch, malformed=[], lost=[], given_up=[])
        return found is not None

    def _due(self, questions: Iterable[Question], seen: set[bytes]) -> Iterator[Question]:
        """The distinct questions that must be sent, without those whose keys are `seen`.

        What earlier experiments paid for becomes an answer of this one.
        """
        known: list[Answer] = []
        for question in questions:
            grader = question.grader
            assert grader.is_in_batches and grader.num_votes == grader.pack_size == 1, grader
            key = bytes.fromhex(question.key)
            if key in seen:
                continue
            seen.add(key)
            verdict = self._verdicts.known(question)
            if verdict is None:
                yield question
                continue
            known.append(Answer(question=question, verdict=verdict.unpaid(), from_cache=True))
            if self._verdicts.kind(question) in (None, "ungraded"):
                self._totals.note_answer(known[-1])
            else:
                self._num_known += 1
            if len(known) == ADDED_AT_ONCE:
                self._verdicts.add(known)
                known = []
        self._verdicts.add(known)

    async def _send_all(self, due: Iterator[Question]) -> bool:
        """False: the queue at the server is full, and some may be left."""
        for batch in self._ledger.open:
            if batch.id is None and batch.number not in self._planned:
                questions = self._ledger.questions(batch).values()
                if not await self._look_for(batch):
                    self._again += questions
            elif batch.id is None and not await self._send(batch):
                return False
        while True:
            chunk, most_usd = self._next_chunk(due)
            if not chunk:
                return True
            chosen, requests = zip(*chunk, strict=True)
            batch = self._ledger.plan(chosen)
            self._planned.add(batch.number)
            if self._spending is not None:
                self._spending.reserve(batch.number, most_usd)
                self._spending.write_down()
            if not await self._send(batch, requests):
                return False

    async def _send(self, batch: PlannedBatch, requests: Sequence[Any] | None = None) -> bool:
        created = await self._api.send(batch, requests)
        if isinstance(created, Batch):
            self._note_created(batch, created)
        return created != "refused"

    def _note_created(self, batch: PlannedBatch, created: Batch) -> None:
        self._ledger.created(batch, created.id)
        self._num_processing[batch.number] = created.request_counts.processing
        logger.info("batch %s: %d questions are sent", created.id, batch.num_questions)

    def _next_chunk(self, due: Iterator[Question]) -> tuple[list[tuple[Question, dict[str, Any]]], float]:
        """The questions of the next batch and their requests, and what they cost at most in USD.

        There are none where no question is left, or none may be paid for before a batch ends.
        """
        chunk: list[tuple[Question, dict[str, Any]]] = []
        num_bytes, most_usd = 0, 0.0
        while len(chunk) < self._settings.max_requests:
            question = self._again.popleft() if self._again else next(due, None)
            if question is None:
                break
            request = batch_request(question)
            size, price = _num_bytes(request), self._most_usd(question, request)
            is_too_large = bool(chunk) and num_bytes + size > self._settings.max_bytes
            if is_too_large or not self._may_cost(most_usd + price, bool(chunk)):
                self._again.appendleft(question)
                break
            chunk.append((question, request))
            num_bytes += size
            most_usd += price
        return chunk, most_usd

    def _most_usd(self, question: Question, request: Mapping[str, Any]) -> float:
        return BATCH_DISCOUNT * self._prices.most_usd(question.grader.api_model, _num_bytes(request), MAX_TOKENS)

    def _most_usd_of(self, batch: PlannedBatch) -> float:
        """Of an open batch, whose questions may be several judges'."""
        questions = self._ledger.questions(batch).values()
        return sum(self._most_usd(question, batch_request(question)) for question in questions)

    def _may_cost(self, usd: float, is_for_more: bool) -> bool:
        """`is_for_more`: there is a smaller batch already, so that it is not the end if this does not fit."""
        if self._spending is None:
            return True
        return self._spending.has_room_for(usd) if is_for_more else self._spending.fits(usd)

    async def _look_at(self, batch: PlannedBatch) -> None:
        """Stores what a batch brought, if it has ended."""
        try:
            state = await self._api.look_at(batch)
            self._num_processing[batch.number] = state.request_counts.processing
            self._not_found_since.pop(batch.number, None)
            if not state.has_ended:
                return
            results = await self._api.results(batch) if state.results_url is not None else {}
        except anthropic.NotFoundError:
            self._not_found_since.setdefault(batch.number, self._waited_s)
            if not self._is_gone(batch):
                return
            results = {}
        if not results:
            logger.warning("batch %s: its results are gone; its questions are asked again", batch.id)
        self._settle(batch, results)

    def _is_gone(self, batch: PlannedBatch) -> bool:
        """Whether a batch that was not found is not there: at once if it is old, else as patiently as any failure."""
        not_found_s = self._waited_s - self._not_found_since[batch.number]
        return not_found_s >= self._settings.retry_budget_s or time.time() - batch.planned_at > RESULTS_KEPT_S

    def _settle(self, batch: PlannedBatch, results: Mapping[str, Result]) -> None:
        """Stores what a batch cost, its verdicts, and that it has ended: killed in between, it stores the same again.

        Raises:
            GraderUnavailable: some item says that no question will be answered. All else is stored.
        """
        assert batch.id is not None, batch
        answers: list[Answer] = []
        without: dict[str, list[str]] = {"malformed": [], "lost": [], "given_up": []}
        refusal: GraderUnavailable | None = None
        for key, question in self._ledger.questions(batch).items():
            outcome = outcome_of_item(question, results.get(key), self._prices)
            refusal = refusal or outcome.refusal
            self._totals.note_item(question.grader.model, outcome)
            outcome = self._final(key, outcome)
            if outcome.fate in without:
                without[outcome.fate].append(key)
            answers.append(Answer(question=question, verdict=outcome.verdict, answer_id=batch.id))
            if outcome.fate in ("malformed", "lost"):
                self._again.append(question)
                is_first_time = not self._ledger.num_malformed(key) + self._ledger.num_lost(key)
                self._totals.asked_again[question.grader.model] += is_first_time
            elif outcome.fate != "refused":
                self._totals.note_answer(answers[-1])
        if self._spending is not None:  # first: from stored verdicts nobody could tell whether they were counted
            costs = [answer.verdict.cost_usd or 0.0 for answer in answers]
            # Results that are not there may have been charged for.
            self._spending.settle_batch(batch.number, None if len(results) < batch.num_questions else sum(costs))
        self._verdicts.add(answers)
        self._ledger.ended(batch, malformed=without["malformed"], lost=without["lost"], given_up=without["given_up"])
        self._num_ended += 1
        num_graded = sum(answer.verdict.kind != "ungraded" for answer in answers)
        logger.info("batch %s has ended: %d of %d questions have verdicts", batch.id, num_graded, batch.num_questions)
        if refusal is not None:
            raise refusal

    def _final(self, key: str, outcome: Outcome) -> Outcome:
        """`outcome`, given up if the question was asked often enough."""
        if outcome.fate == "malformed" and self._ledger.num_malformed(key) + 1 >= MAX_ASKS:
            reason = f"asked {MAX_ASKS} times without a usable reply"
        elif outcome.fate == "lost" and self._ledger.num_lost(key) + 1 > MAX_LOSSES:
            reason = f"asked in {MAX_LOSSES + 1} batches without a reply"
        else:
            return outcome
        verdict = replace(outcome.verdict, error=f"{reason}; the last: {outcome.verdict.error}")
        return replace(outcome, fate="given_up", verdict=verdict)

    def _so_far(self) -> BatchProgress:
        planned_at = [batch.planned_at for batch in self._ledger.open if batch.id is not None]
        return BatchProgress(
            num_batches=len(self._num_processing),
            num_ended=self._num_ended,
            num_processing=sum(self._num_processing.values()),
            oldest_age_s=max(0.0, time.time() - min(planned_at)) if planned_at else None,
            num_waiting=sum(batch.num_questions for batch in self._ledger.open) + len(self._again),
            num_known=self._num_known,
            is_held_back=self._is_held_back,
            totals=deepcopy(self._totals),
        )


def _num_bytes(request: Mapping[str, Any]) -> int:
    return len(json.dumps(request, ensure_ascii=False).encode())
