"""What is left to do for a job, from what its experiment directory holds: all of it, at the beginning."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalgen.files import durable_file
from evalgen.records import Question, SamplingUnit
from evalgen.schedule import FailedUnit
from evalgen.unit_store import StoredUnit, UnitStore
from evalgen.units import plan_units
from evalgen.verdict_store import graded_keys

if TYPE_CHECKING:  # the store's process needs nothing of what these import
    from evalgen.experiment import Experiment
    from evalgen.job import DatasetPlan


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a job has yet to do."""

    units: Sequence[SamplingUnit]  # to be sampled and graded
    ungraded: Sequence[StoredUnit]  # sampled by an earlier part of the job; some of their completions have no verdict


def remaining_work(experiment: Experiment, plans: Sequence[DatasetPlan], num_replicas: int) -> Work:
    """Damaged files of the experiment count as absent."""
    graded = graded_keys(experiment.verdicts)
    plan_of = {plan.name: plan for plan in plans}
    with closing(UnitStore(experiment.samples)) as store:
        return Work(
            units=plan_units(plans, num_replicas, store.ranges()),
            ungraded=[
                unit
                for unit in store.stored
                if not graded.issuperset(q.key for q in questions_of_unit(store, unit, plan_of[unit.dataset]))
            ],
        )


def write_units(path: Path, units: Iterable[SamplingUnit]) -> None:
    """For a process that may be started again at any time, and then needs them again."""
    with durable_file(path) as file:
        file.writelines(json.dumps(unit.to_row()).encode() + b"\n" for unit in units)


def read_units(path: Path) -> list[SamplingUnit]:
    with path.open(encoding="utf-8") as file:
        return [SamplingUnit.from_row(json.loads(line)) for line in file]


def questions_of_unit(store: UnitStore, unit: StoredUnit, plan: DatasetPlan) -> Iterator[Question]:
    """About every completion that is stored for a unit; not without repetitions."""
    queries = {query.id: query for query in plan.queries}
    samples = store.load(unit.unit_id)
    for prompt_id, completion in zip(*(samples[name].to_pylist() for name in ("prompt_id", "completion")), strict=True):
        yield plan.question(queries[prompt_id], completion)


def missing_prompts(failed: Iterable[FailedUnit]) -> dict[str, dict[str, str]]:
    """By dataset and prompt id, why a prompt is not sampled, or not wholly."""
    missing: dict[str, dict[str, str]] = defaultdict(dict)
    for failure in failed:
        missing[failure.unit.dataset] |= {query.id: failure.reason for query in failure.unit.queries}
    return dict(missing)


def incomplete(missing: Mapping[str, Mapping[str, str]], failed: Sequence[FailedUnit]) -> str:
    """Why a job that has `missing` prompts ends as a failure, in one line."""
    num_prompts = sum(len(prompts) for prompts in missing.values())
    reasons = list(dict.fromkeys(failure.reason for failure in failed))
    more = f" (and {len(reasons) - 1} other reasons; missing.json has them all)" if len(reasons) > 1 else ""
    return (
        f"{num_prompts} prompts of {len(missing)} datasets could not be sampled, and these are named .partial: "
        f"{reasons[0]}{more}"
    )
