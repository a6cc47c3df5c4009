"""Gathers what the coroutines of one process ask of the job's limiter into few calls: each may cross a network."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from evalgen.grading.gathering import Gathered
from evalgen.grading.limiter_records import Demand, Lease, Outcome, RequestLimiter

MOST_IN_A_CALL = 100
LINGER_S = 0.01  # nobody waits for what is given back: the next request has its lease already
WAITS_TOLD_EVERY_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Request:
    demand: Demand
    granted: asyncio.Future[Lease]


class Leases:
    """One per process, on one event loop. At most one call of each kind is under way at a time."""

    def __init__(self, limiter: RequestLimiter, holder: str) -> None:
        self._limiter, self._holder = limiter, holder
        self._waiting: deque[_Request] = deque()
        self._ahead: deque[tuple[Lease, _Request]] = deque()  # leases that may not be used yet
        self._num_settled: Counter[int] = Counter()  # by limiter
        self._acquiring: asyncio.Task[None] | None = None
        self._outcomes = Gathered(limiter.settle, LINGER_S)
        self._settled: asyncio.Future[None] | None = None
        self._waits = _Waits()
        self._telling: asyncio.Task[None] | None = None

    async def acquire(self, demand: Demand) -> Lease:
        """Waits until the request may be sent; returns its lease.

        Raises:
            JobStopped: as `RateLimiter.acquire`.
        """
        granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(demand, granted))
        self._begin_to_acquire()
        self._waits.add(demand.grader, +1)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell_waits())
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self.settle(Outcome(lease=granted.result(), kind="unsent"))
            raise
        finally:
            self._waits.add(demand.grader, -1)

    def settle(self, outcome: Outcome) -> None:
        """Gives a lease back, soon: nobody has to wait for that."""
        self._give_back(outcome)
        if outcome.kind in ("throttled", "failed"):
            # The server may want a pause, of which the limiter decides: what is not sent yet asks again.
            while self._ahead:
                lease, request = self._ahead.pop()
                self._give_back(Outcome(lease=lease, kind="unsent"))
                self._waiting.appendleft(request)
            self._begin_to_acquire()
        self._hand_out_ahead()

    async def settled(self) -> None:
        """Waits until all that was given back has arrived."""
        if self._settled is not None:
            await self._settled

    async def aclose(self) -> None:
        """Asks for no more, gives back what cannot be used any more, and waits until that has arrived."""
        for task in (self._acquiring, self._telling):
            if task is not None:
                task.cancel()
        await self._tell(self._waits.taken())
        while self._ahead:
            self._give_back(Outcome(lease=self._ahead.popleft()[0], kind="unsent"))
        await self.settled()

    def _begin_to_acquire(self) -> None:
        if self._waiting and (self._acquiring is None or self._acquiring.done()):
            self._acquiring = asyncio.get_running_loop().create_task(self._acquire_all())

    async def _acquire_all(self) -> None:
        while self._waiting:
            asking = [self._waiting.popleft() for _ in range(min(MOST_IN_A_CALL, len(self._waiting)))]
            asking = [request for request in asking if not request.granted.cancelled()]
            if not asking:
                continue
            try:
                leases = await self._limiter.acquire([request.demand for request in asking], self._holder)
            except Exception as error:  # of whatever kind, it is for those who wait
                for request in (*asking, *self._waiting):
                    if not request.granted.done():
                        request.granted.set_exception(error)
                self._waiting.clear()
                return
            self._waiting.extendleft(reversed(asking[len(leases) :]))
            for lease, request in zip(leases, asking, strict=False):
                if self._may_be_used(lease):
                    self._hand_out(lease, request)
                else:
                    self._ahead.append((lease, request))
            self._hand_out_ahead()

    async def _tell_waits(self) -> None:
        """Now and then, while requests wait and once afterwards: one that waits for hours is seen to wait."""
        seconds_of = {"": 0.0}
        while seconds_of:
            await asyncio.sleep(WAITS_TOLD_EVERY_S)
            seconds_of = self._waits.taken()
            await self._tell(seconds_of)

    async def _tell(self, seconds_of: Mapping[str, float]) -> None:
        try:
            if seconds_of:
                await self._limiter.waited(seconds_of)
        except Exception as error:  # of whatever kind: it is a figure, and whoever waits hears of it from `acquire`
            logger.debug("the limiter was not told of waits: %s", error)

    def _hand_out_ahead(self) -> None:
        while self._ahead and self._may_be_used(self._ahead[0][0]):
            self._hand_out(*self._ahead.popleft())

    def _may_be_used(self, lease: Lease) -> bool:
        return lease.after <= self._num_settled[lease.limiter]

    def _hand_out(self, lease: Lease, request: _Request) -> None:
        if request.granted.cancelled():
            self._give_back(Outcome(lease=lease, kind="unsent"))
        else:
            request.granted.set_result(lease)

    def _give_back(self, outcome: Outcome) -> None:
        self._num_settled[outcome.lease.limiter] += 1
        self._settled = self._outcomes.add([outcome])


class _Waits:
    """Seconds that requests wait, by grader, as they pass."""

    def __init__(self) -> None:
        self._num_waiting: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._at = 0.0  # until when they are counted

    def add(self, grader: str, number: int) -> None:
        """So many more wait from now on."""
        self._let_time_pass()
        self._num_waiting[grader] += number

    def taken(self) -> dict[str, float]:
        """What has passed since this was last called; nothing where nobody waited."""
        self._let_time_pass()
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken

    def _let_time_pass(self) -> None:
        now = asyncio.get_running_loop().time()
        for grader, number in self._num_waiting.items():
            if number:
                self._seconds[grader] += number * (now - self._at)
        self._at = now
