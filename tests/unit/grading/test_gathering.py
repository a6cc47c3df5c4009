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


@pytest.mark.parametrize("num_holders", range(1, 9))  # an ending event loop cancels its tasks in any order
def test_nobody_waits_for_ever_where_the_event_loop_ends(num_holders: int) -> None:
    async def hand_on(_: Sequence[int]) -> None:
        pass

    async def holder(gathered: Gathered[int]) -> None:
        try:
            await asyncio.shield(gathered.add([1]))
        finally:
            await gathered.all_so_far()

    async def ends() -> None:
        gathered = Gathered(hand_on, linger_s=0.05)
        holders = [asyncio.create_task(holder(gathered)) for _ in range(num_holders)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in holders)
        raise RuntimeError("the end of the loop")

    with pytest.raises(RuntimeError, match="the end of the loop"):
        asyncio.run(ends())


def test_what_was_added_before_is_waited_for_and_nothing_that_comes_later() -> None:
    handed_on: list[list[int]] = []
    goes_on = asyncio.Event()

    async def hand_on(items: Sequence[int]) -> None:
        handed_on.append(list(items))
        if 2 in items:
            await goes_on.wait()

    async def scenario() -> None:
        gathered = Gathered(hand_on)
        first = gathered.add([1])
        await gathered.all_so_far()
        assert first.done() and handed_on == [[1]]
        second = gathered.add([2])
        waiting = asyncio.create_task(gathered.all_so_far())
        await asyncio.sleep(0)
        goes_on.set()
        await waiting
        assert second.done()

    asyncio.run(scenario())
