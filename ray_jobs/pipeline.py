"""The Ray Data pipeline: sampling units in, verdicts out, streaming.

::

    tickets -> SamplingActor (one per replica) --.
                 |                               +-> distinct completions -> GradingActor (async) -> verdict kinds
    stored ids -> StoredUnits -------------------'                                |   |
                 |                                         RateLimiterActor <-----'   '----> StoreActor: verdicts/
             StoreActor: schedule, samples/

A ticket is the right to sample one unit; which one, the store decides when a replica is free. What the driver needs
afterwards is in the store's files; the rows that reach it only tell how far the job is. There is no shuffle and no
barrier: the first completion is graded while others are still being sampled.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from inspect import signature
from itertools import count
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.context import DEFAULT_TARGET_MAX_BLOCK_SIZE
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evalgen.errors import JobStopped
from evalgen.grading.prices import load_prices
from evalgen.job_log import fields
from evalgen.progress import Monitor
from evalgen.records import BATCH_PREFIX, GradedUnit, GraderSpec
from evalgen.schedule import FailedUnit
from evalgen.unit_store import StoredUnit
from evalgen.work import Work, write_units
from ray_jobs.actors import (
    ASKED_LATER,
    Engine,
    GradingActor,
    RateLimiterActor,
    SamplingActor,
    StoredUnits,
    grader_environment,
    in_one_line,
)
from ray_jobs.cluster import num_cpus, num_free_gpus, num_gpus
from ray_jobs.store import PATIENT_CALLS, StoreActor
from ray_jobs.watch import Show, Watch

if TYPE_CHECKING:  # a sampling process finds `MakeReplica` here, and needs nothing of what these import
    from evalgen.config import JobConfig
    from evalgen.experiment import Experiment
    from evalgen.job import DatasetPlan

log = logging.getLogger("evalgen.pipeline")

CONNECTIONS_PER_GRADING_ACTOR = 100
TICKETS_OF_REPLICA = 2  # one in use, and one at hand: on its way from the driver a replica would idle for 0.2 s a unit
SHARED_BLOCK_BYTES = 64 << 10  # of questions
END_TIMEOUT_S = 60.0  # for calls that an actor has yet to answer
MAX_ROUNDS = 3  # of the pipeline, while units are missing that nobody reports as failed


def choose_num_replicas(config: JobConfig) -> int:
    """As many as asked for and there are GPUs for; by default all of them, and one on a machine without.

    Raises:
        JobStopped: one replica needs more GPUs than there are.
    """
    gpus = num_gpus()
    if not gpus:
        return config.num_replicas or 1
    most = gpus // config.num_gpus_per_replica
    if most == 0:
        raise JobStopped(f"num_gpus_per_replica: {config.num_gpus_per_replica} asked for, but the cluster has {gpus}")
    if config.num_replicas and config.num_replicas > most:
        log.warning("num_replicas: %d asked for, but there are GPUs for %d: %d", config.num_replicas, most, most)
    num_replicas = min(config.num_replicas or most, most)
    wanted, free = num_replicas * config.num_gpus_per_replica, num_free_gpus()
    if free < wanted:
        log.warning(
            "%d GPUs wanted, %d of %d are free: replicas wait for those that other jobs have", wanted, free, gpus
        )
    return num_replicas


def sample_and_grade(
    config: JobConfig,
    experiment: Experiment,
    plans: Sequence[DatasetPlan],
    work: Work,
    num_replicas: int,
    make_engine: Callable[[], Engine],
    show: Sequence[Show] = (),
) -> Iterator[GradedUnit | FailedUnit]:
    """Does all of `work`; yields a unit when its verdicts are stored, or when it has failed for good.

    `show` is called about once a second, by another thread, and at the end.

    Raises:
        JobStopped: something that no retry mends, in one line.
    """
    job_id = uuid.uuid4().hex[:8]  # names must not clash with another job's on the same cluster
    monitor = Monitor(work, time.monotonic())
    earlier = experiment.earlier_verdicts() if config.use_grader_cache else []
    asked_later = [plan.name for plan in plans if plan.grader.model.startswith(BATCH_PREFIX)]
    DataContext.get_current().target_max_block_size = block_bytes(plan.grader for plan in plans)
    write_units(experiment.unsampled_units, work.units)
    store = _on_this_node(StoreActor, f"evalgen store of {job_id}", max_concurrency=PATIENT_CALLS).remote(
        samples=experiment.samples.resolve(),
        verdicts=experiment.verdicts.resolve(),
        earlier_verdicts=earlier,
        units=experiment.unsampled_units.resolve(),
        num_replicas=num_replicas,
        asked_later=asked_later,
    )
    num_graders = -(-config.max_connections // CONNECTIONS_PER_GRADING_ACTOR)
    limiter = _on_this_node(RateLimiterActor, f"evalgen rate limiter of {job_id}").remote(
        limits=config.rate_limits,
        max_connections=config.max_connections,
        outage_budget_s=60 * config.max_outage_minutes,
        cap_usd=config.max_grading_cost_usd,
        verdicts=experiment.verdicts.resolve(),
    )
    stages = _Stages(
        name=experiment.directory.name,
        job_id=job_id,
        config=config,
        plans=plans,
        store=store,
        limiter=limiter,
        make_engine=make_engine,
        num_replicas=num_replicas,
        num_graders=num_graders,
    )
    try:
        with Watch(store, limiter, monitor, show):
            for unit in _rounds(stages, work):
                monitor.note(unit)
                _log(unit)
                yield unit
            ray.get(store.close.remote())
        if asked_later:  # by the driver, which has the verdicts' files to itself then
            _end(store, limiter)
        experiment.unsampled_units.unlink()
    except RayError as error:
        reason = _reason(store, error)
        with contextlib.suppress(RayError):  # the journal has what the file would have
            ray.get(store.close.remote())
        raise JobStopped(reason) from error


def _rounds(stages: _Stages, work: Work) -> Iterator[GradedUnit | FailedUnit]:
    """Runs the pipeline until every unit is graded or has failed.

    Once is enough unless the store's process died: then it no longer knows which units were being sampled, and one of
    them may have been given out twice in place of another.
    """
    waiting = {unit.id: unit.dataset for unit in work.units} | {unit.unit_id: unit.dataset for unit in work.ungraded}
    num_tickets, stored = len(work.units), list(work.ungraded)
    first_ticket = 0
    for _ in range(MAX_ROUNDS):
        # More for each replica: one that waits for work keeps its tickets from those that have some.
        num_kept = TICKETS_OF_REPLICA * stages.num_replicas
        tickets = range(first_ticket, first_ticket + num_tickets + num_kept) if num_tickets else range(0)
        first_ticket += len(tickets)
        for graded in _graded_units(stages.run(tickets, stored)):
            waiting.pop(graded.unit_id, None)
            yield graded
        for failed in ray.get(stages.store.failed_units.remote()):
            if waiting.pop(failed.unit.id, None):
                yield failed
        on_disk = ray.get(stages.store.stored_units.remote())
        # Enumerated, and nothing was probable enough: no question was asked.
        for unit in [unit for unit in on_disk if unit.unit_id in waiting and not unit.num_samples]:
            yield GradedUnit(
                unit_id=unit.unit_id,
                dataset=waiting.pop(unit.unit_id),
                num_questions=0,
                num_equivalent=0,
                num_ungraded=0,
            )
        if not waiting:
            return
        stored = [unit for unit in on_disk if unit.unit_id in waiting]
        num_tickets = len(waiting) - len(stored)
        log.warning("%d units were lost with a process: they are done again", len(waiting))
    raise JobStopped(f"{len(waiting)} units were lost {MAX_ROUNDS} times; see the Ray dashboard for what died")


def _log(unit: GradedUnit | FailedUnit) -> None:
    if isinstance(unit, FailedUnit):
        log.warning("%d prompts of %s failed: %s", len(unit.unit.queries), unit.unit.dataset, unit.reason)
    else:
        log.info("graded", extra=fields(**asdict(unit)))


@dataclass(frozen=True, kw_only=True)
class _Stages:
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


@dataclass(frozen=True, kw_only=True)
class MakeReplica:
    """Makes the engine of a sampling process: a model replica on its GPUs, or on its share of the CPUs."""

    num_threads: int
    budget_bytes: int | None

    @classmethod
    def of_job(cls, config: JobConfig, num_replicas: int) -> MakeReplica:
        return cls(num_threads=max(1, num_cpus() // num_replicas), budget_bytes=config.kv_budget_bytes)

    def __call__(self) -> Engine:
        import os

        import torch

        from evalgen.sampling.replica import Replica, own_device

        if (given := ray.get_gpu_ids()) and not torch.cuda.is_available():
            log.warning("Ray gave this replica GPU %s, and torch sees none: it samples on the CPU", given)
        torch.set_num_threads(min(self.num_threads, os.cpu_count() or 1))  # Ray sets OMP_NUM_THREADS to 1
        return Replica(own_device(), self.budget_bytes)


def block_bytes(graders: Iterable[GraderSpec]) -> int:
    """How large a block of questions gets: small, so that grading actors share a unit, but where there are packs."""
    are_single = all(grader.pack_size == 1 for grader in graders)
    return SHARED_BLOCK_BYTES if are_single else DEFAULT_TARGET_MAX_BLOCK_SIZE


def _graded_units(batches: Iterable[pa.Table]) -> Iterator[GradedUnit]:
    """Units, each as soon as all of its verdicts are there. Its blocks come in any order, among those of others."""
    kinds_of: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by unit
    for batch in batches:
        for row in batch.to_pylist():
            kinds = kinds_of[row["unit_id"]]
            kinds[row["verdict"]] += 1
            if kinds.total() == row["num_questions"]:
                yield GradedUnit(
                    unit_id=row["unit_id"],
                    dataset=row["dataset"],
                    num_questions=row["num_questions"] - kinds[ASKED_LATER],
                    num_equivalent=kinds["equivalent"],
                    num_ungraded=kinds["ungraded"],
                )


def _on_this_node(actor_class: Any, name: str, **options: Any) -> Any:
    node = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return actor_class.options(name=name, scheduling_strategy=strategy, **options)


def _end(*actors: Any) -> None:
    """Returns when their processes are gone, and Ray starts no others."""
    calls = [actor.__ray_terminate__.options(max_task_retries=0).remote() for actor in actors]
    ray.wait(calls, num_returns=len(calls), timeout=END_TIMEOUT_S)
    for actor in actors:  # one that has not ended, or that Ray has started again
        ray.kill(actor)


def _reason(store: Any, error: RayError) -> str:
    """Why an actor gave up, in its own words; where it could not say, the last line of Ray's report."""
    try:
        noted: str | None = ray.get(store.failure.remote())
    except RayError:
        noted = None  # the store itself is gone
    return noted or in_one_line(error).splitlines()[-1]
