"""The one place where a job's state is kept: what is sampled, what is judged, and who samples what next.

It runs on the driver's node, so that other nodes need no shared disk. All that it knows of finished work is on disk the
moment it is told; when its process dies Ray starts it again, and it reads there how far the job is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import ray

from evalgen.grading.shared_verdicts import Claim, SharedVerdicts
from evalgen.job_log import Event, EventHandler, EventList, EventsRead, fields, known_figures, log_in_process
from evalgen.journal import journal_lines
from evalgen.progress import StoreFigures
from evalgen.records import Answer, Question, SamplingUnit
from evalgen.sample_tables import drawn_or_enumerated
from evalgen.schedule import FailedUnit, Schedule
from evalgen.unit_store import SamplingCost, StoredUnit, UnitStore
from evalgen.verdict_store import JOURNAL, VerdictStore
from evalgen.verdict_table import VOTING
from evalgen.work import read_units
from ray_jobs.metrics import StoreMetrics, StoreTotals

log = logging.getLogger("evalgen.store")

PATIENT_CALLS = 10_000  # that may wait in the actor at once: a replica without work, a question on its way
NODES_LOOKED_AT_EVERY_S = 5.0
PATIENCE_S = 600.0  # with replicas that are yet to come, while those that are here can do nothing


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
        asked_later: Collection[str] = (),
    ) -> None:
        """`units`: a file of `evalgen.work.write_units` with all that the job needs. Stored ones are not given out.

        `asked_later` are datasets whose completions are judged in batches, and not while they are sampled.
        """
        self._events = EventList()
        log_in_process(EventHandler("store", self._events.add))
        self._samples = UnitStore(samples)
        self._verdicts = VerdictStore(verdicts, earlier_verdicts)
        self._shared = SharedVerdicts(self._verdicts)
        stored = {unit.unit_id: unit for unit in self._samples.stored}
        self._stored = {unit_id: unit.dataset for unit_id, unit in stored.items()}
        planned = read_units(units)
        self._schedule = Schedule([unit for unit in planned if unit.id not in self._stored], num_replicas)
        self._asked_later = frozenset(asked_later)
        self._num_draws = self._num_distinct = self._num_questions = 0
        self._reloaded: dict[str, int] = {}  # by unit of an earlier part of the job, its questions
        self._before = [unit for unit in planned if unit.id in self._stored]  # by a process of this actor that died
        self._metrics = StoreMetrics()
        self._totals = StoreTotals(planned=Counter(unit.checkpoint for unit in planned))
        judged = _judged(verdicts) if self._before else set()
        self._num_judged_before = 0  # completions of these that have verdicts, about: of another judge, perhaps
        for unit in self._before:
            samples_of_unit = self._samples.load(unit.id)
            self._count(unit, samples_of_unit, stored[unit.id].costs[unit.id])
            if unit.dataset not in self._asked_later:
                self._num_judged_before += _num_judged(unit, samples_of_unit, judged)
        self._ids = {unit.id for unit in planned}
        self._devices: set[str] = set()  # all that asked for work
        self._num_replicas = num_replicas
        self._node_of: dict[str, str] = {}  # by replica
        self._asking: set[str] = set()  # replicas that could sample, and wait to be told what
        self._node_watch: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._first_asked_at: float | None = None
        self._failure: str | None = None

    async def take(self, ticket: int, replica: str, device: str, node: str) -> Assignment | None:
        """The next unit for `replica`, as soon as there is one; None: nothing is left for it to do.

        `node` is Ray's id of the one that it is on.
        """
        self._first_asked_at = self._first_asked_at or time.monotonic()
        self._node_of[replica] = node
        self._node_watch = self._node_watch or asyncio.create_task(self._watch_nodes())
        finished = self._schedule.finished_unit_of(ticket)
        if finished is not None:
            return Assignment(unit=finished, is_stored=True, next_checkpoint="")
        self._devices.add(device)
        async with self._changed:
            if self._schedule.is_retired(device):
                self._schedule.came_again(ticket)
                self._schedule.left(replica)
                self._changed.notify_all()
            while True:
                # A retired replica waits to the end: were it to return, Ray would hand it the next ticket at once.
                unit = None if self._schedule.is_retired(device) else self._schedule.take(ticket, replica)
                if unit is not None:
                    following = self._schedule.next_checkpoint(replica)
                    self._asking.discard(replica)
                    return Assignment(unit=unit, is_stored=False, next_checkpoint=following)
                if self._schedule.is_over:
                    self._changed.notify_all()
                    return None
                if not self._schedule.is_retired(device):
                    self._asking.add(replica)
                await self._changed.wait()

    async def save_unit(self, unit: SamplingUnit, samples: pa.Table, cost: SamplingCost) -> None:
        self._samples.save(unit, samples, cost)
        self._schedule.finished(unit.id, cost)
        if unit.id not in self._stored:  # else Ray has repeated the call
            self._stored[unit.id] = unit.dataset
            num_draws, num_distinct = self._count(unit, samples, cost)
            figures = {
                "unit_id": unit.id,
                "dataset": unit.dataset,
                "num_draws": num_draws,
                "num_distinct": num_distinct,
                "load_s": cost.load_s,
                "sample_s": cost.sample_s,
            }
            log.info("sampled", extra=fields(**known_figures(figures)))
        await self._notify()

    async def stored_units(self) -> Sequence[StoredUnit]:
        return list(self._samples.stored)

    async def load_unit(self, unit_id: str) -> pa.Table:
        samples = self._samples.load(unit_id)
        if unit_id not in self._ids and self._stored[unit_id] not in self._asked_later:
            self._reloaded[unit_id] = num_completions(samples)
        return samples

    async def unit_failed(self, unit_id: str, reason: str, for_good: bool) -> None:
        self._schedule.failed(unit_id, reason, for_good=for_good)
        await self._notify()

    async def load_failed(self, unit_id: str, replica: str, reason: str) -> None:
        self._schedule.load_failed(unit_id, replica, reason)
        await self._notify()

    async def device_failed(self, unit_id: str, device: str, reason: str) -> None:
        self._schedule.device_failed(unit_id, device, reason)
        if len(self._devices) >= self._num_replicas and all(map(self._schedule.is_retired, self._devices)):
            self._schedule.give_up(f"every device has failed: {reason}")
        await self._notify()

    async def failed_units(self) -> Sequence[FailedUnit]:
        return self._schedule.failures

    async def claim_questions(self, questions: Sequence[Question], holder: str) -> list[Claim]:
        self._totals.graders.update(question.grader.model for question in questions)
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

    async def note_event(self, event: Event) -> None:
        """Something that another actor's log has, for the job's."""
        self._events.add(event)

    async def tell(self, read: EventsRead | None) -> tuple[StoreFigures, tuple[Event, ...], EventsRead]:
        """How far the job is; the events that are not `read`; what is read with them. Exports metrics."""
        schedule = self._schedule.figures
        figures = StoreFigures(
            schedule=replace(schedule, num_finished=schedule.num_finished + len(self._before)),
            num_draws=self._num_draws,
            num_distinct=self._num_distinct,
            num_questions=self._num_questions,
            num_reloaded=sum(self._reloaded.values()),
            verdicts={str(kind): number for kind, number in self._shared.told.items()},
            num_cached=self._shared.cached.total(),
            num_asked_again=self._shared.asked_again.total(),
            first_asked_at=self._first_asked_at,
        )
        self._export()
        return figures, *self._events.since(read)

    async def close(self) -> None:
        """The verdicts as one file. More may be added later."""
        self._verdicts.close()

    def _count(self, unit: SamplingUnit, samples: pa.Table, cost: SamplingCost) -> tuple[int, int]:
        """Draws and distinct completions of a unit that is stored."""
        num_draws, num_distinct = unit.num_draws * len(unit.queries), num_completions(drawn_or_enumerated(samples))
        self._num_draws += num_draws
        self._num_distinct += num_distinct
        if unit.dataset not in self._asked_later:
            self._num_questions += num_completions(samples)
        totals = self._totals.sampled[unit.checkpoint]
        totals.draws += num_draws
        totals.distinct_completions += num_distinct
        totals.model_evaluations += cost.model_evaluations
        totals.units_done += 1
        totals.checkpoint_load_seconds += cost.load_s
        totals.sampling_seconds += cost.sample_s
        totals.out_of_memory_halvings += cost.out_of_memory_halvings
        return num_draws, num_distinct

    def _export(self) -> None:
        failed = Counter(failure.unit.checkpoint for failure in self._schedule.failures)
        for checkpoint, number in failed.items():
            self._totals.sampled[checkpoint].units_failed = number
        for checkpoint, number in self._schedule.retried.items():
            self._totals.sampled[checkpoint].units_retried = number
        self._metrics.export(self._totals, self._shared, self._num_waiting())

    def _num_waiting(self) -> int:
        """Completions in the pipeline that have no verdict yet."""
        return max(0, self._num_untold() - self._num_judged_before)

    def _num_untold(self) -> int:
        """Those that no grader has told of: after an earlier process of this actor has died, more than wait."""
        return self._num_questions + sum(self._reloaded.values()) - self._shared.told.total()

    def _is_stuck(self) -> bool:
        """Units wait and nobody samples, though Ray does not hold replicas back for judges that are slower."""
        may_be_held_back = bool(self._node_of) and self._num_untold() > 0
        return self._schedule.is_stuck and (bool(self._asking) or not may_be_held_back)

    async def _watch_nodes(self) -> None:
        """Has the others sample what a node that died had in flight; sees to it that nobody waits for ever."""
        stuck_since: float | None = None
        while True:
            await asyncio.sleep(NODES_LOOKED_AT_EVERY_S)
            try:
                for replica in await self._lost_replicas():
                    del self._node_of[replica]
                    self._schedule.node_died(replica)
                    await self._notify()
            except Exception as error:  # whatever keeps Ray from telling; it is asked again
                log.warning("Ray does not tell which nodes are alive: %s", error)
            if not self._is_stuck():
                stuck_since = None
            elif stuck_since is None:
                stuck_since = time.monotonic()
                log.warning("units wait for replicas that are yet to come: none of those that are here can sample them")
            elif time.monotonic() - stuck_since > PATIENCE_S:
                stuck_since = time.monotonic()
                await self._go_on_alone()

    async def _lost_replicas(self) -> list[str]:
        """Those whose node has died."""
        asked = dict(self._node_of)  # a replica may come back on another node while Ray is asked
        alive = {node["NodeID"] for node in await asyncio.to_thread(ray.nodes) if node["Alive"]}
        return [name for name, node in asked.items() if node not in alive and self._node_of.get(name) == node]

    async def _go_on_alone(self) -> None:
        """Without those who did not come; where nobody is left who could sample, what waits is given up."""
        if self._schedule.expects_others:
            self._schedule.expect_nobody_else()
        else:
            self._schedule.give_up("no replica is left: their GPUs failed, or their nodes died and none came instead")
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _judged(verdicts: Path) -> set[int]:
    """Of each question that has a verdict the hash of its texts: a million of these would not fit beside all else."""
    rows = (row for _, row in journal_lines(verdicts / JOURNAL) if row is not None and row["error"] != VOTING)
    return {hash((row["prompt"], row["reference"], row["completion"])) for row in rows}


def _num_judged(unit: SamplingUnit, samples: pa.Table, judged: Collection[int]) -> int:
    """How many of a unit's distinct completions are among `judged`."""
    asked = {query.id: (query.prompt, query.reference) for query in unit.queries}
    distinct = set(zip(samples["prompt_id"].to_pylist(), samples["completion"].to_pylist(), strict=True))
    return sum(hash((*asked[prompt_id], completion)) in judged for prompt_id, completion in distinct)


def num_completions(samples: pa.Table) -> int:
    """Distinct ones of one unit: a text that two prompts have counts for both."""
    columns = ["prompt_id", "completion"]
    distinct: int = samples.select(columns).group_by(columns).aggregate([]).num_rows
    return distinct
