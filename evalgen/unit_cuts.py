"""How to cut units: large at first and small at last, so that all replicas are done at about the same time.

"Factoring", Hummel, Schonberg and Flynn, CACM 1992. The cut is made before anything runs, so nobody knows yet which
replica will sample what: whoever is free takes the largest that is left (`evalgen.schedule`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from heapq import heapreplace
from random import Random
from typing import NamedTuple

from evalgen.records import SamplingUnit
from evalgen.unit_costs import CostModel, cost_model, cost_of_nodes, is_divisible, leaves_of_prompt, num_sampled

LITTLE = 1 / 16  # of a unit's cost, at which its forward passes do not matter
ESTIMATES_ARE_OFF_BY = 0.25  # standard deviation of the logarithm, from unit to unit
WORTH_MORE_WORK = 0.01  # of the makespan: what smaller units must save, because they are more work in all


class _Grain(NamedTuple):
    """How finely a job is cut: what the nodes of its largest units and of its least cost."""

    largest: float
    least: float
    splits_draws: bool = True  # of the prompts that do not go evenly into the replicas


class Limits(NamedTuple):
    """Of any unit, whatever the grain."""

    max_prompts: int
    max_draws: int


class Cut(NamedTuple):
    """One unit as several: first some of as many prompts, then for every prompt left some of as many draws."""

    prompts: tuple[int, ...]
    draws: tuple[int, ...]


def best_cuts(units: Sequence[SamplingUnit], num_replicas: int, limits: Limits) -> list[Cut]:
    """How to cut each unit so that the job ends early; of cuts that end about as early, the one with the least work."""
    per_replica = sum(map(cost_of_nodes, units)) / num_replicas
    options = []
    for grain in _grains(per_replica, max((cost_model(unit).fixed for unit in units), default=0.0)):
        cuts = [_cut(unit, cost_of_nodes(unit) / per_replica, grain, limits) for unit in units]
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


def _cut(unit: SamplingUnit, share: float, grain: _Grain, limits: Limits) -> Cut:
    """`share`: how many replicas the unit would keep busy all the time."""
    model = cost_model(unit)
    prompt = model.of_prompt(leaves_of_prompt(unit))
    max_prompts = max(limits.max_prompts, round(model.fixed / LITTLE / prompt))
    largest = max(1, min(round(grain.largest / prompt), max_prompts, limits.max_draws // num_sampled(unit)))
    least = max(1, min(round(grain.least / prompt), largest))
    num_replicas = max(1, math.floor(share))
    num_split = len(unit.queries) % num_replicas if grain.splits_draws and is_divisible(unit) else 0
    return Cut(
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
def _pieces(model: CostModel, num_draws: int, num_prompts: int, num_replicas: int) -> tuple[int, ...]:
    """Into how many draws each to cut `num_prompts` prompts, fewer than replicas, so that all are done early.

    Pieces share fewer prefixes, so many small ones can take longer than a few; of those that take about as long, the
    largest.
    """
    eighths = range(8, 8 * (num_replicas // num_prompts + 1) + 1)
    sizes = {math.ceil(num_draws * 8 / parts) for parts in eighths}
    cuts = {(size,) * (num_draws // size) + (num_draws % size,) * (num_draws % size > 0) for size in sizes}
    costs = {cut: _cost_of_pieces(model, cut, num_prompts, num_replicas) for cut in cuts}
    return max(cut for cut in cuts if costs[cut] <= (1 + WORTH_MORE_WORK) * min(costs.values()))


def _cost_of_pieces(model: CostModel, draws: Sequence[int], num_prompts: int, num_replicas: int) -> float:
    """The cost until all is done: a replica for each of the equal pieces, and the last ones on those that are idle."""
    first, last = model.of_piece(draws[0]), model.of_piece(draws[-1])
    num_equal = draws.count(draws[0])
    num_idle = num_replicas - num_prompts * num_equal
    if num_idle < 0:
        return math.inf
    if num_equal == len(draws):
        return first
    return max(first, -(-num_prompts // num_idle) * last) if num_idle else first + last


def _costs(unit: SamplingUnit, cut: Cut) -> Iterator[float]:
    model, leaves = cost_model(unit), leaves_of_prompt(unit)
    yield from (model.fixed + size * model.of_prompt(leaves) for size in cut.prompts)
    num_split = len(unit.queries) - sum(cut.prompts)
    yield from (model.of_piece(num_draws) for num_draws in cut.draws for _ in range(num_split))
