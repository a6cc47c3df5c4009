"""Holds a cap on what grading costs: whatever a request may cost at most is set aside before it is sent.

What is set aside is written down first. So a job that was killed with requests in flight, and is resumed, counts them
as paid in full, for they may have been: the cap holds over all parts of a job.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evalgen.errors import GradingBudgetSpent
from evalgen.journal import Journal, Record, read_journal, rewrite_journal

LEDGER = "spending.jsonl"
MOST_LINES = 10_000  # of the ledger, whose last line is all that counts
TINY_USD = 1e-9  # sums of floats


class Spending:
    """What a job has paid and set aside, in USD; for one process at a time."""

    def __init__(self, directory: Path, cap_usd: float, paid_usd: float) -> None:
        """`paid_usd`: what the verdicts of the experiment cost. Earlier parts of the job may have had no cap."""
        assert cap_usd >= 0, cap_usd
        self._path = directory / LEDGER
        self._cap_usd = cap_usd
        lines, _ = read_journal(self._path)
        last: Record = dict.fromkeys(("spent_usd", "reserved_usd", "inherited_usd"), 0.0) | {"settled_batches": []}
        last |= lines[-1] if lines else {}
        self._spent_usd: float = max(paid_usd, last["spent_usd"] + last["reserved_usd"])
        # What of that was set aside by earlier processes, and may not have been spent.
        self._inherited_usd: float = self._spent_usd - max(paid_usd, last["spent_usd"] - last["inherited_usd"])
        self._settled_batches: set[int] = set(last["settled_batches"])  # which a kill may have left open
        self._reserved: dict[int, float] = {}  # by lease
        self._ledger = self._new_ledger()

    @property
    def spent_usd(self) -> float:
        return self._spent_usd

    @property
    def cap_usd(self) -> float:
        return self._cap_usd

    @property
    def reserved_usd(self) -> float:
        return sum(self._reserved.values())

    def fits(self, usd: float) -> bool:
        """Whether so much can be set aside now; False: when something that is in flight cost less than it might have.

        Raises:
            GradingBudgetSpent: nothing is in flight, and it does not fit.
        """
        if self.has_room_for(usd):
            return True
        if not self._reserved:
            in_flight = ""
            if self._inherited_usd > TINY_USD:
                in_flight = f"what earlier parts of the job had in flight may cost ${self._inherited_usd:.4f} more, "
            raise GradingBudgetSpent(
                f"grading has cost ${self._spent_usd - self._inherited_usd:.4f} of --max_grading_cost_usd "
                f"{self._cap_usd:g}, {in_flight}and the next request may cost up to ${usd:.4f}; go on with a larger one"
            )
        return False

    def has_room_for(self, usd: float) -> bool:
        return self._spent_usd + self.reserved_usd + usd <= self._cap_usd + TINY_USD

    def reserve(self, lease: int, usd: float) -> None:
        self._reserved[lease] = usd

    def take_over(self, most_usd: Mapping[int, float]) -> None:
        """Sets aside again what earlier processes did for the batches that are open; nothing, if they knew the cost."""
        self._settled_batches &= most_usd.keys()
        for batch, usd in most_usd.items():
            reserved_usd = 0.0 if batch in self._settled_batches else usd
            inherited_usd = min(reserved_usd, self._inherited_usd)
            self._inherited_usd -= inherited_usd
            self._spent_usd -= inherited_usd
            self._reserved[batch] = reserved_usd

    def settle(self, lease: int, usd: float | None) -> None:
        """What the request cost; None: nobody knows, and it counts as all that was set aside.

        One of an earlier process is passed over: it counted in full when the ledger was read.
        """
        if lease in self._reserved:
            reserved_usd = self._reserved.pop(lease)
            self._spent_usd += reserved_usd if usd is None else usd

    def settle_batch(self, batch: int, usd: float | None) -> None:
        """What a batch cost, counted once over all processes; before its verdicts are stored. Durable then."""
        self.settle(batch, 0.0 if batch in self._settled_batches else usd)
        self._settled_batches.add(batch)
        self.write_down()

    def write_down(self) -> None:
        """To be called before what was reserved is spent; durable when this returns."""
        if self._num_lines >= MOST_LINES:
            self._ledger.close()
            self._ledger = self._new_ledger()
        self._ledger.append([self._line()])
        self._num_lines += 1

    def close(self) -> None:
        self._ledger.append([self._line()])
        self._ledger.close()

    def _line(self) -> Record:
        """The whole is what was paid for or may have been; `inherited_usd` is part of `spent_usd`."""
        return {
            "spent_usd": self._spent_usd,
            "reserved_usd": self.reserved_usd,
            "inherited_usd": self._inherited_usd,
            "settled_batches": sorted(self._settled_batches),
        }

    def _new_ledger(self) -> Journal:
        self._num_lines = 1
        rewrite_journal(self._path, [self._line()])
        return Journal(self._path)
