"""Which of a job's connections to the judge are at whose disposal, and who may have a request ready for the next one.

A process hears that a connection is free only after the way to the limiter and back. So that none idles meanwhile, a
process is granted some requests ahead: each goes out when one more of the process's own requests has been settled, over
the connection that this one leaves.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

AHEAD = 2.0  # of a process's connections: where all cores are busy, the limiter may be twice as far as the judge


@dataclass
class _Holder:
    num_leases: int = 0
    num_settled: int = 0
    last_after: int = 0  # of the last lease that was granted ahead; they are numbered without a gap

    @property
    def num_ahead(self) -> int:
        return max(0, self.last_after - self.num_settled)

    @property
    def num_connected(self) -> int:
        return self.num_leases - self.num_ahead


class Connections:
    """Counts, and decides; waits for nothing. Holders are processes."""

    def __init__(self, most: int) -> None:
        assert most > 0, most
        self._most = most
        self._holders: defaultdict[str, _Holder] = defaultdict(_Holder)
        self._waiting: Counter[str] = Counter()  # calls

    @property
    def num_in_use(self) -> int:
        return sum(holder.num_connected for holder in self._holders.values())

    def queue(self, name: str) -> None:
        self._waiting[name] += 1

    def leave_queue(self, name: str) -> None:
        self._waiting[name] -= 1

    def has_room_for(self, name: str, most_ahead: float) -> bool:
        """Whether a holder may have one more lease now; no more than `most_ahead` are granted ahead in all."""
        if self.num_in_use < self._most:
            return True
        holder = self._holders[name]
        num_ahead = sum(each.num_ahead for each in self._holders.values())
        if num_ahead >= most_ahead or holder.num_ahead >= math.ceil(AHEAD * holder.num_connected):
            return False
        # Else it could keep most connections from the others for good, and one core is not enough for many.
        return not any(
            self._holders[other].num_connected < holder.num_connected / 2
            for other, number in self._waiting.items()
            if number and other != name
        )

    def take(self, name: str) -> int:
        """Grants one more; returns its `Lease.after`: how many settled requests of the holder it awaits, 0 if none."""
        is_connected = self.num_in_use < self._most
        holder = self._holders[name]
        holder.num_leases += 1
        if is_connected:
            return 0
        holder.last_after = max(holder.last_after, holder.num_settled) + 1
        return holder.last_after

    def settle(self, name: str) -> None:
        holder = self._holders[name]
        holder.num_leases -= 1
        holder.num_settled += 1
