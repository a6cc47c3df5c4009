"""Cuts a job into sampling units: the grain of sampling, of retry and of storage.

What is drawn does not depend on the cut; only how evenly replicas are busy, and how soon grading can begin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from evalgen.records import Query, SamplingUnit
from evalgen.unit_costs import num_sampled
from evalgen.unit_cuts import Cut, Limits, best_cuts

if TYPE_CHECKING:
    from evalgen.job import DatasetPlan

Stored = Mapping[str, Sequence[tuple[int, int]]]  # by prompt id: draws [first, stop) on disk, ascending and disjoint

MAX_PROMPTS = 64  # of a unit, what a dead replica loses; more only where they cost little
MAX_DRAWS = 200_000  # of a unit, of all its prompts together
MAX_UNITS = 20_000  # a larger job has larger units: each is a task of Ray's


def plan_units(
    plans: Sequence[DatasetPlan], num_replicas: int, stored: Mapping[str, Stored] = {}
) -> tuple[SamplingUnit, ...]:
    """Units for all draws of every plan that are not `stored` (by dataset name), plan by plan, large ones first.

    Enumerated prompts have no draws: they are stored if they are in the mapping at all.
    """
    missing = [unit for plan in plans for unit in _missing(plan, stored.get(plan.name, {}))]
    limits = Limits(
        max_prompts=max(MAX_PROMPTS, sum(len(unit.queries) for unit in missing) // MAX_UNITS),
        max_draws=max(MAX_DRAWS, sum(len(unit.queries) * num_sampled(unit) for unit in missing) // MAX_UNITS),
    )
    whole = [part for unit in missing for part in _with_bounded_draws(unit, limits.max_draws)]
    cuts = best_cuts(whole, num_replicas, limits)
    parts = (part for unit, cut in zip(whole, cuts, strict=True) for part in _parts(unit, cut))
    return tuple(replace(part, id=_digest(part)) for part in parts)


def sampling_key(unit: SamplingUnit) -> str:
    """Digest of all that decides what is drawn for a prompt, but for the prompt and the range of its draws."""
    content = asdict(replace(unit, queries=()))
    # The batch size bounds memory, and is not part of the result.
    for name in ("id", "queries", "first_draw", "num_draws", "generation_batch_size"):
        content.pop(name)
    return _sha256(content)


def _digest(unit: SamplingUnit) -> str:
    """Of everything that decides what the unit draws; equal units have equal ids, on every machine."""
    prompts = [(query.id, query.prompt) for query in unit.queries]
    return _sha256([sampling_key(unit), unit.first_draw, unit.num_draws, prompts])


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _missing(plan: DatasetPlan, stored: Stored) -> Iterator[SamplingUnit]:
    """For every range of draws that is lacking, all queries that lack it, as one unit without an id."""
    settings = plan.settings
    by_range: dict[tuple[int, int], list[Query]] = {}
    for query in plan.queries:
        if not settings.enumerates:
            gaps = list(_gaps(stored.get(query.id, ()), settings.num_generations))
        else:
            gaps = [] if query.id in stored else [(0, 0)]
        for gap in gaps:
            by_range.setdefault(gap, []).append(query)
    for (first, stop), queries in by_range.items():
        yield SamplingUnit(
            id="",
            dataset=plan.name,
            checkpoint=plan.checkpoint,
            queries=tuple(queries),
            law=settings.law,
            first_draw=first,
            num_draws=stop - first,
            seed=0 if settings.enumerates else settings.seed,  # nothing is random
            dtype=settings.dtype,
            sampler=settings.sampler,
            min_probability=settings.min_probability,
            generation_batch_size=settings.generation_batch_size,
        )


def _gaps(stored: Sequence[tuple[int, int]], num_draws: int) -> Iterator[tuple[int, int]]:
    """The ranges of draws from 0 to `num_draws` that are not stored."""
    first = 0
    for start, stop in (*stored, (num_draws, num_draws)):
        if first < min(start, num_draws):
            yield first, min(start, num_draws)
        first = max(first, stop)


def _with_bounded_draws(unit: SamplingUnit, max_draws: int) -> Iterator[SamplingUnit]:
    """The unit with its draws in as few and as equal ranges as have at most `max_draws` draws of a prompt."""
    num_ranges = -(-num_sampled(unit) // max_draws)
    bounds = [unit.num_draws * index // num_ranges for index in range(num_ranges + 1)]
    for start, stop in pairwise(bounds):
        yield replace(unit, first_draw=unit.first_draw + start, num_draws=stop - start)


def _parts(unit: SamplingUnit, cut: Cut) -> Iterator[SamplingUnit]:
    """The units themselves, without ids."""
    start, first = 0, unit.first_draw
    for size in cut.prompts:
        yield replace(unit, queries=unit.queries[start : start + size])
        start += size
    for num_draws in cut.draws:
        for query in unit.queries[start:]:
            yield replace(unit, queries=(query,), first_draw=first, num_draws=num_draws)
        first += num_draws
