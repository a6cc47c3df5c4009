"""The actor that puts a job's questions to the judge."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import SecretStr

from evalgen.grading.desk import GradingDesk
from evalgen.grading.limiter_records import Demand, Lease, Outcome
from evalgen.grading.prices import PriceList
from evalgen.grading.shared_verdicts import Claim
from evalgen.records import CLAUDE_PREFIX, Answer, GraderSpec, Question
from ray_jobs.actor_logs import forward_warnings, in_one_line
from ray_jobs.garbage import collect_garbage_seldom, imported_for_good

if TYPE_CHECKING:
    from evalgen.config import JobConfig

ASKED_LATER = "asked later"  # in place of a verdict: in a batch, when all is sampled


class GradingActor:
    """Ray Data UDF, asynchronous: questions in, verdict kinds out. Verdicts are stored as they arrive."""

    def __init__(
        self,
        store: Any,
        limiter: Any,
        graders: Mapping[str, GraderSpec],
        max_connections: int,
        prices: PriceList,
        outage_budget_s: float,
        environment: Mapping[str, SecretStr],
    ) -> None:
        """`graders` are by dataset name."""
        # The driver's, not this node's: a cluster's workers do not see the variables of the job's user.
        os.environ.update({name: value.get_secret_value() for name, value in environment.items()})
        forward_warnings(store, "grading actor")
        if any(not grader.is_offline and not grader.is_in_batches for grader in graders.values()):
            with imported_for_good():
                import evalgen.grading.claude  # noqa: F401 (it takes seconds; here nobody waits for an answer yet)
        collect_garbage_seldom()
        self._store, self._graders = store, graders
        self._desk = GradingDesk(
            _RemoteVerdicts(store), _RemoteLimiter(limiter), max_connections, prices, outage_budget_s
        )

    async def __call__(self, batch: pa.Table) -> pa.Table:
        questions = [
            Question(
                grader=self._graders[row["dataset"]],
                prompt=row["prompt"],
                reference=row["reference"],
                completion=row["completion"],
            )
            for row in batch.to_pylist()
        ]
        asked_now = [question for question in questions if not question.grader.is_in_batches]
        try:
            verdicts = iter(await self._desk.grade(asked_now))
        except Exception as error:  # as in SamplingActor
            await self._store.note_failure.remote(in_one_line(error))
            raise
        is_asked_now = (not question.grader.is_in_batches for question in questions)
        kinds = pa.array([next(verdicts).kind if now else ASKED_LATER for now in is_asked_now], pa.string())
        return batch.select(["unit_id", "dataset", "num_questions"]).append_column("verdict", kinds)


def grader_environment(config: JobConfig) -> dict[str, SecretStr]:
    """The variables that the SDK reads, from this process; hidden, so that no log or dashboard can show them.

    Nothing where no grader of the job needs them.
    """
    if not any(run.grader_model.startswith(CLAUDE_PREFIX) for run in config.run_configs()):
        return {}
    return {name: SecretStr(value) for name, value in os.environ.items() if name.startswith("ANTHROPIC_")}


class _RemoteVerdicts:
    """`evalgen.grading.desk.Verdicts` in another process."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def claim(self, questions: Sequence[Question], holder: str) -> list[Claim]:
        claims: list[Claim] = await self._store.claim_questions.remote(questions, holder)
        return claims

    async def wait(self, questions: Sequence[Question], holder: str) -> list[Claim]:
        claims: list[Claim] = await self._store.wait_for_verdicts.remote(questions, holder)
        return claims

    async def add(self, answers: Sequence[Answer]) -> None:
        await self._store.add_answers.remote(answers)

    async def release(self, questions: Sequence[Question]) -> None:
        await self._store.release_questions.remote(questions)

    async def still_here(self, holder: str) -> None:
        await self._store.still_here.remote(holder)


class _RemoteLimiter:
    """`evalgen.grading.limiter_records.RequestLimiter` in another process."""

    def __init__(self, limiter: Any) -> None:
        self._limiter = limiter

    async def acquire(self, demands: Sequence[Demand], holder: str) -> list[Lease]:
        leases: list[Lease] = await self._limiter.acquire.remote(demands, holder)
        return leases

    async def settle(self, outcomes: Sequence[Outcome]) -> None:
        await self._limiter.settle.remote(outcomes)

    async def waited(self, seconds_of: Mapping[str, float]) -> None:
        await self._limiter.waited.options(max_task_retries=0).remote(seconds_of)  # what is told twice counts twice

    async def still_here(self, holder: str) -> None:
        await self._limiter.still_here.remote(holder)
