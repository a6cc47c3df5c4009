"""The figures of one prompt: how its draws, its probability and its meanings are spread; a row of `prompts.parquet`.

In an enumerated set nothing was drawn: a completion counts by its probability under the law where it would by its
draws.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pyarrow as pa

from evalgen.job import DatasetPlan
from evalgen.judged import Judged
from evalgen.records import Query, VerdictKind
from evalgen.samples import Completion, total_count

ROUNDING = 1e-4  # of a sum of probabilities
PROMPTS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt_id", "prompt", "reference_completion")),
        *((name, pa.int64()) for name in ("num_draws", "num_unique")),
        *((name, pa.int64()) for name in ("num_equivalent", "num_not_equivalent", "num_ungraded", "num_variations")),
        ("equivalent_draw_share", pa.float64()),
        *((name, pa.float64()) for name in ("seen_mass", "equivalent_mass")),
        *((name, pa.float64()) for name in ("seen_mass_sampling", "equivalent_mass_sampling")),
        *((name, pa.float64()) for name in ("semantic_entropy", "semantic_entropy_lower", "unseen_mass")),
        *((name, pa.string()) for name in ("greedy_completion", "greedy_verdict")),
        ("covered_mass", pa.float64()),
        ("greedy_draws", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class PromptFigures:
    """A row of `prompts.parquet`. "Unique" counts distinct completions; masses are probabilities."""

    prompt_id: str
    prompt: str
    reference_completion: str
    num_draws: int | None  # None: enumerated
    num_unique: int
    num_equivalent: int  # unique
    num_not_equivalent: int  # unique
    num_ungraded: int  # unique
    num_variations: int  # distinct completions kept, after trimming
    equivalent_draw_share: float | None  # of the graded draws; None: nothing is graded
    seen_mass: float  # at T=1, of all distinct token sequences that were drawn, up to where they ended
    equivalent_mass: float  # of those of them that are equivalent
    seen_mass_sampling: float  # under the sampling law
    equivalent_mass_sampling: float
    semantic_entropy: float | None  # see `semantic_entropies`
    semantic_entropy_lower: float | None
    unseen_mass: float | None  # see `good_turing_unseen`; 1 - covered_mass where enumerated; None: greedy
    greedy_completion: str | None  # drawn or not; None: not enumerated, or not in samples of an older version
    greedy_verdict: VerdictKind | None
    covered_mass: float | None  # under the law, of all completions that were enumerated; None: drawn
    greedy_draws: int | None  # that gave the greedy completion; None: it is not known, or enumerated


def prompt_figures(
    plan: DatasetPlan,
    query: Query,
    judged: Sequence[Judged],
    greedy: Judged | None,
    rows: Iterable[Mapping[str, Any]],
) -> PromptFigures:
    """`judged` are all completions of the query that were drawn or enumerated; `rows` are what the dataset keeps."""
    equivalent, wrong, ungraded = ([it for it in judged if it.verdict.kind == kind] for kind in get_args(VerdictKind))
    graded_draws = _prevalence(equivalent) + _prevalence(wrong)
    entropy, entropy_lower = semantic_entropies(
        _prevalence(equivalent), [judged.completion.prevalence for judged in wrong]
    )
    covered = _covered_mass(plan, query, judged)
    return PromptFigures(
        prompt_id=query.id,
        prompt=query.prompt,
        reference_completion=query.reference,
        num_draws=None if plan.settings.enumerates else int(_prevalence(judged)),
        num_unique=len(judged),
        num_equivalent=len(equivalent),
        num_not_equivalent=len(wrong),
        num_ungraded=len(ungraded),
        num_variations=len({row["completion"] for row in rows}),
        equivalent_draw_share=_prevalence(equivalent) / graded_draws if graded_draws else None,
        seen_mass=_mass(judged),
        equivalent_mass=_mass(equivalent),
        seen_mass_sampling=_mass_sampling(judged),
        equivalent_mass_sampling=_mass_sampling(equivalent),
        semantic_entropy=entropy,
        semantic_entropy_lower=entropy_lower,
        unseen_mass=_unseen_mass(plan, judged, covered),
        greedy_completion=None if greedy is None else greedy.completion.text,
        greedy_verdict=None if greedy is None else greedy.verdict.kind,
        covered_mass=covered,
        greedy_draws=None if greedy is None else _num_draws_of(greedy.completion, judged),
    )


def semantic_entropies(equivalent: float, others: Sequence[float]) -> tuple[float | None, float | None]:
    """Discrete semantic entropy in nats (Farquhar et al., Nature 2024), bounded from above and from below.

    The draws that are `equivalent` to the reference are one meaning. Whether the `others`, by distinct completion, are
    equivalent among themselves was not asked: at most each is a meaning of its own, at least they are one together.
    Both None where there are no draws at all.
    """
    if not equivalent and not any(others):
        return None, None
    return _entropy([equivalent, *others]), _entropy([equivalent, math.fsum(others)])


def good_turing_unseen(counts: Iterable[int]) -> float:
    """The probability that the next draw is a completion not drawn yet, from how often each was drawn.

    The estimate is the share of draws whose completion was drawn just once (Good, Biometrika 1953, due to Turing).
    """
    times = Counter(counts)
    return times[1] / sum(count * number for count, number in times.items())


def _entropy(parts: Sequence[float]) -> float:
    whole = math.fsum(parts)
    # Not below 0: of a single part the logarithm can round to a negative zero.
    return max(0.0, -math.fsum(part / whole * math.log(part / whole) for part in parts if part))


def _unseen_mass(plan: DatasetPlan, judged: Sequence[Judged], covered: float | None) -> float | None:
    """Of the sampling law; None where nothing is random, and every draw the same."""
    if covered is not None:
        return 1 - covered
    if not plan.settings.do_sample:
        return None
    return good_turing_unseen(it.completion.sample_count for it in judged if it.completion.sample_count is not None)


def _covered_mass(plan: DatasetPlan, query: Query, judged: Sequence[Judged]) -> float | None:
    """0 where no completion was probable enough, None where completions were drawn."""
    if not plan.settings.enumerates:
        return None
    mass = _prevalence(judged)
    assert mass < 1 + ROUNDING, f"{plan.name}: completions of {query.id!r} have probability {mass}"
    return min(1.0, mass)


def _num_draws_of(completion: Completion, judged: Iterable[Judged]) -> int | None:
    """Draws that gave its text, whatever the tokens."""
    return total_count(it.completion.sample_count for it in judged if it.completion.text == completion.text)


def _prevalence(judged: Iterable[Judged]) -> float:
    return math.fsum(it.completion.prevalence for it in judged)


def _mass(judged: Iterable[Judged]) -> float:
    """At T=1. Draws of several units may differ in the last bits of what they have in common: no more than 1."""
    return min(1.0, math.fsum(math.exp(sample.logprob) for it in judged for sample in it.completion.samples))


def _mass_sampling(judged: Iterable[Judged]) -> float:
    return min(1.0, math.fsum(math.exp(sample.logprob_sampling) for it in judged for sample in it.completion.samples))
