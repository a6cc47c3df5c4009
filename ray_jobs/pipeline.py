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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evalgen.config import JobConfig
from evalgen.errors import JobStopped
from evalgen.experiment import Experiment
from evalgen.job import DatasetPlan, asked_in_batches
from evalgen.job_log import fields
from evalgen.progress import Monitor
from evalgen.records import GradedUnit
from evalgen.schedule import FailedUnit
from evalgen.work import Work, write_units
from ray_jobs.actor_logs import in_one_line
from ray_jobs.grading import ASKED_LATER
from ray_jobs.limiter import RateLimiterActor
from ray_jobs.sampling import Engine
from ray_jobs.stages import CONNECTIONS_PER_GRADING_ACTOR, TICKETS_OF_REPLICA, Stages, block_bytes
from ray_jobs.store import PATIENT_CALLS, StoreActor
from ray_jobs.watch import Show, Watch

log = logging.getLogger("evalgen.pipeline")

END_TIMEOUT_S = 60.0  # for calls that an actor has yet to answer
MAX_ROUNDS = 3  # of the pipeline, while units are missing that nobody reports as failed


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
    asked_later = [plan.name for plan in asked_in_batches(plans)]
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
    stages = Stages(
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


def _rounds(stages: Stages, work: Work) -> Iterator[GradedUnit | FailedUnit]:
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
