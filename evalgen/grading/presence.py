"""Who is still there of those that hold something of the job: they say so now and then, and the dead do not."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

SILENCE_S = 30.0  # after which a process counts as dead
HEARTBEAT_S = 5.0


class Listener(Protocol):
    """What keeps things for processes that may die."""

    async def still_here(self, holder: str) -> None: ...


class Presence:
    """When each holder was last heard of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard_at: dict[str, float] = {}

    def heard(self, holder: str) -> None:
        self._heard_at[holder] = self._clock()

    def knows(self, holder: str) -> bool:
        """False: it was silent for too long, or never heard of."""
        return self._heard_at.get(holder, -math.inf) >= self._clock() - SILENCE_S

    def leave(self) -> list[str]:
        """Holders that have been silent for too long; each is told once, and forgotten unless it is heard again."""
        latest = self._clock() - SILENCE_S
        gone = [holder for holder, heard_at in self._heard_at.items() if heard_at < latest]
        for holder in gone:
            del self._heard_at[holder]
        return gone


async def say_still_here(holder: str, listeners: Sequence[Listener]) -> None:
    """Tells each of `listeners` every few seconds, until it is cancelled. None waits for one that does not listen."""

    async def tell(listener: Listener) -> None:
        while True:
            await asyncio.gather(listener.still_here(holder), return_exceptions=True)
            await asyncio.sleep(HEARTBEAT_S)

    await asyncio.gather(*map(tell, listeners))
