"""Cuts a job into sampling units: the grain of sampling, of retry and of storage.

What is drawn does not depend on the cut; only how evenly replicas are busy, and how soon grading can begin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from evalgen.job import DatasetPlan
from evalgen.records import Query, SamplingUnit

UNITS_PER_REPLICA = 4  # enough that grading overlaps with sampling and that no replica waits long for the last one
MAX_QUERIES_PER_UNIT = 64  # what a dead replica loses at most


def plan_units(plans: Sequence[DatasetPlan], num_replicas: int) -> tuple[SamplingUnit, ...]:
    """Units for every query of every plan, those of one checkpoint one after the other: a replica loads it once."""
    num_queries = sum(len(plan.queries) for plan in plans)
    even_share = -(-num_queries // (UNITS_PER_REPLICA * num_replicas))
    per_unit = max(1, min(MAX_QUERIES_PER_UNIT, even_share))
    return tuple(unit for plan in plans for unit in _units_of(plan, per_unit))


def _units_of(plan: DatasetPlan, per_unit: int) -> Iterator[SamplingUnit]:
    settings = plan.settings
    for start in range(0, len(plan.queries), per_unit):
        unit = SamplingUnit(
            id="",
            dataset=plan.name,
            checkpoint=plan.checkpoint,
            queries=plan.queries[start : start + per_unit],
            law=settings.law,
            first_draw=0,
            num_draws=0 if settings.enumerates else settings.num_generations,
            seed=0 if settings.enumerates else settings.seed,  # nothing is random
            dtype=settings.dtype,
            sampler=settings.sampler,
            min_probability=settings.min_probability,
            generation_batch_size=settings.generation_batch_size,
        )
        yield replace(unit, id=_digest(unit))


def _digest(unit: SamplingUnit) -> str:
    """Of everything that decides what the unit draws; equal units have equal ids, on every machine."""
    content = asdict(unit) | {"queries": [_sampled_part(query) for query in unit.queries]}
    content.pop("generation_batch_size")  # an upper bound on memory, not part of the result
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _sampled_part(query: Query) -> tuple[str, str]:
    return query.id, query.prompt
