"""What a limiter tells of itself in mid-run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evalgen.grading.request_totals import RequestTotals
from evalgen.records import Limits


@dataclass(frozen=True, kw_only=True)
class LimiterState:
    """Counts are since the limiter's process began."""

    requests_of: Mapping[str, RequestTotals] = field(default_factory=dict)  # by grader
    num_in_flight: int = 0
    limits: Limits = field(default_factory=Limits)  # that hold now
    breaker: Literal["closed", "open", "half-open"] = "closed"
    held_for_s: float = 0.0  # from now on no request goes, as the server has asked for that
    spent_usd: float | None = None  # over all parts of the job; None: nothing limits it
    cap_usd: float | None = None

    @property
    def requests(self) -> RequestTotals:
        """Of all graders."""
        return RequestTotals.of_all(self.requests_of.values())
