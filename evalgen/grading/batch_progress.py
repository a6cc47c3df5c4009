"""How far a job's batches are, for those who watch: what the API says of them, and what has come of them so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalgen.grading.request_totals import RequestTotals
from evalgen.job_log import known_figures
from evalgen.records import Answer, VerdictKind

if TYPE_CHECKING:  # it imports the SDK, for which processes that only export metrics have no use
    from evalgen.grading.batch_outcomes import Outcome

REQUEST_OUTCOMES: Mapping[str, str] = {  # by the fate of an item, as `limiter_records.Outcome` has them
    "judged": "answered",
    "malformed": "answered",
    "lost": "failed",
    "given_up": "rejected",
    "refused": "rejected",
}


@dataclass(kw_only=True)
class BatchTotals:
    """Counts since this process began to look at batches. Of questions as `SharedVerdicts` has them."""

    answered: Counter[tuple[str, VerdictKind]] = field(default_factory=Counter)  # for good, by model of the grader
    cached: Counter[str] = field(default_factory=Counter)  # by grader: an earlier experiment paid
    asked_again: Counter[str] = field(default_factory=Counter)  # by grader: questions that took several requests
    requests_of: dict[str, RequestTotals] = field(default_factory=dict)  # by grader, in batches that have ended

    @property
    def requests(self) -> RequestTotals:
        """Of all graders."""
        return RequestTotals.of_all(self.requests_of.values())

    def note_item(self, grader: str, outcome: Outcome) -> None:
        """What a batch brought for one of its requests."""
        verdict, totals = outcome.verdict, self.requests_of.setdefault(grader, RequestTotals())
        totals.count(
            REQUEST_OUTCOMES[outcome.fate],
            input_tokens=verdict.input_tokens,
            output_tokens=verdict.output_tokens,
            cost_usd=verdict.cost_usd,
            is_unpriced=verdict.cost_usd is None,
        )

    def note_answer(self, answer: Answer) -> None:
        """A question will not be asked any more."""
        grader = answer.question.grader.model
        self.answered[grader, answer.verdict.kind] += 1
        self.cached[grader] += answer.from_cache

    def of_kind(self, kind: VerdictKind) -> int:
        return sum(number for (_, each), number in self.answered.items() if each == kind)


@dataclass(frozen=True, kw_only=True)
class BatchProgress:
    """Of the batches that this process sent, and those that an earlier part of the job left open."""

    num_batches: int  # known to the API
    num_ended: int
    num_processing: int  # of their questions, those whose whole batch has not ended
    oldest_age_s: float | None  # of the oldest batch that has not ended; None: all have
    num_waiting: int  # questions without a verdict: in batches, or to be asked again
    num_known: int  # questions that an earlier part of the job had answered
    is_held_back: bool  # more questions are to come, once the API's queue or the cap on the cost has room for them
    totals: BatchTotals

    @property
    def num_answered(self) -> int:
        """Questions that have a verdict, or are ungraded for good; with `num_waiting` all that were met so far."""
        return self.num_known + self.totals.answered.total()

    @property
    def equivalent_share(self) -> float | None:
        """Of the questions that were judged since this process began; None: there are none."""
        equivalent, others = self.totals.of_kind("equivalent"), self.totals.of_kind("not_equivalent")
        return equivalent / (equivalent + others) if equivalent + others else None

    def fields(self) -> dict[str, Any]:
        """Flat, for logs and charts; without what is not known."""
        totals, requests = self.totals, self.totals.requests
        return known_figures(
            {
                "num_batches": self.num_batches,
                "num_batches_ended": self.num_ended,
                "num_questions": self.num_answered + self.num_waiting,
                "num_answered": self.num_answered,
                "equivalent_share": self.equivalent_share,
                "num_ungraded": totals.of_kind("ungraded"),
                "num_cached": totals.cached.total(),
                "num_asked_again": totals.asked_again.total(),
                "num_requests": requests.outcomes.total(),
                "input_tokens": requests.input_tokens,
                "output_tokens": requests.output_tokens,
                "cost_usd": None if requests.num_unpriced else requests.cost_usd,
                "oldest_age_s": self.oldest_age_s,
            }
        )
