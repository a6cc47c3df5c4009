"""The cut of a job into units: all that is missing, once, in sizes that fit the replicas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgen import units as units_module
from evalgen.job import DatasetPlan
from evalgen.records import Checkpoint, SamplingUnit
from evalgen.unit_costs import estimated_cost
from evalgen.units import MAX_DRAWS, plan_units, sampling_key
from tests.unit.tiny import law, plan_of, query, unit_of

HOT = {"temperature": 1.0, "max_new_tokens": 10}


def plan(num_prompts: int, number: int = 0, **settings: Any) -> DatasetPlan:
    checkpoint = Checkpoint(run="run", name=f"checkpoint_{number}", path=f"/{number}", tokenizer_path="/t")
    queries = [query(f"prompt {index}", id=str(index)) for index in range(num_prompts)]
    return replace(plan_of(queries, checkpoint, **settings), name=f"sampled_{number}")


def draws_of(units: Sequence[SamplingUnit]) -> Counter[tuple[str, str, int]]:
    """How often each draw of each prompt of each dataset is in a unit."""
    return Counter(
        (unit.dataset, query.id, draw)
        for unit in units
        for query in unit.queries
        for draw in range(unit.first_draw, unit.first_draw + unit.num_draws)
    )


def total_cost(units: Sequence[SamplingUnit]) -> float:
    return sum(map(estimated_cost, units))


@st.composite
def stored_ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Ascending and disjoint; some touch, some go beyond what is wanted."""
    bounds = sorted(draw(st.sets(st.integers(0, 60), max_size=8)))
    ranges = list(pairwise(bounds))
    return [part for part in ranges if draw(st.booleans())]


@settings(max_examples=150, derandomize=True)
@given(
    stored=st.dictionaries(st.integers(0, 14).map(str), stored_ranges()),
    num_prompts=st.integers(1, 12),
    num_generations=st.integers(1, 50),
    num_replicas=st.integers(1, 40),
    temperature=st.sampled_from([0.1, 1.0]),
    do_sample=st.booleans(),
)
def test_units_are_exactly_what_is_not_stored(
    stored: dict[str, list[tuple[int, int]]],
    num_prompts: int,
    num_generations: int,
    num_replicas: int,
    temperature: float,
    do_sample: bool,
) -> None:
    its = {"num_generations": num_generations, "temperature": temperature, "do_sample": do_sample}
    plans = [plan(num_prompts, 0, **its), plan(num_prompts, 1, **its)]
    units = plan_units(plans, num_replicas, {"sampled_0": stored})
    on_disk = {(prompt, draw) for prompt, ranges in stored.items() for part in ranges for draw in range(*part)}
    assert draws_of(units) == {
        (dataset, str(prompt), draw): 1
        for dataset in ("sampled_0", "sampled_1")
        for prompt in range(num_prompts)
        for draw in range(num_generations)
        if dataset == "sampled_1" or (str(prompt), draw) not in on_disk
    }
    assert len({unit.id for unit in units}) == len(units)
    assert all(unit.queries and unit.num_draws for unit in units)
    assert plan_units(plans, num_replicas, {"sampled_0": stored}) == units


@pytest.mark.parametrize("num_replicas", [1, 3, 500])
def test_nothing_is_left_of_a_job_that_is_stored(num_replicas: int) -> None:
    stored = {"sampled_0": {str(index): [(0, 700), (700, 1000)] for index in range(9)}}
    assert plan_units([plan(9)], num_replicas, stored) == ()
    more = plan_units([plan(9, num_generations=1001)], num_replicas, stored)
    assert {(unit.first_draw, unit.num_draws) for unit in more} == {(1000, 1)}


def test_enumerated_prompts_are_stored_or_not_and_never_cut() -> None:
    enumerates = plan(9, sampler="enumerate", min_probability=1e-6)
    units = plan_units([enumerates], 500, {"sampled_0": {"0": [(0, 0)], "5": []}})
    assert sorted(query.id for unit in units for query in unit.queries) == ["1", "2", "3", "4", "6", "7", "8"]
    assert {(unit.first_draw, unit.num_draws) for unit in units} == {(0, 0)}


def test_one_greedy_completion_stands_for_all_draws_and_is_never_cut() -> None:
    units = plan_units([plan(3, do_sample=False, num_generations=10**9)], 500)
    assert {(unit.first_draw, unit.num_draws) for unit in units} == {(0, 10**9)}


def test_draws_are_split_only_where_prompts_do_not_suffice() -> None:
    def splits(num_prompts: int, num_replicas: int, **settings: Any) -> bool:
        job = plan(num_prompts, **HOT | settings)
        return any(unit.num_draws < job.settings.num_generations for unit in plan_units([job], num_replicas))

    assert splits(3, 64) and splits(1, 2)
    assert not splits(64, 1) and not splits(640, 64) and not splits(64, 64)
    assert not splits(3, 64, temperature=0.1), "nearly all draws share their prefixes: a part takes as long as all"


@pytest.mark.parametrize("num_prompts", [1, 100])
def test_a_unit_has_no_more_draws_than_one_replica_can_hold(num_prompts: int) -> None:
    units = plan_units([plan(num_prompts, **HOT, num_generations=1_000_001)], 1)
    assert max(unit.num_draws * len(unit.queries) for unit in units) <= MAX_DRAWS
    assert sum(unit.num_draws * len(unit.queries) for unit in units) == 1_000_001 * num_prompts


@pytest.mark.parametrize("num_replicas", [1, 2, 7, 64, 300])
@pytest.mark.parametrize("num_checkpoints", [1, 3, 40])
def test_units_fall_from_an_eighth_of_a_replicas_work_to_a_small_part_of_it(
    num_replicas: int, num_checkpoints: int
) -> None:
    plans = [plan(100 + 150 * num_replicas // num_checkpoints, n, **HOT) for n in range(num_checkpoints)]
    units = plan_units(plans, num_replicas)
    per_replica = total_cost(units) / num_replicas
    assert max(map(estimated_cost, units)) <= 1.1 * per_replica / 8
    for job in plans:
        costs = [estimated_cost(unit) for unit in units if unit.dataset == job.name]
        assert costs == sorted(costs, reverse=True)
        assert costs[-1] <= max(per_replica / 32, costs[0])


def test_a_small_job_is_not_cut_into_units_that_take_longer_than_they_save() -> None:
    ten_units = sum(estimated_cost(unit_of([query("p")], law=law(temperature=0.1), num_draws=1000)) for _ in range(10))
    units = plan_units([plan(10, temperature=0.1, max_new_tokens=5)], 1)
    assert len(units) == 1 and total_cost(units) < ten_units / 3


def test_a_huge_job_has_tens_of_thousands_of_units_and_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units_module, "MAX_UNITS", 100)
    assert len(plan_units([plan(60_000, **HOT)], 1)) <= 300


def test_a_unit_costs_more_the_more_and_the_hotter_its_draws() -> None:
    def cost(num_prompts: int = 1, **changed: Any) -> float:
        laws = {name: changed.pop(name) for name in ("temperature", "do_sample") if name in changed}
        queries = [query(str(index)) for index in range(num_prompts)]
        return estimated_cost(unit_of(queries, law=law(max_new_tokens=10, **laws), **{"num_draws": 1000} | changed))

    greedy, cold, hot = cost(do_sample=False), cost(temperature=0.1), cost(temperature=1.0)
    assert greedy < cold < hot < cost(temperature=3.0) < cost(temperature=3.0, num_draws=1001)
    assert cost(10) - cost(9) == pytest.approx(cost(2) - cost(1))
    assert cost(10) < 10 * cost(1), "units have costs of their own"
    assert cost(do_sample=False, num_draws=10**6) == greedy
    assert cost(sampler="independent", temperature=0.1) == cost(temperature=3.0), "which shares nothing"
    rare, common = (cost(sampler="enumerate", num_draws=0, min_probability=p, temperature=0.5) for p in (1e-5, 1e-2))
    assert rare > common


def test_the_sampling_key_is_that_of_all_units_of_a_dataset_and_of_no_other() -> None:
    job = plan(9, **HOT)
    units = [*plan_units([job], 3), *plan_units([plan(4, **HOT, num_generations=7, generation_batch_size=2)], 1)]
    assert len({unit.id for unit in units}) == len(units)
    (key,) = {sampling_key(unit) for unit in units}
    unit = units[0]
    others = [
        replace(unit, dataset="other"),
        replace(unit, checkpoint=replace(unit.checkpoint, path="/other")),
        replace(unit, law=replace(unit.law, top_k=1)),
        replace(unit, seed=unit.seed + 1),
        replace(unit, dtype="bf16"),
        replace(unit, sampler="independent"),
        replace(unit, min_probability=0.5),
    ]
    assert len({key, *map(sampling_key, others)}) == 1 + len(others)
