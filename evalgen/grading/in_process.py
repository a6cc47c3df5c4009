"""Grades questions in this process, for tools that need no cluster; verdicts are kept on disk, as a job keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing, closing
from pathlib import Path

from evalgen.grading.breaker import Breaker
from evalgen.grading.desk import GradingDesk
from evalgen.grading.prices import PriceList
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.grading.shared_verdicts import SharedVerdicts
from evalgen.grading.spending import Spending
from evalgen.records import Limits, Question, Verdict
from evalgen.verdict_store import VerdictStore, spent_usd
from evalgen.verdict_table import VerdictTable


def grade_in_process(
    questions: Sequence[Question],
    verdicts: Path,
    earlier: Iterable[Path] = (),
    *,
    prices: PriceList,
    cap_usd: float | None = None,
    outage_budget_s: float = 900.0,
    max_connections: int = 50,
    requests_per_minute: float | None = None,
) -> list[Verdict]:
    """Verdicts in the order of `questions`, each with what it has cost in this directory, over all calls.

    What the directory `verdicts` or the `earlier` files have is not asked again, and `cap_usd` holds over all that was
    ever paid in the directory; see `VerdictStore` and `Spending`. For one process at a time.

    Raises:
        JobStopped: the judge refuses every question, is away for too long, or may not be paid for any more. What it
            has answered is kept.
        OSError: a verdict cannot be stored.
    """
    with closing(VerdictStore(verdicts, earlier)) as store:
        limiter = RateLimiter(
            limits=Limits(requests=requests_per_minute),
            max_connections=max_connections,
            breaker=Breaker(outage_budget_s),
            spending=None if cap_usd is None else Spending(verdicts, cap_usd, spent_usd(verdicts)),
        )
        desk = GradingDesk(SharedVerdicts(store), limiter, max_connections, prices, outage_budget_s)
        asyncio.run(_grade(questions, desk))
    table = VerdictTable.of_experiment(verdicts)
    return [table[question.key] for question in questions]


async def _grade(questions: Sequence[Question], desk: GradingDesk) -> None:
    async with aclosing(desk):
        await desk.grade(questions)
