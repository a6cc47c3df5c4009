"""Lets the graders of all processes ask each question once: who is to ask it, who waits for whose answer.

Pure asyncio, round a `VerdictStore`, for the one process that has it. What a dead grader was to ask, another asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evalgen.grading.gathering import Gathered
from evalgen.grading.presence import HEARTBEAT_S, Presence
from evalgen.records import Answer, Question, Verdict
from evalgen.verdict_store import VerdictStore


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What to do about a question: nothing, here is its verdict; wait, another asks it; or ask the judge."""

    verdict: Verdict | None = None
    is_asked_by_another: bool = False


class SharedVerdicts:
    """The verdicts of a job, and the questions that are being asked."""

    def __init__(self, store: VerdictStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._presence = Presence(clock)
        self._asked: dict[str, _Asked] = {}  # by question key
        self._answers = Gathered(self._write)

    async def claim(self, questions: Sequence[Question], holder: str) -> list[Claim]:
        """In their order. A question with neither verdict nor asker is the holder's to ask, and to answer by `add`."""
        self._presence.heard(holder)
        self._let_go_of_the_dead()
        known = [self._store.known(question) for question in questions]
        # Those of earlier experiments become verdicts of this job; its own are not changed.
        pairs = [(question, verdict) for question, verdict in zip(questions, known, strict=True) if verdict is not None]
        self._store.add([Answer(question=asked, verdict=_unpaid(it), from_cache=True) for asked, it in pairs])
        return [
            Claim(verdict=_unpaid(verdict)) if verdict else self._claim(question.key, holder)
            for question, verdict in zip(questions, known, strict=True)
        ]

    async def wait(self, question: Question, holder: str) -> Verdict | None:
        """The verdict that another is asking for; None: it never will, and the question is now the holder's to ask."""
        while (asked := self._asked.get(question.key)) is not None:
            await asyncio.wait([asked.answered], timeout=HEARTBEAT_S)
            self._let_go_of_the_dead()
            if asked.answered.done() and (verdict := asked.answered.result()) is not None:
                return _unpaid(verdict)
        known = self._store.known(question)
        if known is None:
            self._claim(question.key, holder)
        return known and _unpaid(known)

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
        self._store.add(answers)
        for answer in answers:
            self._settle(answer.question.key, answer.verdict)

    def _claim(self, key: str, holder: str) -> Claim:
        if key in self._asked:
            return Claim(is_asked_by_another=True)
        self._asked[key] = _Asked(holder, asyncio.get_running_loop().create_future())
        return Claim()

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


def _unpaid(verdict: Verdict) -> Verdict:
    """A verdict that is used again: it cost something once, and nothing now."""
    return replace(verdict, api_calls=0, input_tokens=0, output_tokens=0, cost_usd=0.0)
