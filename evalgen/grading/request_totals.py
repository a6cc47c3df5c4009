"""What became of requests to judges, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields


@dataclass(kw_only=True)
class RequestTotals:
    """Of one grader or of several, since the process that counts began."""

    outcomes: Counter[str] = field(default_factory=Counter)  # see `limiter_records.Outcome.kind`
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0  # of the requests whose cost is known
    num_unpriced: int = 0  # that cost something, and nobody knows what
    wait_s: float = 0.0  # for their turn

    @classmethod
    def of_all(cls, graders: Iterable[RequestTotals]) -> RequestTotals:
        whole = cls()
        for one in graders:
            for it in fields(cls):
                setattr(whole, it.name, getattr(whole, it.name) + getattr(one, it.name))
        return whole
