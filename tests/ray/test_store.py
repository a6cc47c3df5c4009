"""The store's actor without its process: replicas that fail, die or never come do not keep the others waiting."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from evalgen.records import Answer, GraderSpec, Question, Verdict, VerdictKind
from evalgen.work import write_units
from ray_jobs import store
from ray_jobs.sampling import questions_table
from tests.unit.test_schedule import units_of
from tests.unit.test_unit_store import COST, samples

PATIENCE_S = 30.0
KINDS: tuple[VerdictKind, ...] = ("equivalent", "ungraded", "not_equivalent")
Scenario = Callable[[Any], Coroutine[Any, Any, None]]
ALIVE = [{"NodeID": "n1", "Alive": True}, {"NodeID": "n2", "Alive": True}]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Scenario], None]]:
    """Plays a scenario with the store of a job of three units and two replicas, which soon loses its patience."""
    monkeypatch.setattr(ray, "nodes", lambda: ALIVE)
    monkeypatch.setattr(store, "NODES_LOOKED_AT_EVERY_S", 0.01)
    monkeypatch.setattr(store, "PATIENCE_S", 0.1)
    write_units(tmp_path / "units", units_of({"a": [3, 2, 1]}))
    logger = logging.getLogger("evalgen")  # which an actor takes for its own process's
    level, handlers = logger.level, list(logger.handlers)
    actor = begun(tmp_path)

    def play(scenario: Scenario) -> None:
        asyncio.run(asyncio.wait_for(scenario(actor), PATIENCE_S))

    yield play
    logger.setLevel(level)
    logger.handlers[:] = handlers


def begun(directory: Path) -> Any:
    actor_class = store.StoreActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
    paths = {name: directory / name for name in ("samples", "verdicts", "units")}
    return actor_class(**paths, earlier_verdicts=[], num_replicas=2)


async def taken(actor: Any, ticket: int, replica: str, device: str, node: str = "n1") -> str | None:
    assignment = await actor.take(ticket, replica, device, node)
    return assignment and assignment.unit.id


def test_a_replica_that_cannot_load_and_waits_for_one_that_never_comes_tries_again(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(actor: Any) -> None:
        assert await taken(actor, 1, "x", "gpu 0") == "a0"
        await actor.load_failed("a0", "x", "stale file handle")
        assert await taken(actor, 1, "x", "gpu 0") == "a1"
        assert "yet to come" in str(actor._events.since(None)), "the job's log says what it waits for"

    run(scenario)


def test_a_unit_that_is_stored_is_an_event_with_its_figures_told_once(run: Callable[[Scenario], None]) -> None:
    async def scenario(actor: Any) -> None:
        figures, _, _ = await actor.tell(None)
        assert figures.first_asked_at is None
        times = [time.monotonic()]
        assignment = await actor.take(1, "x", "gpu 0", "n1")
        times.append(time.monotonic())
        await actor.take(2, "y", "gpu 1", "n1")
        table = samples(assignment.unit)
        for _ in range(2):  # Ray may repeat a call
            await actor.save_unit(assignment.unit, table, COST)
        figures, (event,), _ = await actor.tell(None)
        assert times[0] <= figures.first_asked_at <= times[1]
        dataset, num_draws, num_distinct = assignment.unit.dataset, figures.num_draws, figures.num_distinct
        assert num_draws > num_distinct > 0
        unit = f"unit_id=a0 dataset={dataset} num_draws={num_draws} num_distinct={num_distinct}"
        assert event.message == f"sampled {unit} load_s=0.5 sample_s=0.25"

    run(scenario)


def test_a_store_that_is_begun_anew_counts_what_is_stored_as_done_and_what_is_judged_as_judged(
    run: Callable[[Scenario], None], tmp_path: Path
) -> None:
    async def scenario(actor: Any) -> None:
        unit = (await actor.take(1, "x", "gpu 0", "n1")).unit
        table = samples(unit)
        await actor.save_unit(unit, table, COST)
        asked = questions_table(unit.id, unit.dataset, unit.queries, table).to_pylist()
        await actor.add_answers([answer(row, kind) for row, kind in zip(asked, KINDS, strict=False)])
        anew = begun(tmp_path)
        for one in (actor, anew):
            assert one._totals.planned == {unit.checkpoint: 3} and one._num_waiting() == len(asked) - len(KINDS)
        assert anew._totals.sampled == actor._totals.sampled
        assert anew._totals.sampled[unit.checkpoint].units_done == 1
        await anew.add_answers([answer(row, "equivalent") for row in asked[len(KINDS) :]])
        assert anew._num_waiting() == 0

    run(scenario)


def answer(row: dict[str, Any], kind: VerdictKind) -> Answer:
    grader = GraderSpec(model="anthropic/judge", instructions="")
    question = Question(grader=grader, **{name: row[name] for name in ("prompt", "reference", "completion")})
    return Answer(question=question, verdict=Verdict(kind=kind))


def test_where_nobody_is_left_what_waits_is_given_up(run: Callable[[Scenario], None]) -> None:
    """One replica's node has died for good, the other's GPU is broken."""

    async def scenario(actor: Any) -> None:
        assert await taken(actor, 1, "x", "gpu 0") == "a0"
        assert await taken(actor, 2, "y", "gpu 1", "n2") == "a1"
        ray.nodes = lambda: ALIVE[:1]
        await actor.device_failed("a0", "gpu 0", "CUDA error")
        again = await taken(actor, 3, "x", "gpu 0")
        assert again in ("a1", "a2"), "another, so that the unit is not to blame"
        await actor.device_failed(again, "gpu 0", "CUDA error")
        assert await taken(actor, 4, "x", "gpu 0") is None
        failures = await actor.failed_units()
        assert {failure.unit.id for failure in failures} == {"a0", "a1", "a2"}

    run(scenario)


def test_a_unit_comes_back_though_its_ticket_is_repeated_on_a_retired_gpu(run: Callable[[Scenario], None]) -> None:
    async def scenario(actor: Any) -> None:
        for ticket, expected in ((1, "a0"), (2, "a1")):
            assert await taken(actor, ticket, "x", "gpu 0") == expected
            await actor.device_failed(expected, "gpu 0", "CUDA error")
        assert await taken(actor, 3, "y", "gpu 1") == "a0"
        repeated = asyncio.create_task(taken(actor, 3, "y", "gpu 0"))  # their processes died, and Ray swapped the GPUs
        got = {await taken(actor, 4, "x", "gpu 1")}
        while None not in got:
            (unit_id,) = [unit_id for unit_id in got if unit_id]
            await actor.unit_failed(unit_id, "odd", True)
            got = {await taken(actor, 4, "x", "gpu 1")}
        assert await repeated is None

    run(scenario)


def test_nodes_are_looked_at_again_when_ray_could_not_tell(run: Callable[[Scenario], None]) -> None:
    async def scenario(actor: Any) -> None:
        answers = iter([RuntimeError("the GCS is away")])

        def nodes() -> list[dict[str, Any]]:
            for error in answers:
                raise error
            return ALIVE[:1]

        ray.nodes = nodes
        assert await taken(actor, 1, "x", "gpu 0", "n2") == "a0"
        assert await taken(actor, 2, "y", "gpu 1") == "a1"
        assert await taken(actor, 3, "z", "gpu 2") == "a2"
        assert await taken(actor, 4, "w", "gpu 3") == "a0"

    run(scenario)


def test_a_replica_that_ray_holds_back_for_slow_judges_is_not_taken_for_lost(run: Callable[[Scenario], None]) -> None:
    """As long as completions wait for verdicts. Afterwards nothing holds it back, and units that nobody takes end."""

    async def scenario(actor: Any) -> None:
        num_looks = 0

        def nodes() -> list[dict[str, Any]]:
            nonlocal num_looks
            num_looks += 1
            return ALIVE

        ray.nodes = nodes
        assignment = await actor.take(1, "x", "gpu 0", "n1")
        await actor.save_unit(assignment.unit, samples(assignment.unit), COST)
        while num_looks < 50:  # several times its patience
            await asyncio.sleep(store.NODES_LOOKED_AT_EVERY_S)
        assert not await actor.failed_units() and "yet to come" not in str(actor._events.since(None))
        actor._shared.told["equivalent"] = actor._num_waiting()
        while len(await actor.failed_units()) < 2:
            await asyncio.sleep(store.NODES_LOOKED_AT_EVERY_S)

    run(scenario)
