"""A budget of so much a minute that is filled all the time, for requests or for tokens."""

from __future__ import annotations

import math

HELD_S = 0.25  # the API may enforce 60 a minute as 1 a second, and requests arrive in bunches


class TokenBucket:
    """Holds `HELD_S` worth, or one request.

    What takes more than that may go when the bucket is full, and leaves a debt. Times are of any one clock, in seconds.
    """

    def __init__(self, per_minute: float | None, now: float) -> None:
        """None: unlimited."""
        self._filled_at = now
        self._per_s: float | None = None
        self._capacity = self._level = 0.0
        self.set_rate(per_minute, now)
        self._level = self._capacity

    @property
    def per_minute(self) -> float | None:
        return None if self._per_s is None else self._per_s * 60

    @property
    def capacity(self) -> float:
        return math.inf if self._per_s is None else self._capacity

    def set_rate(self, per_minute: float | None, now: float) -> None:
        """From now on; what is there stays, as far as there is room for it."""
        assert per_minute is None or per_minute > 0, per_minute
        was_unlimited = self._per_s is None
        self._fill(now)
        self._per_s = None if per_minute is None else per_minute / 60
        self._capacity = 0.0 if self._per_s is None else max(1.0, HELD_S * self._per_s)
        self._level = self._capacity if was_unlimited else min(self._level, self._capacity)

    def pause_s(self, amount: float, now: float) -> float:
        """How long until `amount` may be taken; 0: now."""
        if self._per_s is None:
            return 0.0
        self._fill(now)
        missing = min(amount, self._capacity) - self._level
        # Without the tolerance, rounding could leave a remainder too small for the clock to move by.
        return 0.0 if missing <= 1e-9 * self._capacity else missing / self._per_s

    def take(self, amount: float) -> None:
        """Whether it is there or not. A negative amount is given back."""
        if self._per_s is not None:
            self._level = min(self._capacity, self._level - amount)

    def drain(self) -> None:
        """The server says that there is nothing left."""
        self._level = min(self._level, 0.0)

    def _fill(self, now: float) -> None:
        if self._per_s is not None:
            self._level = min(self._capacity, self._level + (now - self._filled_at) * self._per_s)
        self._filled_at = now
