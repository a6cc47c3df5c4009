"""What a limiter tells of itself in mid-run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evalgen.records import Limits


@dataclass(frozen=True, kw_only=True)
class LimiterState:
    """Counts are since the limiter's process began."""

    outcomes: Mapping[str, int] = field(default_factory=dict)  # what became of how many requests; see `Outcome.kind`
    num_in_flight: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0  # of the requests whose cost is known
    num_unpriced: int = 0  # answered by a model without a price
    wait_s: float = 0.0  # summed over requests
    limits: Limits = field(default_factory=Limits)  # that hold now
    breaker: Literal["closed", "open", "half-open"] = "closed"
    spent_usd: float | None = None  # over all parts of the job; None: nothing limits it
    cap_usd: float | None = None

    @property
    def num_requests(self) -> int:
        return sum(number for kind, number in self.outcomes.items() if kind != "unsent")

    @property
    def num_throttled(self) -> int:
        return self.outcomes.get("throttled", 0)
