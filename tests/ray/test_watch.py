"""What other processes log reaches the job's log: in order, whatever ends the job, and nothing is lost in silence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Event as Flag
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from evalgen.errors import JobStopped
from evalgen.job_log import MOST_EVENTS, Event, EventList, EventsRead, JobLog
from evalgen.progress import Monitor
from evalgen.work import Work
from ray_jobs import watch
from ray_jobs.stop import Interrupted
from tests.ray.conftest import RayCluster

PATIENCE_S = 300.0
ENDS: dict[str, BaseException | None] = {
    "done": None,
    "stopped": JobStopped("the judge is gone"),
    "interrupted": Interrupted(15),
}


@ray.remote(num_cpus=0, max_concurrency=2)
class Teller:
    """Has events, and no figures."""

    def __init__(self) -> None:
        self._events, self._may_answer = EventList(), Flag()
        self._may_answer.set()

    def note(self, *times: float) -> None:
        for at in times:
            message = f"event at {at}"
            self._events.add(Event(at=at, level=logging.INFO, message=message, actor="teller", kind=message))

    def hang(self) -> None:
        self._may_answer.clear()

    def tell(self, read: EventsRead | None) -> tuple[None, tuple[Event, ...], EventsRead]:
        self._may_answer.wait()
        return None, *self._events.since(read)


@pytest.fixture
def tellers(joined_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """In the places of a job's store and limiter, which nobody asks before the end."""
    monkeypatch.setattr(watch, "ASK_EVERY_S", PATIENCE_S)
    with ray.init(log_to_driver=False):
        yield Teller.remote(), Teller.remote()


def watched(tellers: tuple[Any, Any], path: Path, error: BaseException | None = None) -> list[str]:
    """The lines of a job's log that ends so."""
    expected: AbstractContextManager[Any] = pytest.raises(type(error)) if error else nullcontext()
    monitor = Monitor(Work(units=(), ungraded=()), 0.0)
    with JobLog() as job_log:
        job_log.open(path)
        with expected, watch.Watch(*tellers, monitor, show=()):
            if error:
                raise error
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("end", ENDS)
def test_the_last_events_are_in_the_log_in_order_whatever_ends_the_job(
    end: str, tellers: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LAST_ANSWER_S", "INTERRUPTED_ANSWER_S"):
        monkeypatch.setattr(watch, name, PATIENCE_S)
    store, limiter = tellers
    ray.get([store.note.remote(1.0, 3.0), limiter.note.remote(2.0, 4.0)])
    lines = watched(tellers, tmp_path / "experiment.log", ENDS[end])
    assert [line.split(" actor=")[0] for line in lines] == [
        f"1970-01-01T00:00:0{second}.000Z INFO event at {second}.0" for second in (1, 2, 3, 4)
    ]


def test_whoever_interrupts_does_not_wait_for_who_does_not_answer(
    tellers: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def recorded(calls: list[Any], timeout: float) -> Any:
        waits.append(timeout)
        return ray.wait(calls, timeout=timeout)

    monkeypatch.setattr(watch, "ray", SimpleNamespace(wait=recorded, get=ray.get))
    ray.get([it.note.remote(1.0) for it in tellers] + [it.hang.remote() for it in tellers])
    assert watched(tellers, tmp_path / "experiment.log", Interrupted(15)) == []
    assert waits == [watch.INTERRUPTED_ANSWER_S] * 4 and sum(waits) < 1, "then SIGKILL is near"


def test_how_many_events_are_lost_is_told_where_too_many_came(
    tellers: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LAST_ANSWER_S", PATIENCE_S)
    store, _ = tellers
    ray.get(store.note.remote(*map(float, range(MOST_EVENTS + 7))))
    (first, *others) = watched(tellers, tmp_path / "experiment.log")
    assert "WARNING 7 events are lost" in first
    assert len(others) == MOST_EVENTS and " INFO event at 7.0 " in others[0]
