"""Simulates plan and schedule of whole jobs, from 1 to 512 replicas, and compares their makespans with lower bounds.

    python -m tests.benchmarks.simulate_schedule                      about 20 minutes on one core; --help for more

Every checkpoint is asked the same prompts; more than a million in all are simulated as fewer and longer ones. A load
takes as long as 0 to 64 units of the job's mean. What a unit takes is

* `exact`: its estimated cost;
* `noise`: that, times noise from unit to unit;
* `skewed`: that, its nodes times how far the estimate is off for its checkpoint, which no schedule can know before.

With R replicas, C checkpoints, loads of L seconds, w_c seconds of sampling for checkpoint c and W in all:

`bound_s`, for given units. In a makespan of T a replica samples at most T - L seconds of one checkpoint, so checkpoint
c is loaded at least ceil(w_c / (T - L)) times. Every replica that does anything loads something, and none loads more
than T / L times. So there are n >= max(R, sum of these) loads, n <= R floor(T / L), and W + n L <= R T: the least T for
which that is possible is a bound, and so is L + the longest unit. Fewer than R replicas only make it harder (W + n L <=
r T), so the bound also holds for schedules that leave some idle; more replicas than units are of no use.

`bound_of_any_cut_s`, for whatever units the `exact` job might have been cut into. A unit costs F and its nodes, so that
a replica spends L + F on every checkpoint it works on. Replicas and checkpoints, joined where one works on the other,
fall into connected parts; one with r replicas and c checkpoints takes at least c + r - 1 loads, and some part has at
least its share of checkpoints: c / r >= C / R. The least (c w + (c + r - 1) (L + F)) / r over such r and c is a bound.
Splitting a prompt's draws makes more work, for the cost grows more slowly than their number. So in T a replica does at
most x = T - L - F seconds' worth of whole prompts and one piece of another; and where x is too short for a whole
prompt, each one takes as many pieces of at most x.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

from rich.console import Console
from rich.table import Table

from evalgen.config import RunConfig
from evalgen.job import DatasetPlan
from evalgen.records import Checkpoint, GraderSpec, Query, SamplingUnit
from evalgen.schedule import Schedule
from evalgen.unit_costs import estimated_cost
from evalgen.unit_store import SamplingCost
from evalgen.units import plan_units

REPLICAS = (1, 2, 8, 64, 512)
CHECKPOINTS = (4, 40, 400)
PROMPTS = (10, 1_000, 100_000)  # of each checkpoint
LOADS = (0, 1, 8, 64)  # in the job's mean unit
NOISE = 0.2  # standard deviations of logarithms
SKEW = 0.5
MOST_PROMPTS = 1_000_000  # of a job
PRECISION = 1e-4  # of the bounds


@dataclass(frozen=True)
class SimulatedJob:
    """`num_prompts` prompts for each checkpoint."""

    num_replicas: int
    num_checkpoints: int
    num_prompts: int
    temperature: float = 1.0
    num_generations: int = 1000

    @cached_property
    def plans(self) -> list[DatasetPlan]:
        as_one = max(1, self.num_prompts * self.num_checkpoints // MOST_PROMPTS)
        queries = tuple(
            Query(id=str(number), prompt=str(number), reference="", source_dataset="")
            for number in range(self.num_prompts // as_one)
        )
        settings = RunConfig(
            temperature=self.temperature, num_generations=self.num_generations, max_new_tokens=10 * as_one
        )
        return [
            DatasetPlan(
                name=f"sampled_{number}",
                checkpoint=Checkpoint(run="", name=str(number), path=str(number), tokenizer_path=""),
                queries=queries,
                grader=GraderSpec(model="offline/exact", instructions=""),
                settings=settings,
            )
            for number in range(self.num_checkpoints)
        ]

    @cached_property
    def units(self) -> tuple[SamplingUnit, ...]:
        return plan_units(self.plans, self.num_replicas)

    def seconds(self, noise: float, skew: float) -> dict[str, float]:
        """What each unit takes, by its id."""
        numbers = random.Random(0)
        skews = {plan.checkpoint.path: numbers.lognormvariate(0, skew) for plan in self.plans}
        return {
            unit.id: (cost_of_no_nodes(unit) + cost_of_nodes(unit) * skews[unit.checkpoint.path])
            * numbers.lognormvariate(0, noise)
            for unit in self.units
        }


def cost_of_nodes(unit: SamplingUnit) -> float:
    return estimated_cost(replace(unit, queries=unit.queries * 2)) - estimated_cost(unit)


def cost_of_no_nodes(unit: SamplingUnit) -> float:
    return estimated_cost(unit) - cost_of_nodes(unit)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    makespan_s: float
    loads: Counter[tuple[str, str]]  # by replica and checkpoint


def simulate(units: Sequence[SamplingUnit], num_replicas: int, sample_s: Mapping[str, float], load_s: float) -> Outcome:
    """Every replica asks when it is free, and those without work whenever a unit is finished."""
    schedule = Schedule(units, num_replicas)
    tickets = itertools.count()
    held: dict[str, str] = {}
    loads: Counter[tuple[str, str]] = Counter()
    ends: list[tuple[float, int, str, SamplingUnit, float]] = []  # with what the load took
    now = 0.0

    def begins(replica: str) -> bool:
        ticket = next(tickets)
        unit = schedule.take(ticket, replica)
        if unit is None:
            return False
        path = unit.checkpoint.path
        this_load_s = 0.0 if held.get(replica) == path else load_s
        loads[replica, path] += held.get(replica) != path
        held[replica] = path
        heapq.heappush(ends, (now + this_load_s + sample_s[unit.id], ticket, replica, unit, this_load_s))
        return True

    idle = [replica for replica in map(str, range(num_replicas)) if not begins(replica)]
    while ends:
        now, _, replica, unit, this_load_s = heapq.heappop(ends)
        schedule.finished(unit.id, cost_of(sample_s[unit.id], this_load_s))
        idle = [replica for replica in (replica, *idle) if not begins(replica)]
    assert schedule.is_over and not schedule.failures
    return Outcome(makespan_s=now, loads=loads)


def cost_of(sample_s: float, load_s: float) -> SamplingCost:
    return SamplingCost(
        model_evaluations=0,
        distinct_prefixes=0,
        out_of_memory_halvings=0,
        load_s=load_s,
        sample_s=sample_s,
        finished_at=0.0,
    )


def bound_s(units: Sequence[SamplingUnit], num_replicas: int, sample_s: Mapping[str, float], load_s: float) -> float:
    """See above."""
    of_checkpoint: Counter[str] = Counter()
    for unit in units:
        of_checkpoint[unit.checkpoint.path] += sample_s[unit.id]
    num_useful = min(num_replicas, len(units))

    def is_possible(makespan_s: float) -> bool:
        num_loads = sum(math.ceil(work_s / (makespan_s - load_s)) for work_s in of_checkpoint.values())
        num_loads = max(num_useful, num_loads)
        if load_s and num_loads > num_useful * math.floor(makespan_s / load_s):
            return False
        return of_checkpoint.total() + num_loads * load_s <= num_useful * makespan_s

    return least(is_possible, load_s + max(sample_s.values()))


def bound_of_any_cut_s(job: SimulatedJob, load_s: float) -> float:
    """See above."""
    one_prompt = replace(job.units[0], queries=job.plans[0].queries[:1], first_draw=0, num_draws=job.num_generations)
    prompt_s, begin_s = cost_of_nodes(one_prompt), load_s + cost_of_no_nodes(one_prompt)
    num_replicas, num_checkpoints = job.num_replicas, job.num_checkpoints
    num_prompts = len(job.plans[0].queries)

    def share_s(replicas: int) -> float:
        checkpoints = -(-replicas * num_checkpoints // num_replicas)
        return (checkpoints * num_prompts * prompt_s + (checkpoints + replicas - 1) * begin_s) / replicas

    def piece_s(num_draws: int) -> float:
        return cost_of_nodes(replace(one_prompt, num_draws=num_draws))

    def is_possible(makespan_s: float) -> bool:
        num_whole, rest_s = divmod(makespan_s - begin_s, prompt_s)
        draws = bisected(piece_s, rest_s, job.num_generations)
        if num_replicas * (num_whole + draws / job.num_generations) < num_checkpoints * num_prompts:
            return False
        if num_whole:
            return True
        num_pieces, left = divmod(job.num_generations, draws)
        work_s = num_checkpoints * num_prompts * (num_pieces * piece_s(draws) + (piece_s(left) if left else 0))
        return work_s <= num_replicas * rest_s

    return max(min(map(share_s, range(1, num_replicas + 1))), least(is_possible, begin_s))


def bisected(piece_s: Callable[[int], float], seconds: float, most: int) -> int:
    """The most draws that take no longer."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if piece_s(middle) <= seconds else (low, middle - 1)
    return low


def least(is_possible: Callable[[float], bool], low: float) -> float:
    """The least number from `low` on that is possible; all above are."""
    low *= 1 + PRECISION  # no division by what rounding has left of nothing
    if is_possible(low):
        return low / (1 + PRECISION)
    high = 2 * low
    while not is_possible(high):
        low, high = high, 2 * high
    while high - low > PRECISION * low:
        middle = (low + high) / 2
        low, high = (low, middle) if is_possible(middle) else (middle, high)
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--replicas", type=int, nargs="+", default=REPLICAS)
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS)
    arguments = parser.parse_args()
    for temperature in arguments.temperature:
        table = Table(title=f"T={temperature}, 1,000 draws a prompt: the largest ratio over loads of 0 to 64 units")
        headings = "replicas checkpoints prompts|units|exact / any cut|exact|noise|skewed|loads|loads / replica"
        for heading in headings.replace(" ", "|", 2).split("|"):
            table.add_column(heading, justify="right")
        for sizes in itertools.product(arguments.replicas, CHECKPOINTS, arguments.prompts):
            table.add_row(*row(SimulatedJob(*sizes, temperature=temperature)), end_section=sizes[1:] == (400, 100_000))
        Console(width=None if Console().is_terminal else 130).print(table)


def row(job: SimulatedJob) -> tuple[str, ...]:
    """The loads are those of `noise` where a load takes as long as a unit."""
    exact, noise, skewed = job.seconds(0, 0), job.seconds(NOISE, 0), job.seconds(NOISE, SKEW)
    ratios: dict[str, list[float]] = {name: [] for name in ("any cut", "exact", "noise", "skewed")}
    num_loads = 0
    for in_units in LOADS:
        load_s = in_units * fmean(exact.values())
        for name, sample_s in (("exact", exact), ("noise", noise), ("skewed", skewed)):
            outcome = simulate(job.units, job.num_replicas, sample_s, load_s)
            ratios[name].append(outcome.makespan_s / bound_s(job.units, job.num_replicas, sample_s, load_s))
            if name == "exact":
                ratios["any cut"].append(outcome.makespan_s / bound_of_any_cut_s(job, load_s))
            if name == "noise" and in_units == 1:
                num_loads = outcome.loads.total()
    worst = {name: max(zip(values, LOADS, strict=True)) for name, values in ratios.items()}
    return (
        *(f"{size:,}" for size in (job.num_replicas, job.num_checkpoints, job.num_prompts, len(job.units))),
        *(f"{ratio:.2f}" + (f" at {in_units}" if ratio > 1.15 else "") for ratio, in_units in worst.values()),
        f"{num_loads:,}",
        f"{num_loads / job.num_replicas:.2f}",
    )


if __name__ == "__main__":
    main()
