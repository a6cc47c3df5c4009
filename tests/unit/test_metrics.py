"""What the job's processes export, as Ray's counters and gauges are told it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from evalgen.grading.batch_progress import BatchProgress, BatchTotals
from evalgen.grading.limiter_state import LimiterState
from evalgen.grading.request_totals import RequestTotals
from evalgen.grading.shared_verdicts import SharedVerdicts
from evalgen.records import Checkpoint
from evalgen.verdict_store import VerdictStore
from ray_jobs import metrics
from ray_jobs.metrics import BatchMetrics, LimiterMetrics, ReplicaMetrics, SampledTotals, StoreMetrics, StoreTotals

GRADER = "anthropic/judge"
FIRST, SECOND = (Checkpoint(run="run", name=name, path=name, tokenizer_path="") for name in ("first", "second"))
OF_FIRST, OF_SECOND = ("run", "first"), ("run", "second")
Exported = dict[str, dict[tuple[str, ...], float]]  # by metric, and by its tags' values without the job's


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Exported:
    values: Exported = {}

    class Told:
        """A counter or a gauge."""

        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self._values: dict[tuple[str, ...], float] = values.setdefault(name.removeprefix("evalgen_"), {})
            self._keys = [key for key in tag_keys if key != metrics.JOB_TAG]

        def _record(self, more: float, tags: dict[str, str]) -> None:
            self.set(self._values.get(self._of(tags), 0) + more, tags)

        def set(self, value: float | None, tags: dict[str, str]) -> None:
            if value is not None:
                self._values[self._of(tags)] = value

        def _of(self, tags: dict[str, str]) -> tuple[str, ...]:
            assert tags[metrics.JOB_TAG] == "01000000"
            return tuple(tags[key] for key in self._keys)

    monkeypatch.setattr(metrics, "Counter", Told)
    monkeypatch.setattr(metrics, "Gauge", Told)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01000000"))
    return values


def test_what_has_not_happened_is_exported_as_0_for_every_checkpoint_and_grader(
    exported: Exported, tmp_path: Path
) -> None:
    """So that the first time is an increase."""
    totals = StoreTotals(planned={FIRST: 3, SECOND: 2}, graders={GRADER})
    StoreMetrics().export(totals, SharedVerdicts(VerdictStore(tmp_path)), num_waiting=0)
    LimiterMetrics().export(LimiterState(requests_of={GRADER: RequestTotals()}))
    of_checkpoints = dict.fromkeys((OF_FIRST, OF_SECOND), 0)
    assert exported["units_failed"] == exported["units_retried"] == exported["units_done"] == of_checkpoints
    assert exported["units_planned"] == {OF_FIRST: 3, OF_SECOND: 2}
    for name in ("questions_ungraded", "questions_retried", "throttled", "cost_usd", "requests_unpriced"):
        assert exported[name] == {(GRADER,): 0}, name
    assert exported["requests"][GRADER, "failed"] == 0 and exported["questions_answered"][GRADER, "ungraded"] == 0


def test_a_counter_begins_with_what_is_stored_and_is_added_to_once(exported: Exported, tmp_path: Path) -> None:
    totals, verdicts = StoreTotals(planned={FIRST: 3}), SharedVerdicts(VerdictStore(tmp_path))
    totals.sampled[FIRST] = SampledTotals(units_done=2)
    store = StoreMetrics()
    for _ in range(2):
        store.export(totals, verdicts, num_waiting=0)
    assert exported["units_done"] == {OF_FIRST: 2}
    totals.sampled[FIRST].units_done += 1
    store.export(totals, verdicts, num_waiting=0)
    assert exported["units_done"] == {OF_FIRST: 3}


def test_questions_are_told_by_kind_and_by_who_paid(exported: Exported) -> None:
    totals = BatchTotals(
        answered=Counter({(GRADER, "equivalent"): 5, (GRADER, "ungraded"): 2}),
        cached=Counter({GRADER: 3}),
        asked_again=Counter({GRADER: 1}),
    )
    BatchMetrics().export(batches(totals))
    told = {name: exported[f"questions_{name}"][GRADER,] for name in ("asked", "cached", "ungraded", "retried")}
    assert told == {"asked": 4, "cached": 3, "ungraded": 2, "retried": 1}
    assert exported["questions_answered"][GRADER, "equivalent"] == 5
    assert exported["questions_waiting"] == {(): 9}


@pytest.mark.parametrize("is_in_batches", [False, True])
def test_requests_of_which_nobody_knows_what_they_cost_are_told(exported: Exported, is_in_batches: bool) -> None:
    requests_of = {GRADER: RequestTotals(outcomes=Counter({"answered": 4}), num_unpriced=3)}
    if is_in_batches:
        BatchMetrics().export(batches(BatchTotals(requests_of=requests_of)))
    else:
        LimiterMetrics().export(LimiterState(requests_of=requests_of))
    assert exported["requests_unpriced"] == {(GRADER,): 3} and exported["cost_usd"] == {(GRADER,): 0}


def test_a_pause_that_the_judge_asked_for_is_told_and_so_is_its_end(exported: Exported) -> None:
    limiter = LimiterMetrics()
    for held_for_s in (37.0, 0.0):
        limiter.export(LimiterState(held_for_s=held_for_s))
        assert exported["held_seconds"] == {(): held_for_s} and exported["breaker_open"] == {(): 0}


def test_a_replica_tells_of_the_checkpoint_that_it_samples_and_of_no_other(exported: Exported) -> None:
    replica = ReplicaMetrics()
    replica.export(FIRST, 100)
    replica.export(SECOND, 200)
    assert exported["kv_bytes"] == {OF_FIRST: 0, OF_SECOND: 200}
    replica.export(SECOND, 0)  # not known
    assert exported["kv_bytes"] == {OF_FIRST: 0, OF_SECOND: 0}


def batches(totals: BatchTotals) -> BatchProgress:
    settings: dict[str, Any] = dict.fromkeys(("num_batches", "num_ended", "num_processing", "num_known"), 0)
    return BatchProgress(**settings, oldest_age_s=None, num_waiting=9, is_held_back=False, totals=totals)
