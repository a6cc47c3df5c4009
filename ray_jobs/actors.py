"""The actors of a job's pipeline: each a few lines round an object of `evalgen`."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import ray
from pydantic import SecretStr

from evalgen.errors import EvalgenError, LoadFailed, UserError
from evalgen.grading.breaker import Breaker
from evalgen.grading.desk import GradingDesk
from evalgen.grading.limiter_records import Demand, Lease, Outcome
from evalgen.grading.limiter_state import LimiterState
from evalgen.grading.prices import PriceList
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.grading.shared_verdicts import Claim
from evalgen.grading.spending import Spending
from evalgen.job_log import Event, EventHandler, EventList, log_in_process
from evalgen.records import (
    BATCH_PREFIX,
    CLAUDE_PREFIX,
    Answer,
    GraderSpec,
    Limits,
    Query,
    Question,
    SamplingUnit,
)
from evalgen.verdict_store import spent_usd
from ray_jobs.metrics import LimiterMetrics, ReplicaMetrics

if TYPE_CHECKING:
    from evalgen.config import JobConfig
    from evalgen.unit_store import SamplingCost

ASKED_LATER = "asked later"  # in place of a verdict: in a batch, when all is sampled
QUESTIONS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("unit_id", "dataset", "prompt", "reference", "completion")),
        ("num_questions", pa.int64()),  # of the whole unit, which may be several blocks
    ]
)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class RateLimiterActor(RateLimiter):
    """The one gate for grading requests of all actors. Asynchronous: callers wait in it, not for it.

    When its process dies another begins with full buckets, which hold little, and with what the ledger of
    `Spending` says.
    """

    def __init__(
        self, *, limits: Limits, max_connections: int, outage_budget_s: float, cap_usd: float | None, verdicts: Path
    ) -> None:
        """`cap_usd`: what grading may cost in all; `verdicts` is the experiment's directory of them."""
        self._events = EventList()
        log_in_process(EventHandler("rate limiter", self._events.add))
        self._metrics = LimiterMetrics()
        super().__init__(
            limits=limits,
            max_connections=max_connections,
            breaker=Breaker(outage_budget_s),
            spending=None if cap_usd is None else Spending(verdicts, cap_usd, spent_usd(verdicts)),
        )

    async def tell(self, num_known_events: int) -> tuple[LimiterState, Sequence[Event], int]:
        """As `StoreActor.tell`."""
        state = self.state()
        self._metrics.export(state)
        return state, self._events.since(num_known_events), self._events.num_added


class Engine(Protocol):
    """What samples units in a process of its own; see `evalgen.sampling.replica.Replica`."""

    def sample(self, unit: SamplingUnit, next_checkpoint: str) -> tuple[pa.Table, SamplingCost]: ...


class SamplingActor:
    """Ray Data UDF, one per replica: a ticket in, the questions of one unit out. Which unit, the store says.

    The unit is stored before it moves on, so that Ray may lose or repeat anything after that.
    """

    def __init__(self, store: Any, make_engine: Callable[[], Engine]) -> None:
        self._store = store
        forward_warnings(store, "sampling replica")
        self._engine = make_engine()
        self._metrics = ReplicaMetrics()
        context = ray.get_runtime_context()
        self._name, self._node_id = context.get_actor_id(), context.get_node_id()
        self._node = ray.util.get_node_ip_address()
        self._device = f"{self._node_id} {','.join(map(str, ray.get_gpu_ids())) or self._name}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        (row,) = batch.to_pylist()
        try:
            return self._questions(row["ticket"])
        except Exception as error:  # whatever it is, it ends the job: the driver is to say why in one line
            ray.get(self._store.note_failure.remote(in_one_line(error)))
            raise

    def _questions(self, ticket: int) -> pa.Table:
        while (work := ray.get(self._store.take.remote(ticket, self._name, self._device, self._node_id))) is not None:
            if work.is_stored:
                samples = ray.get(self._store.load_unit.remote(work.unit.id))
            else:
                samples = self._sampled(work.unit, work.next_checkpoint)
            if samples is not None:
                return questions_table(work.unit.id, work.unit.dataset, work.unit.queries, samples)
        return QUESTIONS_SCHEMA.empty_table()

    def _sampled(self, unit: SamplingUnit, next_checkpoint: str) -> pa.Table | None:
        """The unit's samples, stored; None: it failed, and the store knows why."""
        try:
            samples, cost = self._engine.sample(unit, next_checkpoint)
        except Exception as error:  # one unit's failure is not the job's
            reason = f"{in_one_line(error)} (node {self._node})"
            if _is_of_device(error):
                ray.get(self._store.device_failed.remote(unit.id, self._device, reason))
                os._exit(1)  # CUDA does not recover within a process: Ray starts another
            if isinstance(error, LoadFailed):
                ray.get(self._store.load_failed.remote(unit.id, self._name, reason))
                return None
            ray.get(self._store.unit_failed.remote(unit.id, reason, isinstance(error, UserError)))
            return None
        self._metrics.export(unit.checkpoint, cost.kv_bytes)
        ray.get(self._store.save_unit.remote(unit, samples, cost))
        return samples


class StoredUnits:
    """Ray Data UDF: the id of a stored unit in, its questions out. For units that a stopped job had sampled."""

    def __init__(self, store: Any, queries: Mapping[str, Sequence[Query]]) -> None:
        """`queries` are by dataset name."""
        self._store, self._queries = store, queries

    def __call__(self, batch: pa.Table) -> pa.Table:
        (row,) = batch.to_pylist()
        samples = ray.get(self._store.load_unit.remote(row["unit_id"]))
        return questions_table(row["unit_id"], row["dataset"], self._queries[row["dataset"]], samples)


def questions_table(unit_id: str, dataset: str, queries: Sequence[Query], samples: pa.Table) -> pa.Table:
    """A unit's distinct completions as questions, undrawn greedy ones too: here its draws are deduplicated."""
    by_id = {query.id: query for query in queries}
    pairs = dict.fromkeys(
        zip(samples["prompt_id"].to_pylist(), samples["completion"].to_pylist(), strict=True)
    )  # a dict keeps the order of the samples
    rows = [
        {
            "unit_id": unit_id,
            "dataset": dataset,
            "prompt": by_id[prompt_id].prompt,
            "reference": by_id[prompt_id].reference,
            "completion": completion,
            "num_questions": len(pairs),
        }
        for prompt_id, completion in pairs
    ]
    return pa.Table.from_pylist(rows, schema=QUESTIONS_SCHEMA)


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
        if any(grader.model.startswith(CLAUDE_PREFIX) for grader in graders.values()):
            import evalgen.grading.claude  # noqa: F401 (it takes seconds, and here nobody waits for an answer yet)
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
        asked_now = [question for question in questions if not question.grader.model.startswith(BATCH_PREFIX)]
        try:
            verdicts = iter(await self._desk.grade(asked_now))
        except Exception as error:  # as in SamplingActor
            await self._store.note_failure.remote(in_one_line(error))
            raise
        is_asked_now = (not question.grader.model.startswith(BATCH_PREFIX) for question in questions)
        kinds = pa.array([next(verdicts).kind if now else ASKED_LATER for now in is_asked_now], pa.string())
        return batch.select(["unit_id", "dataset", "num_questions"]).append_column("verdict", kinds)


def collect_garbage_seldom() -> None:
    """For a process that has imported what it needs.

    A request leaves some hundred objects behind. With Python's defaults a quarter of a question's CPU went into looking
    for them, and each look at everything, the SDK included, stopped all requests for longer than a judge may take.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 5)  # a look at everything is a short one, once all that was imported is left out


def forward_warnings(store: Any, kind: str) -> None:
    """What this actor warns of reaches the job's log through the store. Nobody waits for it to arrive."""
    name = ray.get_runtime_context().get_actor_name() or kind  # the first where this Ray can name a pool's actors
    log_in_process(EventHandler(name, store.note_event.remote, logging.WARNING))


def in_one_line(error: BaseException) -> str:
    """Our own errors are written for people; others need their type to make sense. Of Ray's, what caused them."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return in_one_line(cause)
    message = " ".join(str(error).split())
    return message if isinstance(error, EvalgenError) else f"{type(error).__name__}: {message}"


def _is_of_device(error: Exception) -> bool:
    """Whether a GPU failed, and not what was computed on it."""
    import torch

    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)


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

    async def still_here(self, holder: str) -> None:
        await self._limiter.still_here.remote(holder)
