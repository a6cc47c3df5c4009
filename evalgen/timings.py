"""Seconds by stage, in the order in which the stages first began: they add up to the whole job."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:  # the driver keeps time before it imports what samples
    from evalgen.progress import Progress

# Names that end so are no stages, but within one: what the replicas took together, and what the first of them did.
WITHIN_A_STAGE = ("_all_replicas", "_first_replica")


class Timings:
    """`with timings.stage("assemble"): ...` adds the block's wall time to the stage. Stages do not overlap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun = time.perf_counter()

    @classmethod
    def of_process(cls) -> Timings:
        """As if made when this process was: what it did until now is the stage `start_python`."""
        timings = cls()
        timings.add("start_python", _age_of_process_s())
        timings._begun -= timings.seconds["start_python"]
        return timings

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def note_start(self, progress: Progress) -> None:
        """What of its stage passed until a replica asked for work. To be called as often as is convenient."""
        if progress.start_s is not None:
            self.seconds["start_first_replica"] = progress.start_s

    def total_s(self) -> float:
        """Since this object was made."""
        return time.perf_counter() - self._begun

    def whole(self) -> dict[str, float]:
        """All stages so far, what passed between them as `other`, and their sum as `total`."""
        total = self.total_s()
        other = total - sum(seconds for name, seconds in self.seconds.items() if not name.endswith(WITHIN_A_STAGE))
        assert other > -0.001, f"stages overlap: {self.seconds} in {total} s"
        return self.seconds | {"other": other, "total": total}


def _age_of_process_s() -> float:
    """The interpreter's own start included."""
    created_at: float = psutil.Process().create_time()
    if sys.platform != "linux":
        return time.time() - created_at
    # Linux counts from the boot, and knows the time of that to the second only; the difference of the two is exact.
    booted_at: float = psutil.boot_time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - (created_at - booted_at)
