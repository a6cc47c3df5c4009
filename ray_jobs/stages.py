"""The stages of the Ray Data pipeline, from tickets to verdict kinds; `pipeline.py` has the picture."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import count
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.data.context import DEFAULT_TARGET_MAX_BLOCK_SIZE
from ray.util.annotations import RayDeprecationWarning

from evalgen.config import JobConfig
from evalgen.grading.prices import load_prices
from evalgen.job import DatasetPlan
from evalgen.records import GraderSpec
from evalgen.unit_store import StoredUnit
from ray_jobs.cluster import num_gpus
from ray_jobs.grading import GradingActor, grader_environment
from ray_jobs.sampling import Engine, SamplingActor, StoredUnits

CONNECTIONS_PER_GRADING_ACTOR = 100
TICKETS_OF_REPLICA = 2  # one in use, and one at hand: on its way from the driver a replica would idle for 0.2 s a unit
SHARED_BLOCK_BYTES = 64 << 10  # of questions


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The pipeline of a job, to be run as often as need be."""

    name: str
    job_id: str
    config: JobConfig
    plans: Sequence[DatasetPlan]
    store: Any
    limiter: Any
    make_engine: Callable[[], Engine]
    num_replicas: int
    num_graders: int
    # No actor has the name of one that died, or of an earlier round.
    numbers: defaultdict[str, Iterator[int]] = field(default_factory=lambda: defaultdict(count))

    def run(self, tickets: Sequence[int], stored: Sequence[StoredUnit]) -> Iterator[pa.Table]:
        """Verdict kinds, as they come."""
        branches = []
        if stored:
            branches.append(self._stored_questions(stored))
        if tickets:
            branches.append(self._sampled_questions(tickets))
        if not branches:
            return
        questions = branches[0].union(*branches[1:]) if len(branches) > 1 else branches[0]
        graded = self._graded(questions)
        graded.set_name(self.name)  # as the dashboard and Ray's logs have it
        yield from graded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)

    def _sampled_questions(self, tickets: Sequence[int]) -> Dataset:
        rows = [{"ticket": ticket} for ticket in tickets]
        return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            SamplingActor,
            fn_constructor_kwargs={"store": self.store, "make_engine": self.make_engine},
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=self.num_replicas, max_tasks_in_flight_per_actor=TICKETS_OF_REPLICA),
            # No CPU is reserved: on a small machine actors that hold them would leave none for reading the tickets.
            num_cpus=0,
            num_gpus=self.config.num_gpus_per_replica if num_gpus() else 0,
            **self._names("sampling replica"),
        )

    def _stored_questions(self, stored: Sequence[StoredUnit]) -> Dataset:
        rows = [{"unit_id": unit.unit_id, "dataset": unit.dataset} for unit in stored]
        wanted = {unit.dataset for unit in stored}
        return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            StoredUnits,
            fn_constructor_kwargs={
                "store": self.store,
                "queries": {plan.name: plan.queries for plan in self.plans if plan.name in wanted},
            },
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=1),
            num_cpus=0,
            **self._names("reader of stored samples"),
        )

    def _graded(self, questions: Dataset) -> Dataset:
        return questions.map_batches(
            GradingActor,
            fn_constructor_kwargs={
                "store": self.store,
                "limiter": self.limiter,
                "graders": {plan.name: plan.grader for plan in self.plans},
                "max_connections": self.config.max_connections,
                "prices": load_prices(self.config.prices),
                "outage_budget_s": 60 * self.config.max_outage_minutes,
                "environment": grader_environment(self.config),
            },
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=self.num_graders,
                # A block each: where they have one long question each, there are still enough for all connections.
                max_concurrent_calls_per_actor=CONNECTIONS_PER_GRADING_ACTOR,
            ),
            num_cpus=0,
            **self._names("grading actor"),
        )

    def _names(self, kind: str) -> dict[str, Any]:
        """What makes Ray Data name each actor of a pool, where it can; 2.64 is to lose that, and they have classes."""
        if "ray_remote_args_fn" not in signature(Dataset.map_batches).parameters:
            return {}
        warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated", RayDeprecationWarning)
        return {"ray_remote_args_fn": lambda: {"name": f"evalgen {kind} {next(self.numbers[kind])} of {self.job_id}"}}


def block_bytes(graders: Iterable[GraderSpec]) -> int:
    """How large a block of questions gets: small, so that grading actors share a unit, but where there are packs."""
    are_single = all(grader.pack_size == 1 for grader in graders)
    return SHARED_BLOCK_BYTES if are_single else DEFAULT_TARGET_MAX_BLOCK_SIZE
