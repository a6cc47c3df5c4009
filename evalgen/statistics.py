"""The figures of a dataset and of a job, as `summary.json` holds them.

In an enumerated set nothing was drawn: a completion counts by its probability where it would by its draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from evalgen.assembly import AssembledDataset
from evalgen.errors import JobStopped
from evalgen.forecast import shared_tokens
from evalgen.grading.votes import Agreement
from evalgen.job import DatasetPlan
from evalgen.records import Verdict, VerdictKind
from evalgen.unit_store import SamplingCost


@dataclass(frozen=True, kw_only=True)
class DatasetStatistics:
    """One entry of `summary.json`'s `datasets`; "unique" counts distinct completions, "draws" counts every sample."""

    name: str
    run: str
    checkpoint: str
    num_prompts: int
    num_missing_prompts: int  # that are not sampled, or not wholly: all other figures are without them
    num_draws: int | None  # None: enumerated
    num_unique: int
    num_graded: int  # unique, without the ungraded
    num_equivalent: int
    num_ungraded: int
    equivalence_rate: float | None  # equivalent of graded, per unique completion; None: nothing graded
    draw_equivalence_rate: float | None  # the same per draw; per probability under the law, if enumerated
    covered_mass: float | None  # probability of all that was enumerated, mean over the prompts; None: drawn
    num_items: int  # rows of the dataset
    num_reencoded: int  # of them: those whose ids were not drawn, because the text ends inside a drawn token
    num_unique_prompts: int  # prompts with at least one row
    num_left_out: int  # equivalent, but no row can hold them
    num_asked: int  # questions that the judge was asked, each as often as it was put to the vote
    api_calls: int  # fewer than that with packs
    input_tokens_saved: int  # by packs, about: what the calls that they saved would have had in common
    input_tokens: int
    output_tokens: int
    cost_usd: float | None  # None: the grader's price is unknown
    grader_alpha: float | None  # agreement of the votes (Krippendorff); None: one vote each, or all votes alike
    model_evaluations: int  # as many as distinct_prefixes with the tree; more where completions are enumerated
    distinct_prefixes: int  # of the completions: the fewest evaluations with which they can be drawn


@dataclass(frozen=True, kw_only=True)
class PromptStatistics:
    """What became of one prompt in one dataset, in short: `evalgen.prompt_figures` has all of it."""

    dataset: str
    prompt_id: str
    prompt: str
    reference: str
    num_unique: int
    num_variations: int  # distinct completions kept
    covered_mass: float | None  # probability under the law of all its completions together; None: drawn


class DatasetTally:
    """Adds up the figures of one dataset, of which some queries are assembled at a time."""

    def __init__(self, plan: DatasetPlan, num_missing_prompts: int = 0) -> None:
        self._plan = plan
        self._num_missing_prompts = num_missing_prompts
        self._num_unique: dict[VerdictKind, int] = dict.fromkeys(get_args(VerdictKind), 0)
        self._prevalence: dict[VerdictKind, float] = dict.fromkeys(get_args(VerdictKind), 0)
        self._num_items = self._num_reencoded = self._num_left_out = self._num_unique_prompts = 0
        self._num_asked = self._api_calls = self._input_tokens = self._output_tokens = 0
        self._agreement = Agreement()
        self._cost_usd: float | None = 0.0
        self.prompts: list[PromptStatistics] = []

    def add(self, part: AssembledDataset, paid: Iterable[Verdict] = ()) -> None:
        """`paid` are the verdicts whose cost is this dataset's."""
        for judged in part.judged:
            self._num_unique[judged.verdict.kind] += 1
            self._prevalence[judged.verdict.kind] += judged.completion.prevalence
            self._agreement.add(judged.verdict.votes)
        self._num_items += len(part.rows)
        self._num_reencoded += sum(not row["tokens_as_drawn"] for row in part.rows)
        self._num_left_out += len(part.left_out)
        self._num_unique_prompts += len({row["prompt_id"] for row in part.rows})
        for verdict in paid:
            self._num_asked += max(1, len(verdict.votes)) if verdict.input_tokens else 0
            self._api_calls += verdict.api_calls
            self._input_tokens += verdict.input_tokens
            self._output_tokens += verdict.output_tokens
            self._cost_usd = _sum(self._cost_usd, verdict.cost_usd)
        self.prompts += prompt_statistics(self._plan, part)

    def figures(self, costs: Iterable[SamplingCost]) -> DatasetStatistics:
        """The dataset's, once all of it is added; `costs` are those of its units."""
        costs = list(costs)
        num_ungraded = self._num_unique["ungraded"]
        num_graded = self._num_unique["equivalent"] + self._num_unique["not_equivalent"]
        graded_prevalence = self._prevalence["equivalent"] + self._prevalence["not_equivalent"]
        num_unique = sum(prompt.num_unique for prompt in self.prompts)
        assert num_graded + num_ungraded == num_unique, f"{self._plan.name}: {self._num_unique} of {num_unique}"
        masses = [prompt.covered_mass for prompt in self.prompts if prompt.covered_mass is not None]
        return DatasetStatistics(
            name=self._plan.name,
            run=self._plan.checkpoint.run,
            checkpoint=self._plan.checkpoint.name,
            num_prompts=len(self._plan.queries),
            num_missing_prompts=self._num_missing_prompts,
            num_draws=self._num_draws(),
            num_unique=num_unique,
            num_graded=num_graded,
            num_equivalent=self._num_unique["equivalent"],
            num_ungraded=num_ungraded,
            equivalence_rate=_share(self._num_unique["equivalent"], num_graded),
            draw_equivalence_rate=_share(self._prevalence["equivalent"], graded_prevalence),
            covered_mass=_share(sum(masses), len(masses)),
            num_items=self._num_items,
            num_reencoded=self._num_reencoded,
            num_unique_prompts=self._num_unique_prompts,
            num_left_out=self._num_left_out - num_ungraded,
            num_asked=self._num_asked,
            api_calls=self._api_calls,
            input_tokens_saved=self._input_tokens_saved(),
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
            cost_usd=self._cost_usd,
            grader_alpha=self._agreement.alpha,
            model_evaluations=sum(cost.model_evaluations for cost in costs),
            distinct_prefixes=sum(cost.distinct_prefixes for cost in costs),
        )

    def _input_tokens_saved(self) -> int:
        num_calls_saved = self._num_asked - self._api_calls
        if num_calls_saved <= 0:
            return 0
        return round(num_calls_saved * shared_tokens(self._plan.question(self._plan.queries[0], "")))

    def _num_draws(self) -> int | None:
        if self._plan.settings.enumerates:
            return None
        num_draws = int(sum(self._prevalence.values()))
        num_whole = len(self._plan.queries) - self._num_missing_prompts
        expected_draws = num_whole * self._plan.settings.num_generations
        assert num_draws == expected_draws, f"{self._plan.name}: {num_draws} draws, expected {expected_draws}"
        return num_draws


def prompt_statistics(plan: DatasetPlan, assembled: AssembledDataset) -> list[PromptStatistics]:
    """One entry for each query that was assembled, in query order."""
    return [
        PromptStatistics(
            dataset=plan.name,
            prompt_id=prompt.prompt_id,
            prompt=prompt.prompt,
            reference=prompt.reference_completion,
            num_unique=prompt.num_unique,
            num_variations=prompt.num_variations,
            covered_mass=prompt.covered_mass,
        )
        for prompt in assembled.prompts
    ]


def check_any_graded(datasets: Sequence[DatasetStatistics]) -> None:
    """Whether the job's judges were of any use.

    Raises:
        JobStopped: questions were asked, and none got a verdict.
    """
    num_ungraded = sum(dataset.num_ungraded for dataset in datasets)
    if num_ungraded and not any(dataset.num_graded for dataset in datasets):
        raise JobStopped(f"none of {num_ungraded} questions got a verdict: left_out.json of each dataset says why")


def summary(
    datasets: Sequence[DatasetStatistics], prompts: Sequence[PromptStatistics], timings: Mapping[str, float]
) -> dict[str, Any]:
    """The content of `summary.json`."""
    return {
        "datasets": [asdict(dataset) for dataset in datasets],
        "prompts": [asdict(prompt) for prompt in prompts],
        "timings": {stage: round(seconds, 3) for stage, seconds in timings.items()},
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second
