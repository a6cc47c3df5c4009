"""Hands on what many coroutines have in few calls: one at a time, with all that came up during the last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Gathered(Generic[Item]):
    """For one event loop at a time."""

    def __init__(self, hand_on: Callable[[Sequence[Item]], Awaitable[None]], linger_s: float = 0.0) -> None:
        """Each call waits `linger_s` for more: for calls that cost more than the wait."""
        self._hand_on, self._linger_s = hand_on, linger_s
        self._items: list[Item] = []
        self._handed_on: asyncio.Future[None] | None = None  # that `_items` are; None: there are none
        self._task: asyncio.Task[None] | None = None

    def add(self, items: Sequence[Item]) -> asyncio.Future[None]:
        """Begins to hand items on; the future is done when they are, with the error of the call if it had one.

        Others wait for the same future: shield it where one of them may be cancelled.
        """
        loop = asyncio.get_running_loop()
        if self._handed_on is None:
            self._handed_on = loop.create_future()
        self._items += items
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        return self._handed_on

    async def all_so_far(self) -> None:
        """Waits until what was added before this call is handed on, or could not be."""
        handed_on = self.add(())
        assert self._task is not None
        # The task too: nobody would fulfil the future of one that is cancelled.
        await asyncio.wait([handed_on, self._task], return_when=asyncio.FIRST_COMPLETED)
        if handed_on.done() and not handed_on.cancelled():
            handed_on.exception()  # those who added it have it; else asyncio would complain that nobody has

    async def all_handed_on(self) -> None:
        """Waits until nothing is left that was added."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._handed_on is not None:
            await asyncio.sleep(self._linger_s)  # what is about to be added comes along
            items, handed_on = self._items, self._handed_on
            self._items, self._handed_on = [], None
            try:
                await self._hand_on(items)
            except Exception as error:  # of whatever kind, it is for those who wait
                if not handed_on.cancelled():
                    handed_on.set_exception(error)
            else:
                if not handed_on.cancelled():
                    handed_on.set_result(None)
