"""The rate limits of the chaos server: three token buckets, what they refuse, and the headers that tell of them.

As https://platform.claude.com/docs/en/api/rate-limits has it: requests and input tokens are charged when a request
arrives, output tokens as they are produced; buckets refill continuously. No I/O, and time comes from injected clocks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an organization may use; None is no limit."""

    requests_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    capacity_s: float = 60.0  # what a bucket holds, in seconds' worth of its refill
    start_full: bool = True
    round_remaining_to: int = 1  # the API rounds the tokens that remain to thousands


STRICT = {"capacity_s": 1.0, "start_full": False}  # no burst is forgiven: `Limits(requests_per_minute=600, **STRICT)`


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A request that the limits do not let through now."""

    limit: str  # as the API calls it: "requests", "input tokens" or "output tokens"
    per_minute: float
    retry_after_s: int  # whole seconds, at least 1, after which the same request alone would be let through


class Bucket:
    """One limit: `level` of `capacity`, refilled at `per_minute` / 60 a second. The level may be below zero."""

    def __init__(self, per_minute: float, *, limits: Limits, clock: Clock) -> None:
        self._clock = clock
        self._refilled_at = clock()
        self.level = 0.0
        self._set_rate(per_minute, limits)
        if limits.start_full:
            self.level = self.capacity

    def change(self, per_minute: float, limits: Limits) -> None:
        """The new rate holds from now on. What is left stays, as far as the new capacity can hold it."""
        self._refill()
        self._set_rate(per_minute, limits)
        self.level = min(self.level, self.capacity)

    def _set_rate(self, per_minute: float, limits: Limits) -> None:
        assert per_minute > 0, per_minute
        self.per_minute = per_minute
        # Less than one request's worth would never let a request through.
        self.capacity = max(1.0, per_minute * limits.capacity_s / 60)

    def _refill(self) -> None:
        now = self._clock()
        self.level = min(self.capacity, self.level + (now - self._refilled_at) * self.per_minute / 60)
        self._refilled_at = now

    def charge(self, amount: float) -> None:
        self._refill()
        self.level -= amount

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` is there, 0 if it is.

        More than a bucket can hold is let through when it is full, and leaves a debt: a strict limit would
        otherwise refuse a long question for ever.
        """
        self._refill()
        missing = min(amount, self.capacity) - self.level
        # Without the tolerance, rounding could keep what has been waited for out of reach.
        return 0.0 if missing <= 1e-9 * self.capacity else missing * 60 / self.per_minute

    def reset_s(self) -> float:
        """Seconds until the bucket is full."""
        self._refill()
        return (self.capacity - self.level) * 60 / self.per_minute


class RateLimits:
    """The three limits together: a request is charged to all of them or to none."""

    def __init__(self, limits: Limits, *, clock: Clock = time.monotonic, wall_clock: Clock = time.time) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._limits = limits
        self._buckets: dict[str, Bucket] = {}
        self.change(limits)

    def change(self, limits: Limits) -> None:
        """From now on these hold. A limit that was there keeps its level; a new one starts as it says."""
        rates = {
            "requests": limits.requests_per_minute,
            "input-tokens": limits.input_tokens_per_minute,
            "output-tokens": limits.output_tokens_per_minute,
        }
        for name, per_minute in rates.items():
            if per_minute is None:
                self._buckets.pop(name, None)
            elif name in self._buckets:
                self._buckets[name].change(per_minute, limits)
            else:
                self._buckets[name] = Bucket(per_minute, limits=limits, clock=self._clock)
        self._limits = limits

    def admit(self, input_tokens: int) -> Refusal | None:
        """Charges a request that has arrived, or says which limit refuses it. A refused one costs nothing."""
        # Output is unknown yet: it is enough that what was produced before is not overdrawn.
        amounts = {"requests": 1.0, "input-tokens": float(input_tokens), "output-tokens": 0.0}
        waits = {name: bucket.wait_s(amounts[name]) for name, bucket in self._buckets.items()}
        name, wait_s = max(waits.items(), key=lambda item: item[1], default=("", 0.0))
        if wait_s > 0:
            return Refusal(
                limit=name.replace("-", " "),
                per_minute=self._buckets[name].per_minute,
                retry_after_s=math.ceil(wait_s),
            )
        for name, bucket in self._buckets.items():
            bucket.charge(amounts[name])
        return None

    def produced(self, output_tokens: int) -> None:
        """Charges output tokens; they were produced already, so nothing refuses them."""
        if bucket := self._buckets.get("output-tokens"):
            bucket.charge(output_tokens)

    def headers(self, clock_skew_s: float = 0.0) -> dict[str, str]:
        """What is allowed, what is left of it and when all of it is back, limit by limit; and the server's date."""
        now = self._wall_clock() + clock_skew_s
        headers = {"date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))}
        for name, bucket in self._buckets.items():
            step = 1 if name == "requests" else self._limits.round_remaining_to
            prefix = f"anthropic-ratelimit-{name}"
            headers[f"{prefix}-limit"] = f"{bucket.per_minute:.0f}"
            headers[f"{prefix}-reset"] = rfc3339(math.ceil(now + bucket.reset_s()))
            # Tokens are rounded to the nearest step, a request counts only when it is whole.
            left = max(0.0, bucket.level)
            headers[f"{prefix}-remaining"] = str(math.floor(left + 1e-9) if step == 1 else round(left / step) * step)
        return headers


@lru_cache(maxsize=1024)
def rfc3339(seconds: int) -> str:
    """Seconds since 1970 as the API writes a time: UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
