"""What is said of a job in mid-run: rates, the time that is left, and figures that outlive whoever told them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from evalgen.grading.limiter_state import LimiterState
from evalgen.grading.request_totals import RequestTotals
from evalgen.progress import NOTHING_STORED, Carried, Monitor, StoreFigures, Window, eta_s
from evalgen.records import GradedUnit, Limits
from evalgen.schedule import ScheduleFigures
from evalgen.timings import Timings
from evalgen.work import Work

NO_WORK = Work(units=(), ungraded=())


def graded(unit_id: str, num_questions: int) -> GradedUnit:
    return GradedUnit(
        unit_id=unit_id, dataset="d", num_questions=num_questions, num_equivalent=0, num_ungraded=num_questions
    )


def stored(**figures: object) -> StoreFigures:
    return replace(NOTHING_STORED, **figures)  # type: ignore[arg-type]


def asked(**totals: object) -> LimiterState:
    return LimiterState(requests_of={"judge": RequestTotals(**totals)})  # type: ignore[arg-type]


def scheduled(**figures: object) -> ScheduleFigures:
    return ScheduleFigures(**figures)  # type: ignore[arg-type]


def test_a_rate_is_that_of_the_last_minute_and_forgets_what_was_before() -> None:
    window = Window()
    for second in range(600):
        window.add(second, 10 * second if second <= 300 else 3_000 + second - 300)
    assert window.per_minute(599) == pytest.approx(60, rel=0.02)


def test_a_rate_is_not_known_before_anything_was_watched_and_falls_when_nothing_comes() -> None:
    window = Window()
    assert window.per_minute(0) is None
    for second in range(100):
        window.add(second, 0)
    window.add(100, 5)
    assert window.per_minute(100) is None, "what was idle before does not count"
    window.add(110, 55)
    assert window.per_minute(110) == pytest.approx(55 * 60 / 11)
    assert window.per_minute(1_000) == pytest.approx(55 * 60 / 901), "the last that was told is 15 minutes old"


def test_a_total_goes_on_where_it_was_when_its_process_begins_anew() -> None:
    carried = Carried()
    told = [3, 7, 7, 0, 2, 5, 1]
    assert [carried.total("x", value) for value in told] == [3, 7, 7, 7, 9, 12, 13]
    assert carried.total("y", 1) == 1


@pytest.mark.parametrize(
    ("sampling_s", "num_to_answer", "answers_per_minute", "expected"),
    [
        (None, 0, 60.0, None),  # nobody knows how long sampling takes
        (30.0, 0, None, 30.0),  # all that is known is answered
        (30.0, 10, None, None),  # nobody knows how fast the judge is
        (30.0, 10, 0.0, None),  # it answers nothing
        (30.0, 120, 60.0, 120.0),  # grading takes longer
        (300.0, 120, 60.0, 300.0),  # sampling does
    ],
)
def test_the_longer_of_sampling_and_grading_is_what_is_left(
    sampling_s: float | None, num_to_answer: float, answers_per_minute: float | None, expected: float | None
) -> None:
    assert eta_s(sampling_s, num_to_answer, answers_per_minute) == expected


def test_the_estimate_counts_down_between_units_and_knows_of_completions_that_are_yet_to_come() -> None:
    monitor = Monitor(NO_WORK, now=0.0)
    assert monitor.progress(0).eta_s is None
    half_done = scheduled(num_finished=1, cost_done=1.0, cost_left=1.0, seconds_left=50.0)
    for second in range(21):  # 100 of the first half's 200 completions are answered in 20 s
        verdicts = {"equivalent": 5 * second}
        monitor.update(stored(schedule=half_done, num_questions=200, verdicts=verdicts), None, second)
    progress = monitor.progress(20)
    # 5 a second: the other 100 and 200 that will come take 60 s; sampling would end in 50 - 20.
    assert progress.eta_s == pytest.approx(60, rel=0.06)
    monitor.update(stored(schedule=half_done, num_questions=200, verdicts={"equivalent": 200}), None, 21)
    assert monitor.progress(21).eta_s is not None


def test_the_start_of_a_job_ends_when_a_replica_first_asks_for_work_whatever_a_later_process_of_the_store_says() -> (
    None
):
    monitor, timings = Monitor(NO_WORK, now=10.0), Timings()
    told = []
    for first_asked_at in (None, 19.5, None, 40.0):
        monitor.update(stored(first_asked_at=first_asked_at), None, 50.0)
        timings.note_start(monitor.progress(50.0))
        told.append(timings.seconds.get("start_first_replica"))
    assert told == [None, 9.5, 9.5, 9.5]
    whole = timings.whole()
    assert whole["other"] == whole["total"], "it is within a stage"


def test_nothing_is_left_when_all_is_done() -> None:
    monitor = Monitor(NO_WORK, now=0.0)
    monitor.note(graded("a", 10))
    done = scheduled(num_finished=1, cost_done=1.0, cost_left=0.0, seconds_left=0.0)
    monitor.update(stored(schedule=done, num_questions=10, verdicts={"ungraded": 10}), None, 5.0)
    progress = monitor.progress(5.0)
    assert (progress.num_questions, progress.num_answered, progress.eta_s) == (10, 10, 0.0)
    assert progress.equivalent_share is None, "ungraded is not `not equivalent`"


def test_what_a_dead_grader_had_answered_is_not_counted_beyond_what_there_is() -> None:
    monitor = Monitor(NO_WORK, now=0.0)
    monitor.update(stored(num_questions=10, verdicts={"equivalent": 14}), None, 1.0)
    assert monitor.progress(1).num_answered == 10


def test_units_that_came_out_count_even_if_the_store_forgot_their_answers() -> None:
    monitor = Monitor(NO_WORK, now=0.0)
    monitor.note(graded("a", 30))
    monitor.note(graded("b", 20))
    monitor.note(graded("b", 5))  # a large unit comes in several parts
    monitor.update(stored(num_questions=60, verdicts={"equivalent": 1}), None, 1.0)
    progress = monitor.progress(1)
    assert (progress.num_answered, progress.num_questions) == (55, 60)


def test_a_store_that_died_takes_no_verdicts_with_it_though_the_next_has_told_of_none() -> None:
    monitor, told = Monitor(NO_WORK, now=0.0), []
    for verdicts in ({"equivalent": 4, "ungraded": 2}, {}, {"ungraded": 1}):
        monitor.update(stored(num_questions=20, verdicts=verdicts), None, 1.0)
        told.append(monitor.progress(1.0).num_answered)
    assert told == [6, 6, 7]


def test_a_limiter_that_died_takes_neither_money_nor_requests_with_it() -> None:
    monitor = Monitor(NO_WORK, now=0.0)
    monitor.update(None, asked(outcomes=Counter({"answered": 40, "throttled": 2}), cost_usd=1.5), 1.0)
    monitor.update(None, asked(outcomes=Counter({"answered": 1}), cost_usd=0.25), 2.0)
    monitor.update(None, None, 3.0)  # it is busy
    progress = monitor.progress(3.0)
    assert (progress.num_requests, progress.num_throttled, progress.cost_usd) == (43, 2, 1.75)


def test_with_a_cap_the_ledger_says_what_was_spent_over_all_parts_of_the_job() -> None:
    monitor = Monitor(NO_WORK, now=0.0)
    monitor.update(None, replace(asked(cost_usd=0.5), spent_usd=3.0, cap_usd=5.0), 1.0)
    progress = monitor.progress(1.0)
    assert (progress.cost_usd, progress.cap_usd) == (3.0, 5.0)


def test_a_pause_that_the_judge_asked_for_counts_down_while_its_limiter_tells_nothing() -> None:
    monitor = Monitor(NO_WORK, now=0.0)
    monitor.update(None, LimiterState(held_for_s=30.0), 10.0)
    monitor.update(None, None, 15.0)  # it is busy
    assert [monitor.progress(now).held_for_s for now in (15.0, 39.0, 50.0)] == [25.0, 1.0, 0.0]
    monitor.update(None, LimiterState(), 20.0)
    assert monitor.progress(20.0).held_for_s == 0.0


def test_a_cost_that_nobody_knows_is_not_shown_as_none() -> None:
    monitor = Monitor(NO_WORK, now=0.0)
    monitor.update(None, asked(outcomes=Counter({"answered": 3}), num_unpriced=3), 1.0)
    progress = monitor.progress(1.0)
    assert progress.cost_usd is None
    assert "cost_usd" not in progress.fields()


def test_the_figures_for_logs_are_flat() -> None:
    monitor = Monitor(NO_WORK, now=0.0)
    monitor.update(NOTHING_STORED, LimiterState(limits=Limits(requests=60.0)), 1.0)
    flat = monitor.progress(1.0).fields()
    assert flat["limit_requests_per_minute"] == 60.0
    assert all(isinstance(value, (int, float, str, bool)) for value in flat.values())
