"""The Ray Data pipeline: sampling units in, verdicts out, streaming.

::

    units -> SamplingActor (one per GPU) -> distinct completions -> GradingActor (async) -> verdict kinds
                  |                                                       |   |
             StoreActor: samples/                    RateLimiterActor <---'   '---> StoreActor: verdicts/

What the driver needs afterwards is in the store's files; the rows that reach it only tell how far the job is. There
is no shuffle and no barrier: the first completion is graded while others are still being sampled.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayError

from evalgen.config import JobConfig
from evalgen.errors import JobStopped
from evalgen.experiment import Experiment
from evalgen.records import GradedUnit, GraderSpec, SamplingUnit
from ray_jobs.actors import (
    GradingActor,
    RateLimiterActor,
    SamplingActor,
    StoreActor,
    grader_environment,
    grader_to_json,
)
from ray_jobs.cluster import num_cpus, num_gpus

log = logging.getLogger("evalgen.pipeline")

CONNECTIONS_PER_GRADING_ACTOR = 100
UNITS_IN_FLIGHT_PER_GRADING_ACTOR = 16  # so that a slow answer in one unit does not hold up the next


def choose_num_replicas(config: JobConfig) -> int:
    """As many as asked for, at most one per GPU; by default one per GPU, and one on a machine without."""
    gpus = num_gpus()
    if config.num_replicas and gpus and config.num_replicas > gpus:
        log.warning("num_replicas: %d asked for, but the cluster has %d GPUs: %d", config.num_replicas, gpus, gpus)
        return gpus
    return config.num_replicas or gpus or 1


def sample_and_grade(
    config: JobConfig,
    experiment: Experiment,
    units: Sequence[SamplingUnit],
    graders: Mapping[str, GraderSpec],
    num_replicas: int,
) -> Iterator[GradedUnit]:
    """Runs every unit; yields each when its verdicts are stored. `graders` are by dataset name.

    Raises:
        JobStopped: something that no retry mends, in one line.
    """
    job_id = uuid.uuid4().hex[:8]  # names must not clash with another job's on the same cluster
    earlier = experiment.earlier_verdicts() if config.use_grader_cache else []
    store = _on_this_node(StoreActor, f"evalgen_store_{job_id}").remote(
        experiment.samples.resolve(), experiment.verdicts.resolve(), earlier
    )
    num_graders = -(-config.max_connections // CONNECTIONS_PER_GRADING_ACTOR)
    # Every question at work may wait in the limiter; with fewer places than that, nobody could return a lease.
    places = num_graders * config.max_connections + num_graders
    limiter = _on_this_node(RateLimiterActor, f"evalgen_rate_limiter_{job_id}", max_concurrency=places).remote(
        requests_per_minute=config.requests_per_minute, max_connections=config.max_connections
    )
    rows = [
        unit.to_row() | {"grader": grader_to_json(graders[unit.dataset]), "next_checkpoint": following}
        for unit, following in zip(units, _next_checkpoints(units), strict=True)
    ]
    unseen = {unit.id: unit for unit in units}
    try:
        for batch in _pipeline(config, rows, store, limiter, num_replicas, num_graders).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            for graded in _graded_units(batch):
                unseen.pop(graded.unit_id, None)
                yield graded
        for unit in unseen.values():  # enumerated, and nothing was probable enough: no question was asked
            yield GradedUnit(unit_id=unit.id, dataset=unit.dataset, num_questions=0, num_equivalent=0, num_ungraded=0)
        ray.get(store.close.remote())
    except RayError as error:
        reason = _reason(store, error)
        _close(store)
        raise JobStopped(reason) from error


def _pipeline(
    config: JobConfig,
    rows: Sequence[Mapping[str, Any]],
    store: Any,
    limiter: Any,
    num_replicas: int,
    num_graders: int,
) -> Dataset:
    questions = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map_batches(
        SamplingActor,
        fn_constructor_kwargs={
            "store": store,
            "num_threads": max(1, num_cpus() // num_replicas),
            "budget_bytes": config.kv_budget_bytes,
        },
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=num_replicas, max_tasks_in_flight_per_actor=1),
        # No CPU is reserved: on a small machine actors that hold them would leave none for reading the units.
        num_cpus=0,
        num_gpus=1 if num_gpus() else 0,
    )
    return questions.map_batches(
        GradingActor,
        fn_constructor_kwargs={
            "store": store,
            "limiter": limiter,
            "max_connections": config.max_connections,
            "environment": grader_environment(config),
        },
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=num_graders, max_concurrent_calls_per_actor=UNITS_IN_FLIGHT_PER_GRADING_ACTOR),
        num_cpus=0,
    )


def _next_checkpoints(units: Sequence[SamplingUnit]) -> list[str]:
    """For each unit the path of the first other checkpoint after it; empty where there is none."""
    following = ""
    found = []
    for unit, after in zip(reversed(units), [None, *reversed(units[1:])], strict=True):
        if after is not None and after.checkpoint.path != unit.checkpoint.path:
            following = after.checkpoint.path
        found.append(following)
    return found[::-1]


def _graded_units(batch: pa.Table) -> Iterator[GradedUnit]:
    verdicts: dict[tuple[str, str], list[str]] = {}
    for row in batch.to_pylist():
        verdicts.setdefault((row["unit_id"], row["dataset"]), []).append(row["verdict"])
    for (unit_id, dataset), kinds in verdicts.items():
        yield GradedUnit(
            unit_id=unit_id,
            dataset=dataset,
            num_questions=len(kinds),
            num_equivalent=kinds.count("equivalent"),
            num_ungraded=kinds.count("ungraded"),
        )


def _on_this_node(actor_class: Any, name: str, **options: Any) -> Any:
    node = ray.get_runtime_context().get_node_id()
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return actor_class.options(name=name, scheduling_strategy=strategy, **options)


def _close(store: Any) -> None:
    """Leaves the verdicts that were paid for in one file; if that fails too, their journal is there."""
    with contextlib.suppress(RayError):
        ray.get(store.close.remote())


def _reason(store: Any, error: RayError) -> str:
    """Why an actor gave up, in its own words; where it could not say, the last line of Ray's report."""
    try:
        noted: str | None = ray.get(store.failure.remote())
    except RayError:
        noted = None  # the store itself is gone
    return noted or f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
