"""The Message Batches of the chaos server: what is created, how far it is, and the results. No HTTP.

Source: https://platform.claude.com/docs/en/api/creating-message-batches and the pages beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.chance import chance
from tests.chaos.limits import Clock, rfc3339
from tests.chaos.settings import Settings
from tests.chaos.wire import Refused, invalid
from tests.messages_api import Json, error

EXPIRY_S = 24 * 3600
OUTCOMES = ("processing", "succeeded", "errored", "canceled", "expired")
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")

# The result of one item: batch number, the item's position in it, its parameters.
Finish = Callable[[int, int, Json], Json]


@dataclass(kw_only=True)
class Batch:
    """One batch; its parameters are dropped once it has ended."""

    id: str
    number: int  # of its creation, from 1
    requests: list[tuple[str, Json]]  # custom id, parameters of the message
    created_at: float  # by the clock that decides on its progress
    created_on: int  # seconds since 1970
    num_polls: int = 0
    canceled_on: int | None = None
    ended_on: int | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    results: list[str] = field(default_factory=list)  # lines of JSON

    def to_json(self, base_url: str) -> Json:
        """The `message_batch` object."""
        status = "ended" if self.ended_on else "canceling" if self.canceled_on else "in_progress"
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": self.counts,
            "created_at": rfc3339(self.created_on),
            "expires_at": rfc3339(self.created_on + EXPIRY_S),
            "ended_at": self.ended_on and rfc3339(self.ended_on),
            "cancel_initiated_at": self.canceled_on and rfc3339(self.canceled_on),
            "archived_at": None,
            "results_url": f"{base_url}/v1/messages/batches/{self.id}/results" if self.ended_on else None,
        }


class Batches:
    """All batches, in order of creation. A poll is what moves one on, so a test needs no clock."""

    def __init__(self, finish: Finish, *, clock: Clock, wall_clock: Clock) -> None:
        self._finish = finish
        self._clock = clock
        self._wall_clock = wall_clock
        self._batches: dict[str, Batch] = {}

    def create(self, body: Any, settings: Settings) -> Batch:
        """Raises `Refused`. What the messages' parameters are worth is found out when they are processed."""
        requests = _checked(body, settings.max_batch_requests)
        num_queued = sum(batch.counts["processing"] for batch in self._batches.values())
        if settings.max_queued is not None and num_queued + len(requests) > settings.max_queued:
            text = f"This request would exceed your limit of {settings.max_queued:,} batch requests in the queue."
            raise Refused(error(429, "rate_limit_error", text, retry_after="60"))
        number = len(self._batches) + 1
        batch = Batch(
            # Nothing in an id tells the order of creation, as in the API's own.
            id=f"msgbatch_{chance(settings.seed, 'batch', number).getrandbits(96):024x}",
            number=number,
            requests=requests,
            created_at=self._clock(),
            created_on=int(self._wall_clock()),
        )
        batch.counts["processing"] = len(requests)
        self._batches[batch.id] = batch
        return batch

    def get(self, batch_id: str) -> Batch:
        """Raises `Refused` if there is none."""
        if batch_id not in self._batches:
            raise Refused(error(404, "not_found_error", f"batch {batch_id!r} not found"))
        return self._batches[batch_id]

    def poll(self, batch_id: str, settings: Settings) -> Batch:
        """The batch, which ends now if it was polled often enough and is old enough. Raises `Refused`."""
        batch = self.get(batch_id)
        self._poll(batch, settings)
        return batch

    def _poll(self, batch: Batch, settings: Settings) -> None:
        batch.num_polls += 1
        is_old_enough = self._clock() - batch.created_at >= settings.batch_min_s
        if batch.ended_on is None and batch.num_polls > settings.batch_polls and is_old_enough:
            self._end(batch, settings)

    def cancel(self, batch_id: str) -> Batch:
        """Ends at a later poll, as any batch does. Raises `Refused`."""
        batch = self.get(batch_id)
        if batch.ended_on is not None:
            raise invalid(f"batch {batch_id!r} has ended: it cannot be canceled")
        batch.canceled_on = batch.canceled_on or int(self._wall_clock())
        return batch

    def results(self, batch_id: str) -> list[str]:
        """One line of JSON for each item, in no order. Raises `Refused`."""
        batch = self.get(batch_id)
        if batch.ended_on is None:
            raise Refused(error(404, "not_found_error", f"batch {batch_id!r} has no results yet"))
        return batch.results

    def page(self, query: Mapping[str, str], base_url: str, settings: Settings) -> Json:
        """A page of the list, the newest first, each of which is polled by this. Raises `Refused`."""
        newest_first = list(reversed(self._batches.values()))
        limit = _limit(query.get("limit", "20"))
        if "after_id" in query and "before_id" in query:
            raise invalid("only one of after_id and before_id can be given")
        if "before_id" in query:
            end = newest_first.index(self.get(query["before_id"]))
            page, has_more = newest_first[max(0, end - limit) : end], end > limit
        else:
            start = newest_first.index(self.get(query["after_id"])) + 1 if "after_id" in query else 0
            page, has_more = newest_first[start : start + limit], len(newest_first) > start + limit
        for batch in page:
            self._poll(batch, settings)
        first_id, last_id = (page[0].id, page[-1].id) if page else (None, None)
        data = [batch.to_json(base_url) for batch in page]
        return {"data": data, "has_more": has_more, "first_id": first_id, "last_id": last_id}

    def _end(self, batch: Batch, settings: Settings) -> None:
        stream = chance(settings.seed, "end of batch", batch.number)
        for position, (custom_id, params) in enumerate(batch.requests):
            is_canceled = batch.canceled_on is not None and stream.random() < settings.batch_canceled_share
            result = {"type": "canceled"} if is_canceled else self._finish(batch.number, position, params)
            batch.counts["processing"] -= 1
            batch.counts[result["type"]] += 1
            batch.results.append(json.dumps({"custom_id": custom_id, "result": result}))
        stream.shuffle(batch.results)
        batch.requests = []
        batch.ended_on = int(self._wall_clock())


def _checked(body: Any, max_requests: int) -> list[tuple[str, Json]]:
    requests = body.get("requests") if isinstance(body, dict) else None
    if not isinstance(requests, list) or not requests:
        raise invalid("requests: List should have at least 1 item")
    if len(requests) > max_requests:
        raise invalid(f"requests: List should have at most {max_requests} items, not {len(requests)}")
    seen: set[str] = set()
    for i, entry in enumerate(requests):
        custom_id, params = (entry.get("custom_id"), entry.get("params")) if isinstance(entry, dict) else (None, None)
        if not isinstance(custom_id, str) or not isinstance(params, dict):
            raise invalid(f"requests.{i}: custom_id and params: Field required")
        if not _CUSTOM_ID.fullmatch(custom_id):
            raise invalid(f"requests.{i}.custom_id: String should match pattern '^{_CUSTOM_ID.pattern}$'")
        if custom_id in seen:
            raise invalid(f"requests.{i}.custom_id: must be unique, {custom_id!r} is not")
        seen.add(custom_id)
    return [(entry["custom_id"], entry["params"]) for entry in requests]


def _limit(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise invalid("limit: Input should be from 1 to 1000")
    return int(text)
