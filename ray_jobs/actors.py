"""The actors of a job: each a few lines round an object of `evalgen`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from pydantic import SecretStr

from evalgen.config import JobConfig
from evalgen.errors import EvalgenError, JobStopped
from evalgen.grading.desk import GradingDesk
from evalgen.grading.grader_config import CLAUDE_PREFIX
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.records import Answer, GraderSpec, Question, SamplingUnit, Verdict
from evalgen.unit_store import SamplingCost, save_unit
from evalgen.verdict_store import VerdictStore

MAX_ATTEMPTS = 3  # of a unit whose process dies
QUESTIONS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("unit_id", "dataset", "grader", "prompt", "reference", "completion")]
)


@ray.remote(num_cpus=0)
class StoreActor:
    """Writes to the experiment directory, on the driver's node: other nodes need no shared disk."""

    def __init__(self, samples: Path, verdicts: Path, earlier_verdicts: Sequence[Path]) -> None:
        self._samples = samples
        self._verdicts = VerdictStore(verdicts, earlier_verdicts)
        self._failure: str | None = None
        self._attempts: Counter[str] = Counter()

    def begin_unit(self, unit_id: str) -> int:
        """Counts the times that the unit was begun, this one included: Ray itself retries without end."""
        self._attempts[unit_id] += 1
        return self._attempts[unit_id]

    def save_unit(self, unit_id: str, samples: pa.Table, cost: SamplingCost) -> None:
        save_unit(self._samples, unit_id, samples, cost)

    def known_verdict(self, question: Question) -> Verdict | None:
        return self._verdicts.known(question)

    def add_answers(self, answers: Sequence[Answer]) -> None:
        self._verdicts.add(answers)

    def note_failure(self, reason: str) -> None:
        """Keeps the first reason for which an actor gave up: Ray's own report of it is a page long."""
        self._failure = self._failure or reason

    def failure(self) -> str | None:
        return self._failure

    def close(self) -> None:
        self._verdicts.close()


@ray.remote(num_cpus=0)
class RateLimiterActor(RateLimiter):
    """The one gate for grading requests of all actors. Asynchronous: callers wait in it, not for it."""


class SamplingActor:
    """Ray Data UDF, one per GPU: a batch of one unit in, its questions out. The unit is stored before it moves on."""

    def __init__(self, store: Any, num_threads: int, budget_bytes: int | None) -> None:
        import torch

        from evalgen.sampling.replica import Replica

        torch.set_num_threads(min(num_threads, os.cpu_count() or 1))  # Ray sets OMP_NUM_THREADS to 1
        self._store = store
        self._replica = Replica(torch.device("cuda" if torch.cuda.is_available() else "cpu"), budget_bytes)

    def __call__(self, batch: pa.Table) -> pa.Table:
        (row,) = batch.to_pylist()
        unit = SamplingUnit.from_row(row)
        try:
            if ray.get(self._store.begin_unit.remote(unit.id)) > MAX_ATTEMPTS:
                raise JobStopped(
                    f"sampling {len(unit.queries)} prompts of checkpoint {unit.checkpoint.path} ended its process "
                    f"{MAX_ATTEMPTS} times; was it out of memory? Give fewer --num_replicas, or see the Ray dashboard"
                )
            samples, cost = self._replica.sample(unit, row["next_checkpoint"])
        except Exception as error:  # whatever it is, it ends the job: the driver is to say why in one line
            ray.get(self._store.note_failure.remote(_in_one_line(error)))
            raise
        ray.get(self._store.save_unit.remote(unit.id, samples, cost))
        return questions_table(unit, samples, row["grader"])


def questions_table(unit: SamplingUnit, samples: pa.Table, grader: str) -> pa.Table:
    """The unit's distinct completions as questions: where a unit's draws are deduplicated."""
    queries = {query.id: query for query in unit.queries}
    pairs = dict.fromkeys(
        zip(samples["prompt_id"].to_pylist(), samples["completion"].to_pylist(), strict=True)
    )  # a dict keeps the order of the samples
    rows = [
        {
            "unit_id": unit.id,
            "dataset": unit.dataset,
            "grader": grader,
            "prompt": queries[prompt_id].prompt,
            "reference": queries[prompt_id].reference,
            "completion": completion,
        }
        for prompt_id, completion in pairs
    ]
    return pa.Table.from_pylist(rows, schema=QUESTIONS_SCHEMA)


class GradingActor:
    """Ray Data UDF, asynchronous: questions in, verdict kinds out. Verdicts are stored as they arrive."""

    def __init__(self, store: Any, limiter: Any, max_connections: int, environment: Mapping[str, SecretStr]) -> None:
        # The driver's, not this node's: a cluster's workers do not see the variables of the job's user.
        os.environ.update({name: value.get_secret_value() for name, value in environment.items()})
        self._store = store
        self._desk = GradingDesk(_RemoteVerdicts(store), _RemoteLimiter(limiter), max_connections)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        questions = [
            Question(
                grader=GraderSpec(**json.loads(row["grader"])),
                prompt=row["prompt"],
                reference=row["reference"],
                completion=row["completion"],
            )
            for row in rows
        ]
        try:
            verdicts = await self._desk.grade(questions)
        except Exception as error:  # as in SamplingActor
            await self._store.note_failure.remote(_in_one_line(error))
            raise
        kinds = pa.array([verdict.kind for verdict in verdicts], pa.string())
        return batch.select(["unit_id", "dataset"]).append_column("verdict", kinds)


def _in_one_line(error: Exception) -> str:
    """Our own errors are written for people; others need their type to make sense."""
    message = " ".join(str(error).split())
    return message if isinstance(error, EvalgenError) else f"{type(error).__name__}: {message}"


def grader_to_json(grader: GraderSpec) -> str:
    """How a grader travels in a row; equal graders have equal JSON."""
    return json.dumps(asdict(grader), sort_keys=True)


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

    async def known(self, question: Question) -> Verdict | None:
        verdict: Verdict | None = await self._store.known_verdict.remote(question)
        return verdict

    async def add(self, answers: Sequence[Answer]) -> None:
        await self._store.add_answers.remote(answers)


class _RemoteLimiter:
    """`evalgen.grading.rate_limiter.RequestLimiter` in another process."""

    def __init__(self, limiter: Any) -> None:
        self._limiter = limiter

    async def acquire(self) -> int:
        lease: int = await self._limiter.acquire.remote()
        return lease

    async def release(self, lease: int) -> None:
        await self._limiter.release.remote(lease)
