"""Cuts a job into sampling units: the grain of sampling, of retry and of storage.

What is drawn does not depend on the cut; only how evenly replicas are busy, and how soon grading can begin. The cut is
made before anything runs, so nobody knows yet which replica will sample what: units are large at first and small at
last ("factoring", Hummel, Schonberg and Flynn, CACM 1992), and whoever is free takes the largest that is left
(`evalgen.schedule`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from heapq import heapreplace
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from evalgen.records import Query, SamplingUnit

if TYPE_CHECKING:
    from evalgen.job import DatasetPlan

Stored = Mapping[str, Sequence[tuple[int, int]]]  # by prompt id: draws [first, stop) on disk, ascending and disjoint

MAX_PROMPTS = 64  # of a unit, what a dead replica loses; more only where they cost little
MAX_DRAWS = 200_000  # of a unit, of all its prompts together
MAX_UNITS = 20_000  # a larger job has larger units: each is a task of Ray's
NODES_PER_PASS = 32  # a forward pass takes as long as so many nodes, on top of its own
LITTLE = 1 / 16  # of a unit's cost, at which its forward passes do not matter
ESTIMATES_ARE_OFF_BY = 0.25  # standard deviation of the logarithm, from unit to unit
WORTH_MORE_WORK = 0.01  # of the makespan: what smaller units must save, because they are more work in all


class _CostModel(NamedTuple):
    """What sampling costs, in evaluations of one node."""

    num_tokens: int  # of a completion at most
    exponent: float  # how the nodes of a prompt grow with its draws

    @property
    def fixed(self) -> float:
        """Of a unit, however few its nodes are."""
        return NODES_PER_PASS * float(1 + self.num_tokens)

    def of_prompt(self, num_draws: float) -> float:
        """Its nodes."""
        return float(1 + self.num_tokens * num_draws**self.exponent)

    def of_piece(self, num_draws: int) -> float:
        """A unit of one prompt."""
        return self.fixed + self.of_prompt(num_draws)


class _Grain(NamedTuple):
    """How finely a job is cut: what the nodes of its largest units and of its least cost."""

    largest: float
    least: float
    splits_draws: bool = True  # of the prompts that do not go evenly into the replicas


class _Limits(NamedTuple):
    """Of any unit, whatever the grain."""

    max_prompts: int
    max_draws: int


class _Cut(NamedTuple):
    """One unit as several: first some of as many prompts, then for every prompt left some of as many draws."""

    prompts: tuple[int, ...]
    draws: tuple[int, ...]


def plan_units(
    plans: Sequence[DatasetPlan], num_replicas: int, stored: Mapping[str, Stored] = {}
) -> tuple[SamplingUnit, ...]:
    """Units for all draws of every plan that are not `stored` (by dataset name), plan by plan, large ones first.

    Enumerated prompts have no draws: they are stored if they are in the mapping at all.
    """
    missing = [unit for plan in plans for unit in _missing(plan, stored.get(plan.name, {}))]
    limits = _Limits(
        max_prompts=max(MAX_PROMPTS, sum(len(unit.queries) for unit in missing) // MAX_UNITS),
        max_draws=max(MAX_DRAWS, sum(len(unit.queries) * _num_sampled(unit) for unit in missing) // MAX_UNITS),
    )
    whole = [part for unit in missing for part in _with_bounded_draws(unit, limits.max_draws)]
    cuts = _best_cuts(whole, num_replicas, limits)
    parts = (part for unit, cut in zip(whole, cuts, strict=True) for part in _parts(unit, cut))
    return tuple(replace(part, id=_digest(part)) for part in parts)


def estimated_cost(unit: SamplingUnit) -> float:
    """How long sampling takes, in evaluations of one node; loading the checkpoint not included.

    Every unit takes a forward pass for each token, however few nodes there are: measured on two cores, a pass took as
    long as 12 to 22 nodes on top of its own with SmolLM2, and 55 to 85 with the demo's checkpoints. Draws share
    prefixes, fewer the hotter the sampling: on the demo's checkpoints 1,000 times the draws took 2.8 times as long at
    T=0.1, 10 times at T=0.7 and 51 times at T=1.
    """
    return _cost_model(unit).fixed + _cost_of_nodes(unit)


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
    num_ranges = -(-_num_sampled(unit) // max_draws)
    bounds = [unit.num_draws * index // num_ranges for index in range(num_ranges + 1)]
    for start, stop in pairwise(bounds):
        yield replace(unit, first_draw=unit.first_draw + start, num_draws=stop - start)


def _best_cuts(units: Sequence[SamplingUnit], num_replicas: int, limits: _Limits) -> list[_Cut]:
    """How to cut each unit so that the job ends early; of cuts that end about as early, the one with the least work."""
    per_replica = sum(map(_cost_of_nodes, units)) / num_replicas
    options = []
    for grain in _grains(per_replica, max((_cost_model(unit).fixed for unit in units), default=0.0)):
        cuts = [_cut(unit, _cost_of_nodes(unit) / per_replica, grain, limits) for unit in units]
        costs = [cost for unit, cut in zip(units, cuts, strict=True) for cost in _costs(unit, cut)]
        options.append((_likely_makespan(costs, num_replicas), sum(costs), cuts))
    earliest = min(makespan for makespan, _, _ in options)
    early = [option for option in options if option[0] <= (1 + WORTH_MORE_WORK) * earliest]
    return min(early, key=lambda option: option[1])[2]


def _grains(per_replica: float, fixed: float) -> list[_Grain]:
    """Worth trying for a job with so much cost of nodes for each replica, and so much `fixed` cost of every unit."""
    if per_replica * LITTLE / 8 > fixed:  # small units cost little: an unexpected straggler is short
        return [_Grain(per_replica / 8, per_replica / 64)]
    shares = (16, 4, 2, 1.6, 1.4, 1.2, 1.1, 1, 4 / 5, 2 / 3, 1 / 2, 2 / 5, 1 / 3, 1 / 4, 1 / 6, 1 / 8)
    largest = [per_replica * share for share in shares]
    return [_Grain(x, x / parts, splits) for x in largest for parts in (1, 2, 4) for splits in (False, True)]


def _likely_makespan(costs: Sequence[float], num_replicas: int) -> float:
    """When a job without loads ends if replicas take the largest unit first; the mean of estimated and likely costs."""
    random = Random(0)
    ordered = sorted(costs, reverse=True)
    makespan = 0.0
    for deviation in (0.0, ESTIMATES_ARE_OFF_BY):
        ends = [0.0] * num_replicas
        for cost in ordered:
            heapreplace(ends, ends[0] + cost * random.lognormvariate(0, deviation))
        makespan += max(ends) / 2
    return makespan


def _cut(unit: SamplingUnit, share: float, grain: _Grain, limits: _Limits) -> _Cut:
    """`share`: how many replicas the unit would keep busy all the time."""
    model = _cost_model(unit)
    prompt = model.of_prompt(_leaves(unit))
    max_prompts = max(limits.max_prompts, round(model.fixed / LITTLE / prompt))
    largest = max(1, min(round(grain.largest / prompt), max_prompts, limits.max_draws // _num_sampled(unit)))
    least = max(1, min(round(grain.least / prompt), largest))
    num_replicas = max(1, math.floor(share))
    num_split = len(unit.queries) % num_replicas if grain.splits_draws and _is_divisible(unit) else 0
    return _Cut(
        prompts=_falling(len(unit.queries) - num_split, max(1.0, share), largest, least),
        draws=_pieces(model, unit.num_draws, num_split, num_replicas) if num_split else (),
    )


@lru_cache(maxsize=1024)
def _falling(total: int, num_replicas: float, largest: int, least: int) -> tuple[int, ...]:
    """Sizes that sum to `total`: each is half of what is left for a replica, and the last ones are equal."""
    sizes = []
    while total > 2 * num_replicas * least:
        sizes.append(min(largest, math.ceil(total / (2 * num_replicas))))
        total -= sizes[-1]
    num_last = -(-total // least)
    return (*sizes, *(-(-(total - index) // num_last) for index in range(num_last)))


@lru_cache(maxsize=1024)
def _pieces(model: _CostModel, num_draws: int, num_prompts: int, num_replicas: int) -> tuple[int, ...]:
    """Into how many draws each to cut `num_prompts` prompts, fewer than replicas, so that all are done early.

    Pieces share fewer prefixes, so many small ones can take longer than a few; of those that take about as long, the
    largest.
    """
    eighths = range(8, 8 * (num_replicas // num_prompts + 1) + 1)
    sizes = {math.ceil(num_draws * 8 / parts) for parts in eighths}
    cuts = {(size,) * (num_draws // size) + (num_draws % size,) * (num_draws % size > 0) for size in sizes}
    costs = {cut: _cost_of_pieces(model, cut, num_prompts, num_replicas) for cut in cuts}
    return max(cut for cut in cuts if costs[cut] <= (1 + WORTH_MORE_WORK) * min(costs.values()))


def _cost_of_pieces(model: _CostModel, draws: Sequence[int], num_prompts: int, num_replicas: int) -> float:
    """The cost until all is done: a replica for each of the equal pieces, and the last ones on those that are idle."""
    first, last = model.of_piece(draws[0]), model.of_piece(draws[-1])
    num_equal = draws.count(draws[0])
    num_idle = num_replicas - num_prompts * num_equal
    if num_idle < 0:
        return math.inf
    if num_equal == len(draws):
        return first
    return max(first, -(-num_prompts // num_idle) * last) if num_idle else first + last


def _costs(unit: SamplingUnit, cut: _Cut) -> Iterator[float]:
    model, leaves = _cost_model(unit), _leaves(unit)
    yield from (model.fixed + size * model.of_prompt(leaves) for size in cut.prompts)
    num_split = len(unit.queries) - sum(cut.prompts)
    yield from (model.of_piece(num_draws) for num_draws in cut.draws for _ in range(num_split))


def _parts(unit: SamplingUnit, cut: _Cut) -> Iterator[SamplingUnit]:
    """The units themselves, without ids."""
    start, first = 0, unit.first_draw
    for size in cut.prompts:
        yield replace(unit, queries=unit.queries[start : start + size])
        start += size
    for num_draws in cut.draws:
        for query in unit.queries[start:]:
            yield replace(unit, queries=(query,), first_draw=first, num_draws=num_draws)
        first += num_draws


def _is_divisible(unit: SamplingUnit) -> bool:
    """Whether draws of a prompt can be made apart: one greedy completion stands for all."""
    return unit.law.do_sample and unit.num_draws > 1


def _num_sampled(unit: SamplingUnit) -> int:
    """Draws of a prompt that are really made."""
    return unit.num_draws if _is_divisible(unit) else 1


def _leaves(unit: SamplingUnit) -> float:
    """Draws that cost as much as what is done for a prompt: what is enumerated, about as many find."""
    return 1 / unit.min_probability if unit.min_probability else _num_sampled(unit)


def _cost_of_nodes(unit: SamplingUnit) -> float:
    return len(unit.queries) * _cost_model(unit).of_prompt(_leaves(unit))


def _cost_model(unit: SamplingUnit) -> _CostModel:
    exponent = 1.0 if unit.sampler == "independent" else min(1.0, 0.1 + 0.5 * unit.law.temperature)
    return _CostModel(unit.law.max_new_tokens, exponent)
