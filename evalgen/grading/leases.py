"""Gathers what the coroutines of one process ask of the job's limiter into few calls: each may cross a network."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from evalgen.grading.gathering import Gathered
from evalgen.grading.limiter_records import Demand, Lease, Outcome, RequestLimiter

MOST_IN_A_CALL = 100
LINGER_S = 0.01  # nobody waits for what is given back: the next request has its lease already


class Leases:
    """One per process, on one event loop. At most one call of each kind is under way at a time."""

    def __init__(self, limiter: RequestLimiter, holder: str) -> None:
        self._limiter, self._holder = limiter, holder
        self._waiting: deque[tuple[Demand, asyncio.Future[Lease]]] = deque()
        self._ahead: deque[tuple[Lease, asyncio.Future[Lease]]] = deque()  # leases that may not be used yet
        self._num_settled: Counter[int] = Counter()  # by limiter
        self._acquiring: asyncio.Task[None] | None = None
        self._outcomes = Gathered(limiter.settle, LINGER_S)
        self._settled: asyncio.Future[None] | None = None

    async def acquire(self, demand: Demand) -> Lease:
        """Waits until the request may be sent; returns its lease.

        Raises:
            JobStopped: as `RateLimiter.acquire`.
        """
        granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiting.append((demand, granted))
        if self._acquiring is None or self._acquiring.done():
            self._acquiring = asyncio.get_running_loop().create_task(self._acquire_all())
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self.settle(Outcome(lease=granted.result(), kind="unsent"))
            raise

    def settle(self, outcome: Outcome) -> None:
        """Gives a lease back, soon: nobody has to wait for that."""
        self._num_settled[outcome.lease.limiter] += 1
        self._settled = self._outcomes.add([outcome])
        while self._ahead and self._may_be_used(self._ahead[0][0]):
            self._hand_out(*self._ahead.popleft())

    async def settled(self) -> None:
        """Waits until all that was given back has arrived."""
        if self._settled is not None:
            await self._settled

    async def _acquire_all(self) -> None:
        while self._waiting:
            asking = [self._waiting.popleft() for _ in range(min(MOST_IN_A_CALL, len(self._waiting)))]
            asking = [(demand, granted) for demand, granted in asking if not granted.cancelled()]
            if not asking:
                continue
            try:
                leases = await self._limiter.acquire([demand for demand, _ in asking], self._holder)
            except Exception as error:  # of whatever kind, it is for those who wait
                for _, granted in (*asking, *self._waiting):
                    if not granted.done():
                        granted.set_exception(error)
                self._waiting.clear()
                return
            self._waiting.extendleft(reversed(asking[len(leases) :]))
            for lease, (_, granted) in zip(leases, asking, strict=False):
                if self._may_be_used(lease):
                    self._hand_out(lease, granted)
                else:
                    self._ahead.append((lease, granted))

    def _may_be_used(self, lease: Lease) -> bool:
        return lease.after <= self._num_settled[lease.limiter]

    def _hand_out(self, lease: Lease, granted: asyncio.Future[Lease]) -> None:
        if granted.cancelled():
            self.settle(Outcome(lease=lease, kind="unsent"))
        else:
            granted.set_result(lease)
