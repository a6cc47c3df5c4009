"""Grades questions in this process, for tools that need no cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from evalgen.grading.desk import GradingDesk
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.records import Answer, Question, Verdict


def grade_in_process(
    questions: Sequence[Question], *, max_connections: int = 50, requests_per_minute: float | None = None
) -> list[Verdict]:
    """Verdicts in the order of `questions`; nothing is stored.

    Raises:
        JobStopped: the judge refuses every question, or is away for too long.
    """

    async def grade() -> list[Verdict]:
        limiter = RateLimiter(requests_per_minute=requests_per_minute, max_connections=max_connections)
        return await GradingDesk(_Forgetful(), limiter, max_connections).grade(questions)

    return asyncio.run(grade())


class _Forgetful:
    """`evalgen.grading.desk.Verdicts` without any."""

    async def known(self, question: Question) -> Verdict | None:
        return None

    async def add(self, answers: Sequence[Answer]) -> None:
        pass
