"""Lets the graders of all processes ask each question once: who is to ask it, who waits for whose answer.

Pure asyncio, round a `VerdictStore`, for the one process that has it. What a dead grader was to ask, another asks.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evalgen.grading.gathering import Gathered
from evalgen.grading.presence import HEARTBEAT_S, Presence
from evalgen.records import Answer, Question, Verdict, VerdictKind
from evalgen.verdict_store import VerdictStore


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What to do about a question: nothing, here is its verdict; wait, another asks it; or ask the judge."""

    verdict: Verdict | None = None
    is_asked_by_another: bool = False
    votes: Sequence[Verdict] = ()  # to be asked: these were given before, and stored


class SharedVerdicts:
    """The verdicts of a job, and the questions that are being asked."""

    def __init__(self, store: VerdictStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._presence = Presence(clock)
        self._asked: dict[str, _Asked] = {}  # by question key
        self._answers = Gathered(self._write)
        # Since this process began. `told` counts a question each time that its verdict is told to somebody or by
        # somebody, which is about once for each completion that asks it; the others count verdicts that are news.
        self.told: Counter[VerdictKind] = Counter()
        self.answered: Counter[tuple[str, VerdictKind]] = Counter()  # by model of the grader
        self.cached: Counter[str] = Counter()  # by grader: an earlier experiment paid
        self.asked_again: Counter[str] = Counter()  # by grader: questions, or votes on them, that took several requests

    async def claim(self, questions: Sequence[Question], holder: str) -> list[Claim]:
        """In their order. A question with neither verdict nor asker is the holder's to ask, and to answer by `add`."""
        self._presence.heard(holder)
        self._let_go_of_the_dead()
        known = [self._store.known(question) for question in questions]
        # Those of earlier experiments become verdicts of this job; its own are not changed.
        pairs = [(question, verdict) for question, verdict in zip(questions, known, strict=True) if verdict is not None]
        self._add([Answer(question=asked, verdict=it.unpaid(), from_cache=True) for asked, it in pairs])
        return [
            Claim(verdict=verdict.unpaid()) if verdict else self._claim(question, holder)
            for question, verdict in zip(questions, known, strict=True)
        ]

    async def wait(self, questions: Sequence[Question], holder: str) -> list[Claim]:
        """What has become of questions that others asked, in their order, as from `claim`.

        Returns when all have verdicts; or at once when an asker is gone, so that one of these is the holder's to ask.
        A holder that has died itself gets none.
        """
        self._presence.heard(holder)
        waited_for = [self._asked.get(question.key) for question in questions]
        answers = [asked.answered for asked in waited_for if asked is not None]
        while open_ := [answer for answer in answers if not answer.done()]:
            if any(answer.done() and answer.result() is None for answer in answers):
                break
            await asyncio.wait(open_, timeout=HEARTBEAT_S)
            self._let_go_of_the_dead()
            if not self._presence.knows(holder):
                return [Claim(is_asked_by_another=True)] * len(questions)
        claims = [self._after(*pair, holder) for pair in zip(questions, waited_for, strict=True)]
        self.told.update(claim.verdict.kind for claim in claims if claim.verdict is not None)
        return claims

    def _after(self, question: Question, asked: _Asked | None, holder: str) -> Claim:
        """What there is to do about a question after waiting for the one who `asked` it."""
        if asked is not None and not asked.answered.done():
            return Claim(is_asked_by_another=True)
        # The answer itself, for an ungraded one is not known to the store.
        verdict = (asked and asked.answered.result()) or self._store.known(question)
        return Claim(verdict=verdict.unpaid()) if verdict else self._claim(question, holder)

    async def add(self, answers: Sequence[Answer]) -> None:
        """Stores verdicts, durable when this returns; those that come at the same time are one write."""
        await asyncio.shield(self._answers.add(answers))

    async def release(self, questions: Sequence[Question]) -> None:
        """Whoever claimed these does not ask them after all."""
        for question in questions:
            self._settle(question.key, None)

    async def still_here(self, holder: str) -> None:
        self._presence.heard(holder)

    async def _write(self, answers: Sequence[Answer]) -> None:
        self._add(answers)
        for answer in answers:
            if not answer.is_vote:
                self._settle(answer.question.key, answer.verdict)

    def _add(self, answers: Sequence[Answer]) -> None:
        before = [self._store.kind(answer.question) for answer in answers]
        self._store.add(answers)
        self.told.update(answer.verdict.kind for answer in answers if not answer.is_vote)
        for answer, kind in zip(answers, before, strict=True):
            if kind is None or (kind == "ungraded" != answer.verdict.kind):
                self._count_news(answer)

    def _count_news(self, answer: Answer) -> None:
        model = answer.question.grader.model
        self.asked_again[model] += answer.verdict.api_calls > 1
        if not answer.is_vote:
            self.answered[model, answer.verdict.kind] += 1
            self.cached[model] += answer.from_cache

    def _claim(self, question: Question, holder: str) -> Claim:
        if question.key in self._asked:
            return Claim(is_asked_by_another=True)
        self._asked[question.key] = _Asked(holder, asyncio.get_running_loop().create_future())
        return Claim(votes=self._store.votes(question) if question.grader.num_votes > 1 else ())

    def _settle(self, key: str, verdict: Verdict | None) -> None:
        asked = self._asked.pop(key, None)
        if asked is not None:
            asked.answered.set_result(verdict)

    def _let_go_of_the_dead(self) -> None:
        for holder in self._presence.leave():
            for key in [key for key, asked in self._asked.items() if asked.holder == holder]:
                self._settle(key, None)


@dataclass(frozen=True)
class _Asked:
    holder: str
    answered: asyncio.Future[Verdict | None]  # None: it was not
