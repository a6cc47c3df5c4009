"""The one place where a job's state is kept: what is sampled, what is judged, and who samples what next.

It runs on the driver's node, so that other nodes need no shared disk. All that it knows of finished work is on disk the
moment it is told; when its process dies Ray starts it again, and it reads there how far the job is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import ray

from evalgen.grading.shared_verdicts import Claim, SharedVerdicts
from evalgen.records import Answer, Question, SamplingUnit
from evalgen.schedule import FailedUnit, Schedule
from evalgen.unit_store import SamplingCost, StoredUnit, UnitStore
from evalgen.verdict_store import VerdictStore
from evalgen.work import read_units

PATIENT_CALLS = 10_000  # that may wait in the actor at once: a replica without work, a question on its way


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a replica is to do next."""

    unit: SamplingUnit
    is_stored: bool  # it was sampled before, and only its completions are wanted once more
    next_checkpoint: str  # path of the one that the replica will probably want after this; "": none


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class StoreActor:
    """Asynchronous, because replicas wait in it for work. What touches the disk is done in one go: no two at once."""

    def __init__(
        self,
        samples: Path,
        verdicts: Path,
        earlier_verdicts: Sequence[Path],
        units: Path,
        num_replicas: int,
    ) -> None:
        """`units`: a file of `evalgen.work.write_units` with all that the job needs. Stored ones are not given out."""
        self._samples = UnitStore(samples)
        self._verdicts = VerdictStore(verdicts, earlier_verdicts)
        self._shared = SharedVerdicts(self._verdicts)
        stored = {unit.unit_id for unit in self._samples.stored}
        self._schedule = Schedule([unit for unit in read_units(units) if unit.id not in stored], num_replicas)
        self._devices: set[str] = set()  # all that asked for work
        self._num_replicas = num_replicas
        self._changed = asyncio.Condition()
        self._failure: str | None = None

    async def take(self, ticket: int, replica: str, device: str) -> Assignment | None:
        """The next unit for `replica`, as soon as there is one; None: nothing is left for it to do."""
        finished = self._schedule.finished_unit_of(ticket)
        if finished is not None:
            return Assignment(unit=finished, is_stored=True, next_checkpoint="")
        self._devices.add(device)
        async with self._changed:
            while True:
                # A retired replica waits to the end: were it to return, Ray would hand it the next ticket at once.
                unit = None if self._schedule.is_retired(device) else self._schedule.take(ticket, replica)
                if unit is not None:
                    following = self._schedule.next_checkpoint(replica)
                    return Assignment(unit=unit, is_stored=False, next_checkpoint=following)
                if self._schedule.is_over:
                    self._changed.notify_all()
                    return None
                await self._changed.wait()

    async def save_unit(self, unit: SamplingUnit, samples: pa.Table, cost: SamplingCost) -> None:
        self._samples.save(unit, samples, cost)
        self._schedule.finished(unit.id, cost)
        await self._notify()

    async def stored_units(self) -> Sequence[StoredUnit]:
        return list(self._samples.stored)

    async def load_unit(self, unit_id: str) -> pa.Table:
        return self._samples.load(unit_id)

    async def unit_failed(self, unit_id: str, reason: str, for_good: bool) -> None:
        self._schedule.failed(unit_id, reason, for_good=for_good)
        await self._notify()

    async def device_failed(self, unit_id: str, device: str, reason: str) -> None:
        self._schedule.device_failed(unit_id, device, reason)
        if len(self._devices) >= self._num_replicas and all(map(self._schedule.is_retired, self._devices)):
            self._schedule.give_up(f"every device has failed: {reason}")
        await self._notify()

    async def failed_units(self) -> Sequence[FailedUnit]:
        return self._schedule.failures

    async def claim_questions(self, questions: Sequence[Question], holder: str) -> list[Claim]:
        return await self._shared.claim(questions, holder)

    async def wait_for_verdicts(self, questions: Sequence[Question], holder: str) -> list[Claim]:
        return await self._shared.wait(questions, holder)

    async def add_answers(self, answers: Sequence[Answer]) -> None:
        await self._shared.add(answers)

    async def release_questions(self, questions: Sequence[Question]) -> None:
        await self._shared.release(questions)

    async def still_here(self, holder: str) -> None:
        await self._shared.still_here(holder)

    async def note_failure(self, reason: str) -> None:
        """Keeps the first reason for which an actor gave up: Ray's own report of it is a page long."""
        self._failure = self._failure or reason

    async def failure(self) -> str | None:
        return self._failure

    async def close(self) -> None:
        """The verdicts as one file. More may be added later."""
        self._verdicts.close()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
