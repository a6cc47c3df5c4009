"""What graders and the job's limiter tell each other about requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from evalgen.records import Limits

# How a request that was sent ends. rejected: the server did not like it; failed: the server did, or the line
Ended = Literal["answered", "rejected", "throttled", "failed", "abandoned"]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one request will take."""

    topic: str  # key of a question in it
    grader: str = ""  # whose model is asked: `GraderSpec.model`. Each has limits of its own
    num_bytes: int  # of what is sent
    num_questions: int = 1
    most_usd: float = 0.0  # it can cost no more


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to send one request."""

    id: int
    limiter: int  # that granted it; should its process die, the next is another
    after: int = 0  # it may be used when so many of the holder's leases from `limiter` have been settled


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a request."""

    lease: Lease
    kind: Ended | Literal["unsent"]  # unsent: nothing was asked after all
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0  # None: it may have been charged for, and nobody knows
    limits: Limits = field(default_factory=Limits)  # that the server announced
    retry_after_s: float = 0.0
    error: str = ""
    is_down: bool = False  # it failed for a reason that cannot lie in what was asked


class RequestLimiter(Protocol):
    """What graders need of a limiter, here or in another process."""

    async def acquire(self, demands: Sequence[Demand], holder: str) -> list[Lease]:
        """Waits until there is a lease for the first of some requests; returns it, and those for others after it.

        The list is empty for a holder that was silent for too long meanwhile.
        """
        ...

    async def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Gives leases back."""
        ...

    async def waited(self, seconds_of: Mapping[str, float]) -> None:
        """How long a process's requests have waited since it last told, all added up, by grader."""
        ...

    async def still_here(self, holder: str) -> None:
        """What `holder` has is not given to others, until it is silent for `SILENCE_S`."""
        ...
