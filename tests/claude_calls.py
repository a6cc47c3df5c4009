"""Asks the real Claude grader questions, through the real SDK, for tests that judge what comes back."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tenacity import wait_none

from evalgen.grading.breaker import Breaker
from evalgen.grading.claude import ClaudeGrader
from evalgen.grading.limiter_records import RequestLimiter
from evalgen.grading.prices import load_prices
from evalgen.grading.question_text import DEFAULT_INSTRUCTIONS
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.records import GraderSpec, Question, Verdict
from tests.messages_api import API_KEY, Judge, MessagesApi

HAIKU = "anthropic/claude-haiku-4-5-20251001"


@contextmanager
def sdk_pointed_at_messages_api(judge: Judge | None = None) -> Iterator[MessagesApi]:
    """A running server that the SDK of this process and of its children takes for the real API."""
    with MessagesApi(judge) as api, sdk_pointed_at(api.base_url):
        yield api


@contextmanager
def sdk_pointed_at(base_url: str) -> Iterator[None]:
    """The SDK of this process and of its children takes this for the real API, and finds no settings of its user."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
            patch.delenv(name)
        patch.setenv("HOME", "/nonexistent")  # where the SDK would look for a profile
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("ANTHROPIC_API_KEY", API_KEY)
        patch.setenv("ANTHROPIC_BASE_URL", base_url)
        yield


def question(
    completion: str = " Grace Miller\nQ:", *, model: str = HAIKU, num_votes: int = 1, pack_size: int = 1
) -> Question:
    return Question(
        grader=GraderSpec(model=model, instructions=DEFAULT_INSTRUCTIONS, num_votes=num_votes, pack_size=pack_size),
        prompt="Q: Who is the mayor of Tokyo? A:",
        reference=" Grace Miller",
        completion=completion,
    )


class NeverOpens(Breaker):
    """Retries are the grader's alone then."""

    def pause_s(self, now: float) -> float:
        return 0.0


def unlimited() -> RateLimiter:
    return RateLimiter(max_connections=100, breaker=NeverOpens(900))


def grade_all(*questions: Question, limiter: RequestLimiter | None = None, **options: Any) -> list[Verdict]:
    """The verdicts, all questions asked at once, each by itself; retries do not wait unless `options` say so."""

    async def run() -> list[Verdict]:
        grader = claude_grader(limiter, **options)
        try:
            return [verdict for (verdict,) in await asyncio.gather(*(grader.grade([it]) for it in questions))]
        finally:
            await grader.aclose()

    return asyncio.run(run())


def grade_pack(*questions: Question, **options: Any) -> list[Verdict]:
    """The same in one request."""

    async def run() -> list[Verdict]:
        grader = claude_grader(None, **options)
        try:
            return await grader.grade(questions)
        finally:
            await grader.aclose()

    return asyncio.run(run())


def claude_grader(limiter: RequestLimiter | None, **options: Any) -> ClaudeGrader:
    # A holder of its own, as each grading process is: leases are numbered by what their holder has settled.
    defaults = {"holder": uuid.uuid4().hex, "backoff": wait_none(), "prices": load_prices()}
    return ClaudeGrader(limiter=limiter or unlimited(), **{**defaults, **options})


def grade(completion: str = " Grace Miller\nQ:", **options: Any) -> Verdict:
    return grade_all(question(completion), **options)[0]


class RecordedSleep:
    """Stands in for asyncio.sleep: passes at once and remembers for how long it was asked."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
