"""One gate for every request of a job: so many a minute, so many at a time, first come first served.

Pure asyncio. A job has one `RateLimiter`, which a thin actor shares between the graders of all processes.
That is why a permission is a numbered lease and not an object, and why one that nobody returns expires.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

logger = logging.getLogger(__name__)


class RequestLimiter(Protocol):
    """What a grader needs of a limiter, here or in another process."""

    async def acquire(self) -> int:
        """Wait for the right to send one request; returns its lease."""
        ...

    async def release(self, lease: int) -> None:
        """Give the connection back, whatever became of the request."""
        ...


class RateLimiter:
    """A token bucket over requests a minute, and a cap on the leases held at once."""

    def __init__(
        self,
        *,
        requests_per_minute: float | None,
        max_connections: int,
        lease_timeout_s: float = 900.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`requests_per_minute` None: unlimited. `lease_timeout_s` must exceed what any request can take."""
        assert requests_per_minute is None or requests_per_minute > 0, requests_per_minute
        assert max_connections > 0, max_connections
        self._requests_per_s = None if requests_per_minute is None else requests_per_minute / 60
        # The API may enforce 60 a minute as 1 a second, so no more than a second's worth may go at once.
        self._capacity = max(1.0, self._requests_per_s or 1.0)
        self._tokens = self._capacity
        self._refilled_at = clock()
        self._max_connections = max_connections
        self._lease_timeout_s = lease_timeout_s
        self._clock = clock
        self._sleep = sleep
        self._leases: dict[int, float] = {}  # lease -> when it was granted, oldest first
        self._lease_ids = itertools.count(1)
        self._turn = asyncio.Lock()  # asyncio's locks are fair: the order of arrival is the order of service
        self._freed = asyncio.Event()
        self.num_granted = 0
        self.num_reclaimed = 0
        self.wait_s = 0.0  # summed over all granted requests

    @property
    def num_in_flight(self) -> int:
        """Leases granted and not yet returned."""
        return len(self._leases)

    async def acquire(self) -> int:
        """Wait for this request's turn; returns a lease for `release`."""
        asked_at = self._clock()
        async with self._turn:
            while (pause_s := self._pause_s()) > 0:
                await self._wait_up_to(pause_s)
            # Nothing is awaited from here on, so a caller that is cancelled takes no token or lease with it.
            if self._requests_per_s is not None:
                self._tokens -= 1
            lease = next(self._lease_ids)
            self._leases[lease] = self._clock()
            self.num_granted += 1
            self.wait_s += self._leases[lease] - asked_at
            return lease

    async def release(self, lease: int) -> None:
        """Free the lease's connection. Ignored if the lease was reclaimed or released before."""
        if self._leases.pop(lease, None) is not None:
            self._freed.set()

    def _pause_s(self) -> float:
        """0 if a request may go now, else the longest wait after which to look again."""
        now = self._clock()
        self._reclaim_expired(now)
        if len(self._leases) >= self._max_connections:
            oldest = next(iter(self._leases.values()))
            return oldest + self._lease_timeout_s - now
        if self._requests_per_s is None:
            return 0.0
        self._tokens = min(self._capacity, self._tokens + (now - self._refilled_at) * self._requests_per_s)
        self._refilled_at = now
        # Without the tolerance, rounding could leave a remainder too small for the clock to move by.
        return 0.0 if self._tokens >= 1 - 1e-9 else (1 - self._tokens) / self._requests_per_s

    def _reclaim_expired(self, now: float) -> None:
        """Free the connections of clients that died without returning them."""
        while self._leases:
            lease, granted_at = next(iter(self._leases.items()))
            if now < granted_at + self._lease_timeout_s:
                return
            del self._leases[lease]
            self.num_reclaimed += 1
            logger.warning("request lease %d not returned after %.0f s: reclaimed", lease, now - granted_at)

    async def _wait_up_to(self, pause_s: float) -> None:
        """Return after `pause_s`, or as soon as a connection is freed."""
        self._freed.clear()
        waits = [asyncio.ensure_future(self._sleep(pause_s)), asyncio.ensure_future(self._freed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
