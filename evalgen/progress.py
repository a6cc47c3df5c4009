"""How far a job is: what its store and its limiter tell in mid-run, put together with the units that came out.

No clock of its own and no Ray. Nothing here is used to decide anything; a figure that cannot be known yet is None.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any, get_args

from evalgen.grading.limiter_state import LimiterState
from evalgen.job_log import known_figures
from evalgen.records import GradedUnit, Limits, VerdictKind
from evalgen.schedule import FailedUnit, ScheduleFigures
from evalgen.work import Work

WINDOW_S = 60.0  # over which rates are taken
SHORTEST_WINDOW_S = 2.0  # a rate over less says nothing
SHORTEST_FOR_ETA_S = 10.0


@dataclass(frozen=True, kw_only=True)
class StoreFigures:
    """What a job's store knows. The first five are right whatever died; the others count since its process began."""

    schedule: ScheduleFigures
    num_draws: int  # of units that are sampled
    num_distinct: int  # completions that these gave, unit by unit
    num_questions: int  # completions that are judged in the pipeline: of these, and greedy ones that no draw gave
    num_reloaded: int  # the same of units that an earlier part of the job sampled
    verdicts: Mapping[str, int]  # how many completions have got which kind of verdict, whoever asked
    num_cached: int  # verdicts that earlier experiments paid for
    num_asked_again: int  # questions, or votes on them, that took several requests
    first_asked_at: float | None  # when a replica first asked it for work, by the monotonic clock of the driver's node


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What there is to show of a job. "Parts" are sampling units; rates are a minute's; None: not known (yet)."""

    elapsed_s: float
    start_s: float | None  # of it, until the first replica asked for work
    num_parts: int  # to be sampled
    num_sampled: int
    num_failed: int
    num_retried: int
    num_draws: int
    num_distinct: int
    num_questions: int  # completions that are to be judged, as far as they are known
    num_answered: int
    equivalent_share: float | None  # of those that were judged
    num_ungraded: int
    num_cached: int
    num_asked_again: int
    num_requests: int
    num_in_flight: int
    num_throttled: int
    requests_per_minute: float | None
    input_tokens_per_minute: float | None
    output_tokens_per_minute: float | None
    limits: Limits
    cost_usd: float | None  # None: the judge's price is unknown
    cap_usd: float | None  # None: there is none
    is_judge_away: bool  # its server fails, and all requests are held back
    held_for_s: float  # all requests wait yet, because the judge's server asked for a pause
    eta_s: float | None  # seconds left

    def fields(self) -> dict[str, Any]:
        """Flat, for logs and charts; without what is not known."""
        named = asdict(self)
        named |= {f"limit_{name}_per_minute": limit for name, limit in named.pop("limits").items()}
        return known_figures(named)


class Monitor:
    """Keeps the last that was told, by any thread. Times are of one clock, that of `StoreFigures`, in seconds."""

    def __init__(self, work: Work, now: float) -> None:
        self._num_units, self._begun_at = len(work.units), now
        self._lock = Lock()
        self._graded: dict[str, int] = {}  # by unit, its completions that have verdicts
        self._failed: set[str] = set()
        self._store: StoreFigures | None = None
        self._limiter: LimiterState | None = None
        self._held_until = now
        self._start_s: float | None = None
        self._carried = Carried()
        self._answered = Window(shortest_s=SHORTEST_FOR_ETA_S)
        self._requests, self._input_tokens, self._output_tokens = Window(), Window(), Window()
        self._sampling_left: tuple[float | None, float] = (None, now)  # as last estimated, and when

    def note(self, unit: GradedUnit | FailedUnit) -> None:
        """A unit has come out of the pipeline."""
        with self._lock:
            if isinstance(unit, FailedUnit):
                self._failed.add(unit.unit.id)
            else:
                self._graded[unit.unit_id] = self._graded.get(unit.unit_id, 0) + unit.num_questions

    def update(self, store: StoreFigures | None, limiter: LimiterState | None, now: float) -> None:
        """None: it did not tell anything new."""
        with self._lock:
            if store is not None:
                self._store = store
                if self._start_s is None and store.first_asked_at is not None:
                    self._start_s = store.first_asked_at - self._begun_at
                if store.schedule.seconds_left != self._sampling_left[0]:
                    self._sampling_left = (store.schedule.seconds_left, now)
            if limiter is not None:
                self._limiter, self._held_until = limiter, now + limiter.held_for_s
            progress = self._progress(now)
            self._answered.add(now, progress.num_answered)
            if limiter is not None:
                self._requests.add(now, progress.num_requests)
                self._input_tokens.add(now, self._carried.total("input tokens", limiter.requests.input_tokens))
                self._output_tokens.add(now, self._carried.total("output tokens", limiter.requests.output_tokens))

    def progress(self, now: float) -> Progress:
        with self._lock:
            return self._progress(now)

    def _progress(self, now: float) -> Progress:
        store, limiter = self._store or NOTHING_STORED, self._limiter or LimiterState()
        total, schedule, requests = self._carried.total, store.schedule, limiter.requests
        verdicts = Counter({kind: int(total(kind, store.verdicts.get(kind, 0))) for kind in get_args(VerdictKind)})
        num_questions = max(
            store.num_questions + int(total("reloaded", store.num_reloaded)), num_graded := sum(self._graded.values())
        )
        # What a dead grader had answered is counted again when another does; what came out is certain.
        num_answered = min(max(verdicts.total(), num_graded), num_questions)
        num_judged = verdicts["equivalent"] + verdicts["not_equivalent"]
        spent_usd = total("cost", requests.cost_usd) if limiter.spent_usd is None else limiter.spent_usd
        return Progress(
            elapsed_s=now - self._begun_at,
            start_s=self._start_s,
            num_parts=self._num_units,
            num_sampled=schedule.num_finished,
            num_failed=max(schedule.num_failed, len(self._failed)),
            num_retried=schedule.num_retried,
            num_draws=store.num_draws,
            num_distinct=store.num_distinct,
            num_questions=num_questions,
            num_answered=num_answered,
            equivalent_share=verdicts["equivalent"] / num_judged if num_judged else None,
            num_ungraded=verdicts["ungraded"],
            num_cached=int(total("cached", store.num_cached)),
            num_asked_again=int(total("asked again", store.num_asked_again)),
            num_requests=int(total("requests", requests.outcomes.total())),
            num_in_flight=limiter.num_in_flight,
            num_throttled=int(total("throttled", requests.outcomes["throttled"])),
            requests_per_minute=self._requests.per_minute(now),
            input_tokens_per_minute=self._input_tokens.per_minute(now),
            output_tokens_per_minute=self._output_tokens.per_minute(now),
            limits=limiter.limits,
            cost_usd=None if requests.num_unpriced else spent_usd,
            cap_usd=limiter.cap_usd,
            is_judge_away=limiter.breaker != "closed",
            held_for_s=max(0.0, self._held_until - now),
            eta_s=self._eta_s(schedule, store.num_questions, num_questions - num_answered, now),
        )

    def _eta_s(self, schedule: ScheduleFigures, num_new: int, backlog: int, now: float) -> float | None:
        left, told_at = self._sampling_left
        if schedule.cost_left:
            sampling_s = None if left is None else max(0.0, left - (now - told_at))
        else:
            sampling_s = None if self._store is None else 0.0
        to_come = num_new * schedule.cost_left / schedule.cost_done if schedule.cost_done else 0.0
        return eta_s(sampling_s, backlog + to_come, self._answered.per_minute(now))


def eta_s(sampling_s: float | None, num_to_answer: float, answers_per_minute: float | None) -> float | None:
    """Sampling and grading overlap: what takes longer. None where one of them is not known."""
    if sampling_s is None or (num_to_answer > 0 and not answers_per_minute):
        return None
    return max(sampling_s, 60 * num_to_answer / answers_per_minute if answers_per_minute else 0.0)


class Window:
    """How fast something that is only added to grows, over the last `WINDOW_S`."""

    def __init__(self, length_s: float = WINDOW_S, shortest_s: float = SHORTEST_WINDOW_S) -> None:
        self._length_s, self._shortest_s = length_s, shortest_s
        self._totals: deque[tuple[float, float]] = deque()  # (time, total), one of them older than the window

    def add(self, now: float, total: float) -> None:
        if len(self._totals) == 1 and total == self._totals[0][1]:
            self._totals.clear()  # nothing has begun yet
        self._totals.append((now, total))
        while len(self._totals) > 2 and self._totals[1][0] <= now - self._length_s:
            self._totals.popleft()

    def per_minute(self, now: float) -> float | None:
        """None: not watched for long enough."""
        if not self._totals or now - self._totals[0][0] < self._shortest_s:
            return None
        first, (_, last) = self._totals[0], self._totals[-1]
        return 60 * (last - first[1]) / (now - first[0])


class Carried:
    """Totals over all processes of an actor that died: a count that fell began anew."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def total(self, name: str, value: float) -> float:
        if value < self._last.get(name, 0):
            self._before[name] = self._before.get(name, 0) + self._last[name]
        self._last[name] = value
        return self._before.get(name, 0) + value


NOTHING_STORED = StoreFigures(
    schedule=ScheduleFigures(),
    num_draws=0,
    num_distinct=0,
    num_questions=0,
    num_reloaded=0,
    verdicts={},
    num_cached=0,
    num_asked_again=0,
    first_asked_at=None,
)
