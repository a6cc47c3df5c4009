"""Completions with their verdicts: what the rows of a dataset, its rejects and its figures are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evalgen.errors import JobStopped
from evalgen.job import DatasetPlan
from evalgen.records import Query, Verdict
from evalgen.samples import Completion


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A distinct completion of a query, with its verdict."""

    query: Query
    completion: Completion
    verdict: Verdict
    question_key: str

    @property
    def kept_text(self) -> str:
        """The completion as the dataset stores it: cut where the grader cut it."""
        return self.verdict.trimmed_completion or self.completion.text


def judged(plan: DatasetPlan, query: Query, completion: Completion, verdicts: Mapping[str, Verdict]) -> Judged:
    """`verdicts` are by question key.

    Raises:
        JobStopped: there is none for the completion.
    """
    key = plan.question(query, completion.text).key
    verdict = verdicts.get(key)
    if verdict is None:
        raise JobStopped(f"{plan.name}: no verdict is stored for completion {completion.text!r:.80} of {query.id!r}")
    return Judged(query=query, completion=completion, verdict=verdict, question_key=key)
