"""One verdict from several of the same judge on the same question, and how far such votes agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from evalgen.records import Verdict, VerdictKind


def majority(votes: Sequence[Verdict]) -> Verdict:
    """What more than half of the votes say, with the cost of all; `ungraded` if none has a majority.

    The reasoning is that of the first voter of the majority, and the trim what most of the majority proposed (of
    equally many the first).
    """
    kinds = tuple(vote.kind for vote in votes)
    kind, count = Counter(kinds).most_common(1)[0]
    if kind == "ungraded" or count * 2 <= len(votes):
        failed = [vote.error for vote in votes if vote.error]
        error = f"no majority among {len(votes)} votes: {', '.join(kinds)}{f' ({failed[0]})' if failed else ''}"
        chosen = Verdict(kind="ungraded", error=error)
    else:
        winners = [vote for vote in votes if vote.kind == kind]
        trim = Counter(vote.trimmed_completion for vote in winners).most_common(1)[0][0]
        chosen = replace(winners[0], trimmed_completion=trim)
    costs = [vote.cost_usd for vote in votes]
    return replace(
        chosen,
        votes=kinds,
        api_calls=sum(vote.api_calls for vote in votes),
        input_tokens=sum(vote.input_tokens for vote in votes),
        output_tokens=sum(vote.output_tokens for vote in votes),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
    )


class Agreement:
    """Krippendorff's alpha of votes that are equivalent or not, question by question; ungraded votes are missing.

    Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section D, nominal data.
    """

    def __init__(self) -> None:
        self._disagreeing = 0.0  # coincidences of unlike votes
        self._totals: Counter[VerdictKind] = Counter()  # of votes on questions that have two or more

    def add(self, votes: Sequence[VerdictKind]) -> None:
        counts = Counter(vote for vote in votes if vote != "ungraded")
        num_votes = counts.total()
        if num_votes < 2:
            return  # nothing to agree with
        self._totals += counts
        self._disagreeing += 2 * counts["equivalent"] * counts["not_equivalent"] / (num_votes - 1)

    @property
    def alpha(self) -> float | None:
        """1: always agreed; 0: as by chance; None: undefined, as no question has two votes, or all votes are alike."""
        equivalent, not_equivalent = self._totals["equivalent"], self._totals["not_equivalent"]
        expected = 2 * equivalent * not_equivalent
        if not expected:
            return None
        return 1 - (equivalent + not_equivalent - 1) * self._disagreeing / expected
