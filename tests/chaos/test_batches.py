"""The chaos server's Message Batches, seen through the real SDK."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types.messages import MessageBatch

from tests.chaos.sdk_calls import RIGHT, WRONG, ask, packed, params, run, text_of
from tests.chaos.server import ChaosApi
from tests.chaos.settings import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, BatchFaults, Faults, Price, Settings
from tests.messages_api import API_KEY
from tests.waiting import wait_until

PRICES = {"claude-haiku-4-5-20251001": Price(input_usd=1.0, output_usd=5.0)}


@pytest.fixture(autouse=True)
def quick_batches(api: ChaosApi) -> None:
    """Batches that have ended when they are first looked at, unless a test wants them otherwise."""
    api.start_over(batch_polls=0, prices=PRICES)


def items(*completions: str) -> list[Any]:
    return [{"custom_id": f"item-{i}", "params": params(completion)} for i, completion in enumerate(completions)]


def create(api: ChaosApi, requests: Sequence[Any]) -> MessageBatch:
    return run(api, lambda client: client.messages.batches.create(requests=requests))


def retrieve(api: ChaosApi, batch: MessageBatch) -> MessageBatch:
    return run(api, lambda client: client.messages.batches.retrieve(batch.id))


def results(api: ChaosApi, batch: MessageBatch) -> dict[str, Any]:
    """By custom id, in the order in which they come."""

    async def use(client: anthropic.AsyncAnthropic) -> dict[str, Any]:
        return {line.custom_id: line.result async for line in await client.messages.batches.results(batch.id)}

    return run(api, use)


def listed(api: ChaosApi, **query: Any) -> Any:
    async def use(client: anthropic.AsyncAnthropic) -> Any:
        return await client.messages.batches.list(**query)

    return run(api, use)


def test_a_batch_ends_after_its_polls_and_gives_each_item_its_answer_at_half_price(api: ChaosApi) -> None:
    api.set(batch_polls=2)
    batch = create(api, items(*[RIGHT, WRONG] * 10))
    assert (batch.processing_status, batch.request_counts.processing, batch.results_url) == ("in_progress", 20, None)
    statuses = [retrieve(api, batch) for _ in range(3)]
    assert [status.processing_status for status in statuses] == ["in_progress", "in_progress", "ended"]
    counts = statuses[-1].request_counts
    assert (counts.processing, counts.succeeded) == (0, 20) and statuses[-1].ended_at is not None
    found = results(api, batch)
    assert list(found) != sorted(found, key=lambda name: int(name.removeprefix("item-")))
    verdicts = {name: json.loads(text_of(result.message))["verdict"] for name, result in found.items()}
    assert verdicts == {f"item-{i}": ["equivalent", "not_equivalent"][i % 2] for i in range(20)}
    stats = api.stats()
    assert (stats.input_tokens, stats.num_questions, stats.times_answered) == (0, 2, {10: 2})
    assert stats.batch_input_tokens == sum(result.message.usage.input_tokens for result in found.values())
    expected_usd = (stats.batch_input_tokens * 1.0 + stats.batch_output_tokens * 5.0) / 1e6 / 2
    assert stats.billed_usd == pytest.approx(expected_usd)


def test_the_order_of_results_is_the_seeds(api: ChaosApi) -> None:
    orders = [list(results(api, create(api, items(*[RIGHT] * 20)))) for _ in range(2)]
    assert orders[0] != orders[1]
    api.start_over(batch_polls=0)
    assert list(results(api, create(api, items(*[RIGHT] * 20)))) == orders[0]


def test_a_batch_has_no_results_before_it_has_ended(api: ChaosApi) -> None:
    api.set(batch_polls=100)
    batch = create(api, items(RIGHT))
    with pytest.raises(anthropic.AnthropicError, match="in_progress"):
        results(api, batch)
    with pytest.raises(anthropic.NotFoundError):
        run(api, lambda client: client.get(f"/v1/messages/batches/{batch.id}/results", cast_to=object))


def test_a_batch_that_is_only_listed_ends_as_well(api: ChaosApi) -> None:
    api.set(batch_polls=1)
    create(api, items(RIGHT))
    assert [listed(api).data[0].processing_status for _ in range(2)] == ["in_progress", "ended"]


def test_the_list_is_paged_from_the_newest_to_the_oldest_and_back(api: ChaosApi) -> None:
    ids = [create(api, items(RIGHT)).id for _ in range(5)][::-1]

    async def all_ids(client: anthropic.AsyncAnthropic) -> list[str]:
        return [batch.id async for batch in client.messages.batches.list(limit=2)]

    assert run(api, all_ids) == ids

    def page(**query: Any) -> tuple[list[str], bool]:
        answer = listed(api, **query)
        assert (answer.first_id, answer.last_id) == (answer.data[0].id, answer.data[-1].id)
        return [batch.id for batch in answer.data], answer.has_more

    assert page() == (ids, False)
    assert page(limit=4) == (ids[:4], True)
    assert page(limit=2, after_id=ids[1]) == (ids[2:4], True)
    assert page(limit=2, after_id=ids[2]) == (ids[3:], False)
    assert page(limit=2, before_id=ids[4]) == (ids[2:4], True)
    assert page(limit=2, before_id=ids[1]) == (ids[:1], False)
    assert listed(api, after_id=ids[4]).data == []
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        listed(api, limit=1001)


ERROR_TYPES = {
    "overloaded": "overloaded_error",
    "server_error": "api_error",
    "invalid_request": "invalid_request_error",
}


@pytest.mark.parametrize("fault", ["overloaded", "server_error", "invalid_request", "expired", "canceled"])
def test_an_item_without_success_is_neither_billed_nor_answered(api: ChaosApi, fault: str) -> None:
    api.set(batch_faults=BatchFaults(**{fault: 1.0}))
    (result,) = results(api, create(api, items(RIGHT))).values()
    assert result.type == ("errored" if fault in ERROR_TYPES else fault)
    if fault in ERROR_TYPES:
        assert result.error.error.type == ERROR_TYPES[fault]
    stats = api.stats()
    assert (stats.billed_usd, stats.times_asked, stats.times_answered) == (0, {1: 1}, {0: 1})


def test_the_counts_of_a_batch_are_those_of_its_results(api: ChaosApi) -> None:
    api.set(batch_faults=BatchFaults(overloaded=0.2, expired=0.2, canceled=0.2), faults=Faults(refusal=0.2))
    batch = create(api, items(*[f"{RIGHT}{i}" for i in range(100)]))
    found = results(api, batch)
    counts = Counter(vars(retrieve(api, batch).request_counts))
    assert Counter(result.type for result in found.values()) == +counts
    assert all(counts[kind] > 0 for kind in ("succeeded", "errored", "expired", "canceled"))
    messages = [result.message for result in found.values() if result.type == "succeeded"]
    num_refusals = sum(message.stop_reason == "refusal" for message in messages)
    assert 0 < num_refusals == counts["succeeded"] - api.stats().times_answered[1]


def test_an_item_that_is_no_request_of_the_messages_api_fails_alone_and_late(api: ChaosApi) -> None:
    good, bad = items(RIGHT, RIGHT)
    bad["params"] = {"model": "claude-x", "max_tokens": 1}
    found = results(api, create(api, [good, bad]))
    assert (found["item-0"].type, found["item-1"].type) == ("succeeded", "errored")
    assert "messages" in found["item-1"].error.error.message


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_a_cancelled_batch_ends_with_what_was_not_done_yet_cancelled(api: ChaosApi, share: float) -> None:
    api.set(batch_polls=1, batch_canceled_share=share)
    batch = create(api, items(RIGHT, WRONG))
    canceling = run(api, lambda client: client.messages.batches.cancel(batch.id))
    assert canceling.processing_status == "canceling" and canceling.cancel_initiated_at is not None
    assert [retrieve(api, batch).processing_status for _ in range(2)] == ["canceling", "ended"]
    assert {result.type for result in results(api, batch).values()} == {"canceled" if share else "succeeded"}
    with pytest.raises(anthropic.BadRequestError):
        run(api, lambda client: client.messages.batches.cancel(batch.id))


def test_a_created_batch_whose_response_is_lost_exists(api: ChaosApi) -> None:
    api.set(lost_batch_creates=1)
    with pytest.raises(anthropic.APIConnectionError):
        create(api, items(RIGHT))
    (lost,) = listed(api).data
    assert set(results(api, lost)) == {"item-0"}
    kept = create(api, items(RIGHT))
    assert [batch.id for batch in listed(api).data] == [kept.id, lost.id]


def test_a_client_can_be_gone_before_it_knows_the_id(api: ChaosApi) -> None:
    async def give_up(client: anthropic.AsyncAnthropic) -> None:
        asked = asyncio.create_task(client.messages.batches.create(requests=items(RIGHT)))
        await asyncio.to_thread(wait_until, lambda: bool(api.stats().faults), 60, "the request is there")
        assert not asked.done()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    api.set(faults=Faults(hang=1.0))
    run(api, give_up)
    api.set(faults=Faults())
    assert len(listed(api).data) == 1


def test_a_batch_that_exists_can_be_unknown_for_a_while(api: ChaosApi) -> None:
    batch = create(api, items(RIGHT))
    api.set(faults=Faults(not_found=1.0))
    with pytest.raises(anthropic.NotFoundError):
        retrieve(api, batch)
    assert ask(api, params()).stop_reason == "end_turn"  # nothing but batches can go missing
    api.set(faults=Faults())
    assert retrieve(api, batch).id == batch.id


def test_results_can_break_off_in_the_middle(api: ChaosApi) -> None:
    batch = create(api, items(*[RIGHT] * 50))
    retrieve(api, batch)
    api.set(faults=Faults(cut=1.0))
    url, seen = f"{api.base_url}/v1/messages/batches/{batch.id}/results", b""
    with (
        httpx2.stream("GET", url, headers={"x-api-key": API_KEY}, trust_env=False) as response,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        for chunk in response.iter_bytes():
            seen += chunk
    assert 1 <= seen.count(b"\n") < 49


@pytest.mark.parametrize("custom_id", ["", "a" * 65, "a b", "a.b", "é", "a\n", "item-0"])
def test_custom_ids_keep_the_rules_of_the_api(api: ChaosApi, custom_id: str) -> None:
    first, second = items(RIGHT, RIGHT)
    second["custom_id"] = custom_id
    with pytest.raises(anthropic.BadRequestError, match=r"requests\.1\.custom_id"):
        create(api, [first, second])
    assert listed(api).data == []


def test_batches_above_the_limits_are_refused_and_the_limits_are_the_apis(api: ChaosApi) -> None:
    assert (Settings().max_batch_requests, Settings().max_batch_bytes) == (MAX_BATCH_REQUESTS, MAX_BATCH_BYTES)
    assert (MAX_BATCH_REQUESTS, MAX_BATCH_BYTES) == (100_000, 256 * 2**20)
    with pytest.raises(anthropic.BadRequestError, match="at least 1"):
        create(api, [])
    api.set(max_batch_requests=2, max_queued=3)
    with pytest.raises(anthropic.BadRequestError, match="at most 2"):
        create(api, items(*[RIGHT] * 3))
    create(api, items(RIGHT, RIGHT))
    with pytest.raises(anthropic.RateLimitError, match="queue"):
        create(api, items(RIGHT, RIGHT))
    api.set(max_batch_bytes=1000)
    with pytest.raises(anthropic.APIStatusError, match="request_too_large"):
        create(api, items(RIGHT))


def test_a_pack_in_a_batch_is_counted_by_its_questions(api: ChaosApi) -> None:
    (result,) = results(api, create(api, [{"custom_id": "pack", "params": packed(RIGHT, WRONG)}])).values()
    assert len(json.loads(text_of(result.message))["verdicts"]) == 2
    assert api.stats().times_answered == {1: 2}
