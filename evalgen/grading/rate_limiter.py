"""One gate for every request of a job: rates, connections, money and the server's health, first come first served.

Pure asyncio. A job has one `RateLimiter`, which a thin actor shares between the graders of all processes. They ask for
several requests in one call, and tell later what became of them; what a dead process holds comes back by itself.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import math
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from evalgen.grading.breaker import Breaker
from evalgen.grading.connections import Connections
from evalgen.grading.expected_tokens import ExpectedTokens
from evalgen.grading.limiter_records import Demand, Lease, Outcome
from evalgen.grading.limiter_state import LimiterState
from evalgen.grading.presence import HEARTBEAT_S, Presence
from evalgen.grading.request_totals import RequestTotals
from evalgen.grading.spending import Spending
from evalgen.grading.token_bucket import TokenBucket
from evalgen.records import Limits

PACE = 0.99  # of a limit that the server announces: requests do not arrive as evenly as they are sent
LONGEST_HOLD_S = 60.0  # of all requests, for one that failed
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Granted:
    holder: str
    demand: Demand
    num_input_tokens: float  # as estimated
    num_output_tokens: float


class RateLimiter:
    """Three token buckets, a cap on requests in flight, and what `Breaker` and `Spending` say."""

    def __init__(
        self,
        *,
        max_connections: int,
        breaker: Breaker,
        limits: Limits | None = None,
        spending: Spending | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limits` are the user's; where the server announces lower ones, those hold. None: only the server's."""
        self._connections = Connections(max_connections)
        self._limits, self._breaker, self._spending = limits or Limits(), breaker, spending
        self._clock = clock
        self._buckets = {it.name: TokenBucket(getattr(self._limits, it.name), clock()) for it in fields(Limits)}
        self._announced: dict[str, dict[str, float]] = {
            it.name: {} for it in fields(Limits)
        }  # by the server, by grader
        self._expected = ExpectedTokens()
        self._leases: dict[int, _Granted] = {}
        self._id = secrets.randbits(60)
        self._lease_ids = itertools.count(self._id)  # never those of a limiter that died before this one
        self._presence = Presence(clock)
        self._has_heard = False  # of the server
        self._turn = asyncio.Lock()  # asyncio's locks are fair: the order of arrival is the order of service
        self._changed = asyncio.Event()
        self.num_granted = self.num_reclaimed = 0
        self._requests_of: defaultdict[str, RequestTotals] = defaultdict(RequestTotals)  # by grader

    @property
    def num_in_flight(self) -> int:
        """Requests that may be under way: leases that were not returned yet, without those that wait for others."""
        return self._connections.num_in_use

    def state(self) -> LimiterState:
        spending = self._spending
        return LimiterState(
            requests_of=copy.deepcopy(dict(self._requests_of)),
            num_in_flight=self.num_in_flight,
            limits=Limits(**{name: bucket.per_minute for name, bucket in self._buckets.items()}),
            breaker=self._breaker.state,
            held_for_s=self._breaker.held_for_s(self._clock()),
            spent_usd=None if spending is None else spending.spent_usd,
            cap_usd=None if spending is None else spending.cap_usd,
        )

    async def acquire(self, demands: Sequence[Demand], holder: str) -> list[Lease]:
        """As `RequestLimiter.acquire`.

        Raises:
            GraderUnavailable: the server has been away for too long.
            GradingBudgetSpent: no request may be paid for any more.
        """
        self._presence.heard(holder)
        self._connections.queue(holder)
        try:
            async with self._turn:
                while (pause_s := self._pause_s(demands[0], holder)) > 0:
                    await self._wait_up_to(pause_s)
                # Nothing is awaited from here on, so a caller that is cancelled takes nothing with it.
                return self._grant_all(demands, holder)
        finally:
            self._connections.leave_queue(holder)

    async def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Leases that were reclaimed or settled before are passed over."""
        for outcome in outcomes:
            granted = self._leases.pop(outcome.lease.id, None)
            if granted is not None:
                self._learn(granted, outcome)
        if self._spending is not None and not self._leases:
            self._spending.write_down()  # else a job that has ended would seem to have requests in flight
        self._changed.set()

    async def waited(self, seconds_of: Mapping[str, float]) -> None:
        for grader, seconds in seconds_of.items():
            self._requests_of[grader].wait_s += seconds

    async def still_here(self, holder: str) -> None:
        self._presence.heard(holder)

    def _pause_s(self, demand: Demand, holder: str) -> float:
        """0 if a request may go now, else the longest wait after which to look again."""
        now = self._clock()
        self._reclaim()
        pauses = [self._breaker.pause_s(now)]
        pauses += [
            bucket.pause_s(amount, now)
            for bucket, amount in zip(self._buckets.values(), self._takes(demand), strict=True)
        ]
        if not self._has_heard and self._leases:
            pauses.append(math.inf)  # one request, until the server has said what its limits are
        is_affordable = self._spending is None or self._spending.fits(demand.most_usd)
        # Those ahead go out in one moment when the judge answers all at once: no more than the rate allows in one.
        has_room = self._connections.has_room_for(holder, self._buckets["requests"].capacity)
        if not has_room or not is_affordable:
            pauses.append(math.inf)  # until something in flight is settled
        return max(pauses)

    def _takes(self, demand: Demand) -> tuple[float, float, float]:
        """Requests, input tokens and output tokens: an estimate, put right when the request is settled."""
        expected = self._expected
        return 1.0, demand.num_bytes * expected.tokens_of_byte, demand.num_questions * expected.tokens_of_answer

    def _grant_all(self, demands: Sequence[Demand], holder: str) -> list[Lease]:
        """The first, whose turn it is, and those after it that need not wait either."""
        if not self._presence.knows(holder):
            return []  # it died in the queue, or is to ask again
        leases = [self._grant(demands[0], holder)]
        for demand in demands[1:]:
            if self._pause_s(demand, holder) > 0:
                break
            leases.append(self._grant(demand, holder))
        if self._spending is not None:
            self._spending.write_down()
        return leases

    def _grant(self, demand: Demand, holder: str) -> Lease:
        lease = Lease(id=next(self._lease_ids), limiter=self._id, after=self._connections.take(holder))
        takes = self._takes(demand)
        for bucket, amount in zip(self._buckets.values(), takes, strict=True):
            bucket.take(amount)
        self._leases[lease.id] = _Granted(
            holder=holder, demand=demand, num_input_tokens=takes[1], num_output_tokens=takes[2]
        )
        self._breaker.sent(lease.id)
        if self._spending is not None:
            self._spending.reserve(lease.id, demand.most_usd)
        self.num_granted += 1
        return lease

    def _learn(self, granted: _Granted, outcome: Outcome) -> None:
        """From what became of a request: what others will take, how fast they may go, whether the server is well."""
        now = self._clock()
        self._connections.settle(granted.holder)
        self._has_heard |= outcome.kind in ("answered", "rejected", "throttled")
        if outcome.kind != "unsent":
            _count(outcome, self._requests_of[granted.demand.grader])
        self._follow(granted.demand.grader, outcome.limits, now)
        if self._spending is not None:
            self._spending.settle(outcome.lease.id, outcome.cost_usd)
        hold_s = outcome.retry_after_s
        if outcome.kind == "failed" and not outcome.is_down:
            hold_s = min(hold_s, LONGEST_HOLD_S)  # it may be that question alone, and others would find out
        self._breaker.hold(hold_s, outcome.error, now)
        if outcome.kind == "throttled":
            for bucket in self._buckets.values():
                bucket.drain()
        if outcome.kind == "answered" and outcome.input_tokens:
            self._buckets["input_tokens"].take(outcome.input_tokens - granted.num_input_tokens)
            self._buckets["output_tokens"].take(outcome.output_tokens - granted.num_output_tokens)
            self._expected.learn(granted.demand, outcome)
        if outcome.kind == "unsent":
            estimated = (1.0, granted.num_input_tokens, granted.num_output_tokens)
            for bucket, amount in zip(self._buckets.values(), estimated, strict=True):
                bucket.take(-amount)
        if outcome.kind in ("unsent", "abandoned"):  # which says nothing of the server
            self._breaker.unsent(outcome.lease.id)
        elif outcome.kind == "failed":
            self._breaker.failed(outcome.lease.id, granted.demand.topic, outcome.error, now, is_down=outcome.is_down)
        elif outcome.kind == "throttled":
            self._breaker.refused(outcome.lease.id, granted.demand.topic, outcome.error, now)
        else:
            self._breaker.answered()

    def _follow(self, grader: str, announced: Limits, now: float) -> None:
        """The server's limits may change at any time; the user's hold all the same. Of several judges the lowest do."""
        for name, bucket in self._buckets.items():
            limit, own = getattr(announced, name), getattr(self._limits, name)
            if limit is not None:
                of_graders = self._announced[name]
                of_graders[grader] = limit
                pace = min(PACE * min(of_graders.values()), own or math.inf)
                if pace != bucket.per_minute:
                    self._tell(name, bucket.per_minute, pace)
                    bucket.set_rate(pace, now)

    def _tell(self, name: str, before: float | None, now: float) -> None:
        """Limits that are learned at first are no surprise; those that change may be."""
        what = name.replace("_", " ")
        if before is None or before == getattr(self._limits, name):
            log.info("the judge's server takes %.0f %s a minute; we use %.0f", now / PACE, what, now)
        else:
            log.warning("the limit of %s a minute changed: we used %.0f and use %.0f now", what, before, now)

    def _reclaim(self) -> None:
        """What dead processes held. Their requests may have been answered, and paid for."""
        for holder in self._presence.leave():
            held = [lease_id for lease_id, granted in self._leases.items() if granted.holder == holder]
            self.num_reclaimed += len(held)
            for lease_id in held:
                lease = Lease(id=lease_id, limiter=self._id)
                self._learn(self._leases.pop(lease_id), Outcome(lease=lease, kind="abandoned", cost_usd=None))

    async def _wait_up_to(self, pause_s: float) -> None:
        """Returns after `pause_s`, or as soon as something has changed."""
        self._changed.clear()
        longest_s = min(pause_s, HEARTBEAT_S)  # to look for the dead
        waits = [asyncio.ensure_future(asyncio.sleep(longest_s)), asyncio.ensure_future(self._changed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _count(outcome: Outcome, totals: RequestTotals) -> None:
    # A reply that could not be read has no tokens either, and says nothing of the model's price.
    is_unpriced = outcome.kind == "answered" and outcome.input_tokens > 0 and outcome.cost_usd is None
    totals.count(
        outcome.kind,
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        cost_usd=outcome.cost_usd,
        is_unpriced=is_unpriced,
    )
