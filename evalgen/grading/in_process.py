"""Grades questions in this process, for tools that need no cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from evalgen.grading.breaker import Breaker
from evalgen.grading.desk import GradingDesk
from evalgen.grading.prices import PriceList
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.grading.shared_verdicts import Claim
from evalgen.records import Answer, Limits, Question, Verdict

OUTAGE_BUDGET_S = 900.0


def grade_in_process(
    questions: Sequence[Question],
    *,
    max_connections: int = 50,
    requests_per_minute: float | None = None,
    prices: PriceList | None = None,
) -> list[Verdict]:
    """Verdicts in the order of `questions`; nothing is stored.

    Raises:
        JobStopped: the judge refuses every question, or is away for too long.
    """

    async def grade() -> list[Verdict]:
        limiter = RateLimiter(
            limits=Limits(requests=requests_per_minute),
            max_connections=max_connections,
            breaker=Breaker(OUTAGE_BUDGET_S),
        )
        async with aclosing(GradingDesk(_Forgetful(), limiter, max_connections, prices, OUTAGE_BUDGET_S)) as desk:
            return await desk.grade(questions)

    return asyncio.run(grade())


class _Forgetful:
    """`evalgen.grading.desk.Verdicts` without any."""

    async def claim(self, questions: Sequence[Question], holder: str) -> list[Claim]:
        return [Claim()] * len(questions)

    async def wait(self, questions: Sequence[Question], holder: str) -> list[Claim]:
        raise AssertionError("nobody else asks")

    async def add(self, answers: Sequence[Answer]) -> None:
        pass

    async def release(self, questions: Sequence[Question]) -> None:
        pass

    async def still_here(self, holder: str) -> None:
        pass
