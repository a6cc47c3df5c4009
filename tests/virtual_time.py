"""Runs coroutines in a time of their own, which passes at once while all of them wait: sleeping takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Where a loop would wait, its time goes on instead."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "every task waits for something that no time brings"
        self.now += timeout
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_in_virtual_time(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Its result. No threads, sockets or processes: they would get no time."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(coroutine)


def now() -> float:
    """The time of the running loop, in seconds: a clock for what is under test."""
    return asyncio.get_running_loop().time()


async def until_all_wait() -> None:
    """Lets every other task run until all of them wait for time to pass."""
    for _ in range(50):
        await asyncio.sleep(0)
