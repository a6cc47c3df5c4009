"""The job's metrics on Ray's metrics endpoint, for Prometheus: `ray_evalgen_...`, counters with `_total`.

Each is exported by the actor that knows it, as what has come since it was last exported: a call that Ray repeats adds
nothing. A process that begins anew has series of its own, which begin at 0; those of what the store finds on disk begin
there. All have the job's ID as Ray's own metrics have it, so that jobs at one time on one cluster are told apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import get_args

import ray
from ray.util.metrics import Counter, Gauge

from evalgen.grading.batch_progress import BatchProgress, BatchTotals
from evalgen.grading.limiter_records import Ended
from evalgen.grading.limiter_state import LimiterState
from evalgen.grading.request_totals import RequestTotals
from evalgen.grading.shared_verdicts import SharedVerdicts
from evalgen.records import Checkpoint, Limits, VerdictKind

JOB_TAG = "JobId"
CHECKPOINT_TAGS = ("run", "checkpoint")
BY_GRADER = ("grader",)


class Total:
    """A counter that follows a total. It is there from 0 on: else no alert would see the first failure."""

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = ()) -> None:
        self._counter = Counter(name, description=description, tag_keys=(*tag_keys, JOB_TAG))
        self._tag_keys = tag_keys
        self._exported: dict[tuple[str, ...], float] = {}

    def bring_to(self, total: float, *tags: str) -> None:
        """`tags` are values, in the order of the keys."""
        more = total - self._exported.get(tags, 0)
        if more > 0 or tags not in self._exported:
            self._counter._record(more, tags=_with_job(self._tag_keys, tags))  # `inc` refuses 0
            self._exported[tags] = total


class Level:
    """A gauge."""

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = ()) -> None:
        self._gauge = Gauge(name, description=description, tag_keys=(*tag_keys, JOB_TAG))
        self._tag_keys = tag_keys

    def set(self, level: float | None, *tags: str) -> None:
        """`tags` as those of `Total`; None: nothing is known, and the last that was stays."""
        self._gauge.set(level, tags=_with_job(self._tag_keys, tags))


@dataclass(kw_only=True)
class SampledTotals:
    """Of one checkpoint: all that is stored of this part of the job; failures since the store's process began."""

    draws: int = 0
    distinct_completions: int = 0  # summed over units: one that two units have counts twice
    model_evaluations: int = 0
    units_done: int = 0
    units_failed: int = 0
    units_retried: int = 0
    checkpoint_load_seconds: float = 0.0
    sampling_seconds: float = 0.0
    out_of_memory_halvings: int = 0


@dataclass(kw_only=True)
class StoreTotals:
    """What the store exports."""

    planned: Mapping[Checkpoint, int]  # units
    sampled: defaultdict[Checkpoint, SampledTotals] = field(default_factory=lambda: defaultdict(SampledTotals))
    graders: set[str] = field(default_factory=set)  # that questions were claimed for


class StoreMetrics:
    """Exported by the store's process alone."""

    def __init__(self) -> None:
        self._sampled = {
            it.name: Total(f"evalgen_{it.name}", SAMPLED_DESCRIPTIONS[it.name], CHECKPOINT_TAGS)
            for it in fields(SampledTotals)
        }
        self._planned = Level("evalgen_units_planned", "sampling units of this part of the job", CHECKPOINT_TAGS)
        self._questions = _QuestionMetrics()

    def export(self, totals: StoreTotals, verdicts: SharedVerdicts, num_waiting: int) -> None:
        for checkpoint, number in totals.planned.items():
            self._planned.set(number, checkpoint.run, checkpoint.name)
            for name, counter in self._sampled.items():
                counter.bring_to(getattr(totals.sampled[checkpoint], name), checkpoint.run, checkpoint.name)
        self._questions.export(verdicts, num_waiting, totals.graders)


class LimiterMetrics:
    """Exported by the limiter's process alone."""

    def __init__(self) -> None:
        self._requests = _RequestMetrics()
        self._throttled = Total("evalgen_throttled", "requests that the server put off with a 429", BY_GRADER)
        self._wait = Total("evalgen_limiter_wait_seconds", "that requests wait for their turn, all added up", BY_GRADER)
        self._limits = {
            it.name: Level(f"evalgen_limit_{it.name}_per_minute", "that the job keeps to; absent: none is known")
            for it in fields(Limits)
        }
        self._breaker = Level("evalgen_breaker_open", "1 while the judge's server fails and all requests wait")
        self._held = Level("evalgen_held_seconds", "that all requests wait yet: the judge's server asked for a pause")

    def export(self, state: LimiterState) -> None:
        self._requests.export(state.requests_of, state.num_in_flight)
        for grader, totals in state.requests_of.items():
            self._throttled.bring_to(totals.outcomes["throttled"], grader)
            self._wait.bring_to(totals.wait_s, grader)
        for name, level in self._limits.items():
            level.set(getattr(state.limits, name))
        self._breaker.set(int(state.breaker != "closed"))
        self._held.set(state.held_for_s)


class BatchMetrics:
    """Exported by the driver alone, while it waits for Message Batches: of the limiter there is nothing to tell."""

    def __init__(self) -> None:
        self._questions, self._requests = _QuestionMetrics(), _RequestMetrics()

    def export(self, progress: BatchProgress) -> None:
        self._questions.export(progress.totals, progress.num_waiting)
        self._requests.export(progress.totals.requests_of, progress.num_processing)


class _QuestionMetrics:
    """Of whoever stores the verdicts."""

    def __init__(self) -> None:
        self._answered = Total("evalgen_questions_answered", "questions with a new verdict", ("grader", "verdict"))
        self._asked = Total(
            "evalgen_questions_asked", "questions asked in this part of the job and answered", BY_GRADER
        )
        self._cached = Total("evalgen_questions_cached", "questions that an earlier experiment had paid for", BY_GRADER)
        self._ungraded = Total("evalgen_questions_ungraded", "questions that get no judgement", BY_GRADER)
        self._retried = Total("evalgen_questions_retried", "questions, or votes, that took several requests", BY_GRADER)
        self._waiting = Level("evalgen_questions_waiting", "completions that have no verdict yet")

    def export(self, totals: SharedVerdicts | BatchTotals, num_waiting: int, graders: Collection[str] = ()) -> None:
        """`graders` are those that may not have answered yet."""
        for grader in {*graders, *totals.asked_again, *(grader for grader, _ in totals.answered)}:
            answered = {kind: totals.answered[grader, kind] for kind in get_args(VerdictKind)}
            for kind, number in answered.items():
                self._answered.bring_to(number, grader, kind)
            self._asked.bring_to(sum(answered.values()) - totals.cached[grader], grader)
            self._cached.bring_to(totals.cached[grader], grader)
            self._ungraded.bring_to(answered["ungraded"], grader)
            self._retried.bring_to(totals.asked_again[grader], grader)
        self._waiting.set(num_waiting)


class _RequestMetrics:
    """Of whoever knows what became of the requests."""

    def __init__(self) -> None:
        self._requests = Total("evalgen_requests", "grading requests that have ended", ("grader", "outcome"))
        self._input_tokens = Total("evalgen_input_tokens", "sent to the judge, as it counts them", BY_GRADER)
        self._output_tokens = Total("evalgen_output_tokens", "that the judge replied with", BY_GRADER)
        self._cost = Total("evalgen_cost_usd", "of requests to judges whose price is known", BY_GRADER)
        self._unpriced = Total("evalgen_requests_unpriced", "answered by a judge whose price is not known", BY_GRADER)
        self._in_flight = Level("evalgen_requests_in_flight", "grading requests under way")

    def export(self, requests_of: Mapping[str, RequestTotals], num_in_flight: int) -> None:
        for grader, totals in requests_of.items():
            for outcome in get_args(Ended):
                self._requests.bring_to(totals.outcomes[outcome], grader, outcome)
            self._input_tokens.bring_to(totals.input_tokens, grader)
            self._output_tokens.bring_to(totals.output_tokens, grader)
            self._cost.bring_to(totals.cost_usd, grader)
            self._unpriced.bring_to(totals.num_unpriced, grader)
        self._in_flight.set(num_in_flight)


class ReplicaMetrics:
    """Exported by each sampling replica."""

    def __init__(self) -> None:
        self._kv_bytes = Level(
            "evalgen_kv_bytes",
            "keys, values and recurrent states: the most that the last unit had at once; 0: not known, or of another",
            CHECKPOINT_TAGS,
        )
        self._last: Checkpoint | None = None

    def export(self, checkpoint: Checkpoint, kv_bytes: int) -> None:
        """After a unit of it."""
        if self._last and self._last != checkpoint:  # a gauge cannot be taken back
            self._kv_bytes.set(0, self._last.run, self._last.name)
        self._kv_bytes.set(kv_bytes, checkpoint.run, checkpoint.name)
        self._last = checkpoint


def _with_job(keys: Iterable[str], values: Iterable[str]) -> dict[str, str]:
    return {JOB_TAG: ray.get_runtime_context().get_job_id(), **dict(zip(keys, values, strict=True))}


SAMPLED_DESCRIPTIONS = {
    "draws": "completions sampled",
    "distinct_completions": "distinct completions, unit by unit",
    "model_evaluations": "forward passes of one sequence each",
    "units_done": "sampling units that are stored",
    "units_failed": "sampling units given up",
    "units_retried": "attempts at a unit that failed and were followed by another",
    "checkpoint_load_seconds": "that replicas spent loading checkpoints",
    "sampling_seconds": "that replicas spent sampling",
    "out_of_memory_halvings": "how often a batch was halved because memory ran out",
}
