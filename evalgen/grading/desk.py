"""Takes questions and returns verdicts, asking the judge as seldom as it can.

A question is answered from an earlier experiment if one paid for it; equal questions in flight share one answer,
whichever process asks. Completions of one prompt may go in one request, and a question may be put to the vote.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from evalgen.grading.gathering import Gathered
from evalgen.grading.in_vain import AskedInVain
from evalgen.grading.limiter_records import RequestLimiter
from evalgen.grading.messages import MOST_BYTES_OF_A_PACK
from evalgen.grading.offline import grade_offline
from evalgen.grading.presence import say_still_here
from evalgen.grading.prices import PriceList
from evalgen.grading.question_text import num_bytes
from evalgen.grading.shared_verdicts import Claim
from evalgen.grading.together import together
from evalgen.records import Answer, Question, Verdict

if TYPE_CHECKING:
    from evalgen.grading.claude import ClaudeGrader

OFFLINE_QUESTIONS_AT_ONCE = 1000  # then others have a turn
REQUEST_TIMEOUT_S = 120.0  # of one to the judge
LINGER_S = 0.01  # an answer waits so long for others to be stored with it: other questions are asked meanwhile
CLAIMED_AT_ONCE = 200  # in one call, or a pack of more; few enough that another desk gets some of a small job


class Verdicts(Protocol):
    """Where verdicts are kept for the whole job, as `SharedVerdicts`; may live in another process."""

    async def claim(self, questions: Sequence[Question], holder: str) -> list[Claim]: ...

    async def wait(self, questions: Sequence[Question], holder: str) -> list[Claim]: ...

    async def add(self, answers: Sequence[Answer]) -> None: ...

    async def release(self, questions: Sequence[Question]) -> None: ...

    async def still_here(self, holder: str) -> None: ...


class GradingDesk:
    """One per grading process; its questions run concurrently, as far as the limiter lets them."""

    def __init__(
        self,
        verdicts: Verdicts,
        limiter: RequestLimiter,
        max_connections: int,
        prices: PriceList | None = None,
        outage_budget_s: float = 900.0,
    ) -> None:
        """`max_connections` and `outage_budget_s` are the limiter's, of the whole job.

        No more than twice as many requests are at work at once, and the rest wait here.
        """
        self._verdicts, self._limiter, self._prices = verdicts, limiter, prices or PriceList()
        self._answers = Gathered(verdicts.add, LINGER_S)
        self._in_vain = AskedInVain()
        # By two requests longer: the limiter counts from the first failure, and is to stop the job before the last
        # question of it is given up.
        self._retry_budget_s = outage_budget_s + 2 * REQUEST_TIMEOUT_S
        self._holder = uuid.uuid4().hex
        # The judge has as many as there are connections, while others' answers are stored, or wait for leases.
        self._at_work = asyncio.Semaphore(2 * max_connections)
        self._claude: ClaudeGrader | None = None
        self._heartbeat: asyncio.Task[None] | None = None

    async def grade(self, questions: Sequence[Question]) -> list[Verdict]:
        """Verdicts in the order of `questions`.

        Raises:
            JobStopped: the judge refuses every question, is away for too long, or may not be paid for any more.
        """
        distinct = {question.key: question for question in questions}.values()
        judged = [question for question in distinct if not question.grader.is_offline]
        offline = [question for question in distinct if question.grader.is_offline]
        verdicts: dict[str, Verdict] = {}
        await self._grade_offline(offline, verdicts)
        if judged:
            await self._grade_judged(judged, verdicts)
        return [verdicts[question.key] for question in questions]

    async def aclose(self) -> None:
        """Closes the connections to the judge, once all answers are stored. The desk cannot be used afterwards."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        await self._answers.all_handed_on()
        if self._claude is not None:
            await self._claude.aclose()

    async def _grade_offline(self, questions: Sequence[Question], verdicts: dict[str, Verdict]) -> None:
        for some in _batches(questions, OFFLINE_QUESTIONS_AT_ONCE):
            answers = [Answer(question=question, verdict=grade_offline(question)) for question in some]
            await self._verdicts.add(answers)
            verdicts.update((answer.question.key, answer.verdict) for answer in answers)

    async def _grade_judged(self, questions: Sequence[Question], verdicts: dict[str, Verdict]) -> None:
        if self._heartbeat is None:
            self._heartbeat = asyncio.create_task(say_still_here(self._holder, (self._verdicts, self._limiter)))
        async with together() as group:
            asked_by_others: list[Question] = []
            for some in _claimed_together(questions):
                claims = await self._verdicts.claim(some, self._holder)
                asked_by_others += await self._begin(group, some, claims, verdicts)
            while asked_by_others:  # all in one call, which holds nothing up; what they do not ask, this desk does
                claims = await self._verdicts.wait(asked_by_others, self._holder)
                asked_by_others = await self._begin(group, asked_by_others, claims, verdicts)

    async def _begin(
        self,
        group: asyncio.TaskGroup,
        questions: Sequence[Question],
        claims: Sequence[Claim],
        verdicts: dict[str, Verdict],
    ) -> list[Question]:
        """Begins what there is to do about some questions, as they have their turns; returns those that others ask."""
        to_ask, asked_by_others = _sorted(questions, claims, verdicts)
        votes = {question.key: claim.votes for question, claim in zip(questions, claims, strict=True)}
        for pack in packs(to_ask):
            await self._at_work.acquire()  # here, so that few more tasks exist than are at work
            given = [votes[question.key] for question in pack]
            group.create_task(self._ask(pack, given, verdicts)).add_done_callback(lambda _: self._at_work.release())
        return asked_by_others

    async def _ask(
        self, questions: Sequence[Question], given: Sequence[Sequence[Verdict]], verdicts: dict[str, Verdict]
    ) -> None:
        """Asks the judge what this desk has claimed, but for the votes that were given before."""

        async def store(answers: Sequence[Answer]) -> None:
            await asyncio.shield(self._answers.add(answers))
            final = [answer for answer in answers if not answer.is_vote]
            verdicts.update((answer.question.key, answer.verdict) for answer in final)
            self._in_vain.note(final)

        try:
            await self._connected().grade(questions, store, given)
        except BaseException:
            try:
                await self._answers.all_so_far()  # votes among them, which whoever asks now is not to ask for again
            finally:
                await self._verdicts.release([question for question in questions if question.key not in verdicts])
            raise

    def _connected(self) -> ClaudeGrader:
        if self._claude is None:
            from evalgen.grading.claude import ClaudeGrader  # the SDK takes seconds to import

            self._claude = ClaudeGrader(
                limiter=self._limiter,
                holder=self._holder,
                prices=self._prices,
                retry_budget_s=self._retry_budget_s,
                request_timeout_s=REQUEST_TIMEOUT_S,
            )
        return self._claude


def _sorted(
    questions: Sequence[Question], claims: Sequence[Claim], verdicts: dict[str, Verdict]
) -> tuple[list[Question], list[Question]]:
    """Adds the verdicts that there are to `verdicts`; returns what is to be asked, and what others ask."""
    to_ask: list[Question] = []
    asked_by_others: list[Question] = []
    for question, claim in zip(questions, claims, strict=True):
        if claim.verdict is not None:
            verdicts[question.key] = claim.verdict
        else:
            (asked_by_others if claim.is_asked_by_another else to_ask).append(question)
    return to_ask, asked_by_others


def packs(questions: Iterable[Question]) -> Iterator[Sequence[Question]]:
    """Questions that go in one request: about one prompt and reference, no more than their grader takes at once."""
    alike: dict[tuple[object, ...], list[Question]] = {}
    for question in questions:
        grader = question.grader
        key = (
            grader.model,
            grader.instructions,
            grader.num_votes,
            grader.pack_size,
            question.prompt,
            question.reference,
        )
        alike.setdefault(key, []).append(question)
    for group in alike.values():
        pack: list[Question] = []
        bytes_in_pack = 0
        for question in group:
            more = num_bytes(question.completion) if question.grader.pack_size > 1 else 0
            if pack and (len(pack) == question.grader.pack_size or bytes_in_pack + more > MOST_BYTES_OF_A_PACK):
                yield pack
                pack, bytes_in_pack = [], 0
            pack.append(question)
            bytes_in_pack += more
        yield pack


def _claimed_together(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """Whole packs: what cuts one makes a request more."""
    some: list[Question] = []
    for pack in packs(questions):
        if some and len(some) + len(pack) > CLAIMED_AT_ONCE:
            yield some
            some = []
        some += pack
    yield some


def _batches(questions: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    for start in range(0, len(questions), size):
        yield questions[start : start + size]
