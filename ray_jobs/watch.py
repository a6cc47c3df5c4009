"""Asks the job's store and limiter about once a second how far they are, and shows it. The job never waits for that."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event as Flag
from threading import Thread
from typing import Any

import ray
from ray.exceptions import RayError

from evalgen.job_log import MOST_EVENTS, Event, EventsRead, log_event
from evalgen.progress import Monitor, Progress

ASK_EVERY_S = 1.0
LAST_ANSWER_S = 3.0  # how long the end of a job waits for the last figures
INTERRUPTED_ANSWER_S = 0.15  # where it was interrupted: SIGKILL may follow, and Ray is yet to be stopped

log = logging.getLogger("evalgen.watch")

Show = Callable[[Progress], None]


class Watch:
    """A block during which `monitor` is kept up to date, by a thread of its own."""

    def __init__(self, store: Any, limiter: Any, monitor: Monitor, show: Sequence[Show]) -> None:
        self._store, self._limiter, self._monitor, self._show = _Asked(store), _Asked(limiter), monitor, show
        self._is_over = Flag()
        self._thread = Thread(target=self._run, name="evalgen progress", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._is_over.set()
        self._thread.join(LAST_ANSWER_S)
        is_interrupted = error is not None and not isinstance(error, Exception)
        for _ in range(2):  # a call that is under way may be answered with what was before the end
            self._look(INTERRUPTED_ANSWER_S if is_interrupted else LAST_ANSWER_S)

    def _run(self) -> None:
        while not self._is_over.wait(ASK_EVERY_S):
            self._look(ASK_EVERY_S / 2)

    def _look(self, patience_s: float) -> None:
        """Takes what has been answered since the last look, or is within `patience_s`."""
        store, of_store = self._store.fetch(patience_s)
        limiter, of_limiter = self._limiter.fetch(patience_s)
        for event in sorted((*of_store, *of_limiter), key=lambda it: it.at):
            log_event(event)
        now = time.monotonic()
        self._monitor.update(store, limiter, now)
        progress = self._monitor.progress(now)
        for show in self._show:
            with suppress(OSError):  # the terminal is gone, say: the job goes on
                show(progress)


class _Asked:
    """An actor with a method `tell`; at most one call of it is under way."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._call: Any = None
        self._read: EventsRead | None = None

    def fetch(self, patience_s: float) -> tuple[Any, Sequence[Event]]:
        """The figures and what is new in its log; None: it does not answer. Then it is asked again, or still."""
        try:
            if self._call is None:
                self._call = self._actor.tell.remote(self._read)
            answered, _ = ray.wait([self._call], timeout=patience_s)
            if not answered:
                return None, ()
            call, self._call = self._call, None
            figures, events, self._read = ray.get(call)
        except RayError:  # it died; the job finds out by itself, or Ray starts it again
            self._call = None
            return None, ()
        if self._read.num_lost:
            log.warning("%d events are lost: more than %d came between two looks", self._read.num_lost, MOST_EVENTS)
        return figures, events
