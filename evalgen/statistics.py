"""The figures of a dataset and of a job, as `summary.json` holds them.

In an enumerated set nothing was drawn: a completion counts by its probability where it would by its draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evalgen.assembly import AssembledDataset, Judged
from evalgen.job import DatasetPlan
from evalgen.samples import total_count
from evalgen.unit_store import SamplingCost

ROUNDING = 1e-4  # of a sum of probabilities


@dataclass(frozen=True, kw_only=True)
class DatasetStatistics:
    """One entry of `summary.json`'s `datasets`; "unique" counts distinct completions, "draws" counts every sample."""

    name: str
    run: str
    checkpoint: str
    num_prompts: int
    num_draws: int | None  # None: enumerated
    num_unique: int
    num_graded: int  # unique, without the ungraded
    num_equivalent: int
    num_ungraded: int
    equivalence_rate: float | None  # equivalent of graded, per unique completion; None: nothing graded
    draw_equivalence_rate: float | None  # the same per draw; per probability under the law, if enumerated
    covered_mass: float | None  # probability of all that was enumerated, mean over the prompts; None: drawn
    num_items: int  # rows of the dataset
    num_unique_prompts: int  # prompts with at least one row
    num_left_out: int  # equivalent, but no row can hold them
    api_calls: int
    cost_usd: float | None  # None: the grader's price is unknown
    model_evaluations: int
    distinct_prefixes: int


@dataclass(frozen=True, kw_only=True)
class PromptStatistics:
    """What became of one prompt in one dataset."""

    dataset: str
    prompt_id: str
    prompt: str
    reference: str
    num_unique: int
    num_variations: int  # distinct completions kept
    covered_mass: float | None  # probability under the law of all its completions together; None: drawn


def dataset_statistics(
    plan: DatasetPlan,
    assembled: AssembledDataset,
    costs: Sequence[SamplingCost],
    verdict_rows: Iterable[Mapping[str, Any]],
) -> DatasetStatistics:
    """The figures of one dataset; `verdict_rows` are the rows of the questions whose cost is this dataset's."""
    by_kind = {
        kind: [j for j in assembled.judged if j.verdict.kind == kind]
        for kind in ("equivalent", "not_equivalent", "ungraded")
    }
    num_equivalent, num_ungraded = len(by_kind["equivalent"]), len(by_kind["ungraded"])
    num_graded = num_equivalent + len(by_kind["not_equivalent"])
    graded_prevalence = _prevalence(by_kind["equivalent"]) + _prevalence(by_kind["not_equivalent"])
    masses = [mass for mass in _covered_masses(plan, assembled).values() if mass is not None]
    assert len(assembled.judged) == num_graded + num_ungraded, plan.name
    rows = list(verdict_rows)
    prices = [row["cost_usd"] for row in rows]
    return DatasetStatistics(
        name=plan.name,
        run=plan.checkpoint.run,
        checkpoint=plan.checkpoint.name,
        num_prompts=len(plan.queries),
        num_draws=_num_draws(plan, assembled),
        num_unique=len(assembled.judged),
        num_graded=num_graded,
        num_equivalent=num_equivalent,
        num_ungraded=num_ungraded,
        equivalence_rate=_share(num_equivalent, num_graded),
        draw_equivalence_rate=_share(_prevalence(by_kind["equivalent"]), graded_prevalence),
        covered_mass=_share(sum(masses), len(masses)),
        num_items=len(assembled.rows),
        num_unique_prompts=len({row["prompt_id"] for row in assembled.rows}),
        num_left_out=len(assembled.left_out) - num_ungraded,
        api_calls=sum(row["api_calls"] for row in rows),
        cost_usd=None if None in prices else sum(prices),
        model_evaluations=sum(cost.model_evaluations for cost in costs),
        distinct_prefixes=sum(cost.distinct_prefixes for cost in costs),
    )


def prompt_statistics(plan: DatasetPlan, assembled: AssembledDataset) -> list[PromptStatistics]:
    """One entry for each query, in query order."""
    kept: dict[str, set[str]] = {query.id: set() for query in plan.queries}
    num_unique = dict.fromkeys(kept, 0)
    masses = _covered_masses(plan, assembled)
    for row in assembled.rows:
        kept[row["prompt_id"]].add(row["completion"])
    for judged in assembled.judged:
        num_unique[judged.query.id] += 1
    return [
        PromptStatistics(
            dataset=plan.name,
            prompt_id=query.id,
            prompt=query.prompt,
            reference=query.reference,
            num_unique=num_unique[query.id],
            num_variations=len(kept[query.id]),
            covered_mass=masses[query.id],
        )
        for query in plan.queries
    ]


def summary(
    datasets: Sequence[DatasetStatistics], prompts: Sequence[PromptStatistics], timings: Mapping[str, float]
) -> dict[str, Any]:
    """The content of `summary.json`."""
    return {
        "datasets": [asdict(dataset) for dataset in datasets],
        "prompts": [asdict(prompt) for prompt in prompts],
        "timings": {stage: round(seconds, 3) for stage, seconds in timings.items()},
    }


def _num_draws(plan: DatasetPlan, assembled: AssembledDataset) -> int | None:
    if plan.settings.enumerates:
        return None
    num_draws = total_count(j.completion.sample_count for j in assembled.judged)
    expected_draws = len(plan.queries) * plan.settings.num_generations
    assert num_draws == expected_draws, f"{plan.name}: {num_draws} draws, expected {expected_draws}"
    return num_draws


def _covered_masses(plan: DatasetPlan, assembled: AssembledDataset) -> dict[str, float | None]:
    """By prompt id; 0 where no completion was probable enough, None where completions were drawn."""
    if not plan.settings.enumerates:
        return {query.id: None for query in plan.queries}
    masses = {query.id: 0.0 for query in plan.queries}
    for judged in assembled.judged:
        masses[judged.query.id] += judged.completion.prevalence
    assert all(mass < 1 + ROUNDING for mass in masses.values()), f"{plan.name}: {masses}"
    return {prompt_id: min(1.0, mass) for prompt_id, mass in masses.items()}


def _prevalence(judged: Iterable[Judged]) -> float:
    return sum(j.completion.prevalence for j in judged)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
