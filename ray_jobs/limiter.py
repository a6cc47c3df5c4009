"""The actor that every grading request of a job asks first."""

from __future__ import annotations

from pathlib import Path

import ray

from evalgen.grading.breaker import Breaker
from evalgen.grading.limiter_state import LimiterState
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.grading.spending import Spending
from evalgen.job_log import Event, EventHandler, EventList, EventsRead, log_in_process
from evalgen.records import Limits
from evalgen.verdict_store import spent_usd
from ray_jobs.metrics import LimiterMetrics


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class RateLimiterActor(RateLimiter):
    """The one gate for grading requests of all actors. Asynchronous: callers wait in it, not for it.

    When its process dies another begins with full buckets, which hold little, and with what the ledger of
    `Spending` says.
    """

    def __init__(
        self, *, limits: Limits, max_connections: int, outage_budget_s: float, cap_usd: float | None, verdicts: Path
    ) -> None:
        """`cap_usd`: what grading may cost in all; `verdicts` is the experiment's directory of them."""
        self._events = EventList()
        log_in_process(EventHandler("rate limiter", self._events.add))
        self._metrics = LimiterMetrics()
        super().__init__(
            limits=limits,
            max_connections=max_connections,
            breaker=Breaker(outage_budget_s),
            spending=None if cap_usd is None else Spending(verdicts, cap_usd, spent_usd(verdicts)),
        )

    async def tell(self, read: EventsRead | None) -> tuple[LimiterState, tuple[Event, ...], EventsRead]:
        """As `StoreActor.tell`."""
        state = self.state()
        self._metrics.export(state)
        return state, *self._events.since(read)
