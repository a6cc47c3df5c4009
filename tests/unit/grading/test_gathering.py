"""What coroutines hand in together goes on together, each item once, and each coroutine learns of its own call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from evalgen.grading.gathering import Gathered
from tests.virtual_time import run_in_virtual_time


def test_what_comes_up_during_a_call_goes_in_the_next() -> None:
    calls: list[list[int]] = []

    async def slow_call(items: Sequence[int]) -> None:
        calls.append(list(items))
        await asyncio.sleep(1)

    async def scenario() -> None:
        gathered = Gathered(slow_call)

        async def one(number: int) -> None:
            await asyncio.sleep(number / 10)
            await gathered.add([number])
            assert any(number in call for call in calls)

        await asyncio.gather(*map(one, range(20)))

    run_in_virtual_time(scenario())
    assert sorted(number for call in calls for number in call) == list(range(20))
    assert len(calls) <= 4


def test_an_error_is_for_those_whose_items_it_met() -> None:
    async def refuses_three(items: Sequence[int]) -> None:
        if 3 in items:
            raise OSError("three")

    async def scenario() -> None:
        gathered = Gathered(refuses_three)
        await gathered.add([1, 2])
        with pytest.raises(OSError, match="three"):
            await gathered.add([3])
        await gathered.add([4])

    run_in_virtual_time(scenario())
