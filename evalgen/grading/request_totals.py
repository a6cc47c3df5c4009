"""What became of requests to judges, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields


@dataclass(kw_only=True)
class RequestTotals:
    """Of one grader or of several, since the process that counts began."""

    outcomes: Counter[str] = field(default_factory=Counter)  # by `limiter_records.Ended`
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0  # of the requests whose cost is known
    num_unpriced: int = 0  # answered by a judge whose price is not known
    wait_s: float = 0.0  # for their turn, of all that waited or do, as far as their processes have told

    def count(
        self, outcome: str, *, input_tokens: int, output_tokens: int, cost_usd: float | None, is_unpriced: bool
    ) -> None:
        """A request has ended."""
        self.outcomes[outcome] += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.cost_usd += cost_usd or 0.0
        self.num_unpriced += is_unpriced

    @classmethod
    def of_all(cls, graders: Iterable[RequestTotals]) -> RequestTotals:
        whole = cls()
        for one in graders:
            for it in fields(cls):
                setattr(whole, it.name, getattr(whole, it.name) + getattr(one, it.name))
        return whole
