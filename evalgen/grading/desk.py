"""Takes questions and returns verdicts, asking the judge as seldom as it can.

A question is answered from an earlier experiment if one paid for it; equal questions in flight share one answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from evalgen.grading.claude import ClaudeGrader
from evalgen.grading.grader_config import CLAUDE_PREFIX
from evalgen.grading.offline import grade_offline
from evalgen.grading.rate_limiter import RequestLimiter
from evalgen.records import Answer, Question, Verdict


class Verdicts(Protocol):
    """Where verdicts are kept for the whole job; may live in another process."""

    async def known(self, question: Question) -> Verdict | None:
        """The verdict that this job or an earlier experiment paid for, if there is one."""

    async def add(self, answers: Sequence[Answer]) -> None:
        """Stores verdicts, durable when this returns."""


class GradingDesk:
    """One per grading process; its questions run concurrently, as far as the limiter lets them."""

    def __init__(self, verdicts: Verdicts, limiter: RequestLimiter, max_connections: int) -> None:
        """No more than `max_connections` questions are at work at once: the rest wait here, not in the limiter."""
        self._verdicts = verdicts
        self._limiter = limiter
        self._at_work = asyncio.Semaphore(max_connections)
        self._claude: ClaudeGrader | None = None
        self._asked: dict[str, asyncio.Task[Verdict]] = {}  # answered or in flight, by question key

    async def grade(self, questions: Sequence[Question]) -> list[Verdict]:
        """Verdicts in the order of `questions`.

        Raises:
            GraderUnavailable: the judge refuses every question.
        """
        offline = [question for question in questions if not question.grader.model.startswith(CLAUDE_PREFIX)]
        answers = {question.key: Answer(question=question, verdict=grade_offline(question)) for question in offline}
        if answers:
            await self._verdicts.add(list(answers.values()))
        judged = [question for question in questions if question.key not in answers]
        verdicts = {key: answer.verdict for key, answer in answers.items()}
        verdicts |= zip((q.key for q in judged), await asyncio.gather(*map(self._judge_once, judged)), strict=True)
        return [verdicts[question.key] for question in questions]

    async def _judge_once(self, question: Question) -> Verdict:
        if question.key not in self._asked:
            self._asked[question.key] = asyncio.create_task(self._judge(question))
        # Shielded: one caller that is cancelled must not take the answer from the others.
        return await asyncio.shield(self._asked[question.key])

    async def _judge(self, question: Question) -> Verdict:
        async with self._at_work:
            known = await self._verdicts.known(question)
            verdict = _unpaid(known) if known else await self._connected().grade(question)
            await self._verdicts.add([Answer(question=question, verdict=verdict, from_cache=known is not None)])
        return verdict

    def _connected(self) -> ClaudeGrader:
        if self._claude is None:
            self._claude = ClaudeGrader(limiter=self._limiter)
        return self._claude


def _unpaid(verdict: Verdict) -> Verdict:
    """A verdict that is used again: it cost something once, and nothing now."""
    return replace(verdict, api_calls=0, input_tokens=0, output_tokens=0, cost_usd=0.0)
