"""Runs coroutines together, none of which outlives the block that began them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the error of the first task that fails, by itself; the others are cancelled by then.

    `asyncio.gather` would let them run on.
    """
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others failed for the same reason, or were cancelled
