"""The live view on terminals of several kinds, and the lines that stand in its place elsewhere."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from evalgen.grading.batch_progress import BatchProgress, BatchTotals
from evalgen.grading.request_totals import RequestTotals
from evalgen.live_view import (
    LINE_EVERY_S,
    SAME_BATCHES_EVERY_S,
    SAME_LINE_EVERY_S,
    LiveView,
    batch_panel,
    count_text,
    duration_text,
    line_parts,
    panel,
)
from evalgen.progress import Progress
from evalgen.records import Limits

REPOSITORY = Path(__file__).parents[2]
PROGRESS = Progress(
    elapsed_s=83.4,
    start_s=9.4,
    num_parts=40,
    num_sampled=24,
    num_failed=0,
    num_retried=0,
    num_draws=24_000,
    num_distinct=2_345,
    num_questions=2_345,
    num_answered=1_234,
    equivalent_share=0.432,
    num_ungraded=3,
    num_cached=0,
    num_asked_again=0,
    num_requests=1_300,
    num_in_flight=48,
    num_throttled=0,
    requests_per_minute=1_180.2,
    input_tokens_per_minute=312_000.0,
    output_tokens_per_minute=52_000.0,
    limits=Limits(requests=1_200.0, input_tokens=400_000.0, output_tokens=80_000.0),
    cost_usd=0.41,
    cap_usd=5.0,
    is_judge_away=False,
    held_for_s=0.0,
    eta_s=184.0,
)
LARGE = replace(
    PROGRESS,
    num_parts=100_000,
    num_sampled=12_345,
    num_failed=1_234,
    num_draws=400_000_000,
    num_distinct=98_765_432,
    num_questions=98_765_432,
    num_answered=12_345_678,
    num_ungraded=12_345,
    num_cached=1_234_567,
    requests_per_minute=40_000.0,
    limits=Limits(requests=50_000.0, input_tokens=400_000_000.0, output_tokens=80_000_000.0),
    cost_usd=123_456.78,
    cap_usd=1_000_000.0,
    eta_s=200_000.0,
)
OFFLINE = replace(
    PROGRESS,
    num_requests=0,
    requests_per_minute=None,
    input_tokens_per_minute=None,
    output_tokens_per_minute=None,
    limits=Limits(),
    cap_usd=None,
    cost_usd=0.0,
)


JUDGE = "anthropic-batch/claude-haiku-4-5-20251001"
BATCHES = BatchProgress(
    num_batches=4,
    num_ended=1,
    num_processing=700,
    oldest_age_s=4_000,
    num_waiting=702,
    num_known=50,
    is_held_back=False,
    totals=BatchTotals(
        answered=Counter({(JUDGE, "equivalent"): 99, (JUDGE, "not_equivalent"): 200, (JUDGE, "ungraded"): 3}),
        cached=Counter({JUDGE: 6}),
        asked_again=Counter({JUDGE: 2}),
        requests_of={JUDGE: RequestTotals(outcomes=Counter({"answered": 298, "failed": 2}), cost_usd=0.125)},
    ),
)


def drawn(progress: Progress, width: int = 80) -> list[str]:
    return drawn_panel(panel(progress), width)


def drawn_panel(drawing: RenderableType, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, record=True)
    console.print(drawing)
    return console.export_text().splitlines()


@pytest.mark.parametrize("progress", [PROGRESS, LARGE, OFFLINE], ids=["usual", "large", "offline"])
@pytest.mark.parametrize("width", [80, 100, 200])
def test_80_columns_suffice_and_more_are_used(progress: Progress, width: int) -> None:
    lines = drawn(progress, width)
    assert len(lines) <= 7
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert len(lines[0].rstrip()) > width - 20


def test_a_narrow_terminal_gets_cut_lines_and_no_more_of_them() -> None:
    assert len(drawn(PROGRESS, 40)) == len(drawn(PROGRESS, 80))
    assert max(map(len, drawn(PROGRESS, 40))) <= 40


def test_every_figure_is_in_the_view_and_in_the_line() -> None:
    for text in ("\n".join(drawn(PROGRESS)), "; ".join(line_parts(PROGRESS))):
        for figure in (
            "24 of 40 parts",
            "24,000 draws",
            "2,345 distinct",
            "1,234 of 2,345",
            "43.2% equivalent",
            "3 ungraded",
            "1,180 of 1,200 requests a minute",
            "48 in flight",
            "312,000 of 400,000 in",
            "52,000 of 80,000 out",
            "$0.41 of $5.00",
        ):
            assert figure in text, (figure, text)


def test_what_is_not_known_is_a_dash_and_what_costs_nothing_is_not_mentioned() -> None:
    unknown = replace(PROGRESS, equivalent_share=None, requests_per_minute=None, eta_s=None, cost_usd=None)
    text = "\n".join(drawn(unknown))
    assert "- of 1,200 requests" in text and "- equivalent" in text and "- left" in text and "cost unknown" in text
    assert "$" not in "".join(drawn(OFFLINE)) and "requests" not in "".join(drawn(OFFLINE))


def test_trouble_is_named() -> None:
    trouble = replace(PROGRESS, num_failed=2, num_retried=5, num_throttled=7, num_asked_again=4, is_judge_away=True)
    for text in ("\n".join(drawn(trouble)), "; ".join(line_parts(trouble))):
        assert "2 failed" in text and "5 again" in text and "4 asked again" in text and "server fails" in text


def test_a_pause_that_the_judge_asked_for_is_told_with_its_length() -> None:
    held = replace(PROGRESS, held_for_s=41.2, requests_per_minute=0.0, num_in_flight=0)
    console, file = plain_console(force_terminal=False)
    with LiveView(console=console) as view:
        view.show(held)
    for text in ("\n".join(drawn(held)), file.getvalue()):
        assert "the judge asked for a pause: 42 s more" in text
    away = replace(held, is_judge_away=True, held_for_s=1_000.0)
    assert "server fails" in "\n".join(drawn(away)) and len(drawn(away)) == len(drawn(PROGRESS))
    assert "pause" not in "\n".join((*drawn(PROGRESS), *line_parts(PROGRESS)))


def test_a_pause_of_minutes_makes_no_more_lines_than_any_other_wait() -> None:
    console, file = plain_console(force_terminal=False)
    clock, pause_s = FakeTime(), 600
    with LiveView(console=console, clock=clock) as view:
        for second in range(pause_s):
            clock.now = second
            view.show(replace(PROGRESS, elapsed_s=second, held_for_s=pause_s - second))
    lines = file.getvalue().splitlines()
    assert len(lines) == pause_s / SAME_LINE_EVERY_S
    assert "a pause: 10 min more" in lines[0] and "a pause: 30 s more" in lines[-1]


class FakeTime:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain_console(**settings: object) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=80, **settings), file  # type: ignore[arg-type]


def test_without_a_terminal_a_line_comes_every_few_seconds_if_anything_changed_and_at_the_end() -> None:
    console, file = plain_console(force_terminal=False)
    clock = FakeTime()
    with LiveView(console=console, clock=clock) as view:
        for second in range(50):
            clock.now = second
            # From 30 s on nothing changes but the time.
            view.show(replace(PROGRESS, num_answered=min(second, 30), elapsed_s=second))
        view.show(replace(PROGRESS, num_answered=2_345, elapsed_s=50))
    lines = file.getvalue().splitlines()
    assert len(lines) == 30 / LINE_EVERY_S + 2
    assert "graded 0 of 2,345" in lines[0] and "graded 2,345 of 2,345" in lines[-1]
    assert "\x1b" not in file.getvalue()


def test_while_a_unit_takes_minutes_lines_say_that_the_job_lives(caplog: pytest.LogCaptureFixture) -> None:
    console, file = plain_console(force_terminal=False)
    clock = FakeTime()
    unit_s = 9 * 60
    with caplog.at_level(logging.INFO, "evalgen.live_view"), LiveView(console=console, clock=clock) as view:
        for second in range(unit_s):
            clock.now = second
            view.show(replace(PROGRESS, elapsed_s=second))
    lines = file.getvalue().splitlines()
    assert len(lines) == len(caplog.records) == unit_s / SAME_LINE_EVERY_S
    assert "; 0 s so far" in lines[0] and "; 8 min 30 s so far" in lines[-1]


def test_quiet_says_nothing_and_logs_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    for is_terminal in (True, False):
        console, file = plain_console(force_terminal=is_terminal)
        caplog.clear()
        with caplog.at_level(logging.INFO, "evalgen.live_view"), LiveView(quiet=True, console=console) as view:
            view.show(PROGRESS)
        assert file.getvalue() == ""
        (record,) = caplog.records
        assert record.__dict__["fields"]["num_sampled"] == 24


def test_a_dumb_terminal_gets_lines_and_no_control_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console, file = plain_console(force_terminal=True)
    with LiveView(console=console) as view:
        view.show(PROGRESS)
    assert file.getvalue().startswith("sampled 24 of 40 parts") and "\x1b" not in file.getvalue()


def test_the_view_is_drawn_when_it_is_told_something_and_never_else() -> None:
    console, file = plain_console(force_terminal=True, _environ={"TERM": "xterm-256color"})
    with LiveView(console=console) as view:
        view.show(PROGRESS)
        drawn_once = file.tell()
        view.show(PROGRESS)
        drawn_twice = file.tell()
    assert file.getvalue().count("24 of 40 parts") == 3, "the last state stays on the screen"
    assert 0 < drawn_once < drawn_twice


BATCH_FIGURES = (
    "1 of 4",
    "352 of 1,054",
    "33.1% equivalent, 3 ungraded, 6 from earlier jobs, 2 asked again",
    "300 requests have ended, 2 failed, $0.12",
    "sent 1 h 6 min ago",
)


def test_of_batches_every_figure_is_in_the_view_and_in_the_line() -> None:
    console, file = plain_console(force_terminal=False)
    with LiveView(console=console) as view:
        view.show_batches(BATCHES)
    (line,) = file.getvalue().splitlines()
    lines = drawn_panel(batch_panel(BATCHES))
    assert len(lines) <= 7 and max(map(len, lines)) <= 80 and "…" not in "".join(lines)
    for text in (line, "\n".join(lines)):
        for figure in BATCH_FIGURES:
            assert figure in text, (figure, text)


def test_while_batches_are_waited_for_a_line_now_and_then_says_for_how_long(caplog: pytest.LogCaptureFixture) -> None:
    console, file = plain_console(force_terminal=False)
    clock = FakeTime()
    hours = 2
    with caplog.at_level(logging.INFO, "evalgen.live_view"), LiveView(console=console, clock=clock) as view:
        for second in range(0, hours * 3_600, 30):
            clock.now = second
            view.show_batches(replace(BATCHES, oldest_age_s=second))
    lines = file.getvalue().splitlines()
    assert len(lines) == len(caplog.records) == hours * 3_600 / SAME_BATCHES_EVERY_S
    assert "sent 0 s ago" in lines[0] and "sent 1 h 50 min ago" in lines[-1]
    assert caplog.records[-1].__dict__["fields"]["num_answered"] == 352


def test_of_batches_what_is_not_known_is_not_made_up_and_what_waits_is_named() -> None:
    unpriced = BatchTotals(requests_of={JUDGE: RequestTotals(num_unpriced=1)})
    just_sent = replace(BATCHES, num_ended=0, num_known=0, totals=unpriced, is_held_back=True)
    text = "\n".join(drawn_panel(batch_panel(just_sent)))
    assert "0 of 702" in text and "- equivalent" in text and "cost unknown" in text and "more are sent" in text
    all_ended = replace(BATCHES, num_ended=4, num_waiting=0, oldest_age_s=None)
    assert "ago" not in "\n".join(drawn_panel(batch_panel(all_ended)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.6, "1 min 0 s"),
        (599, "9 min 59 s"),
        (3_599, "59 min"),
        (7_260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_are_as_fine_as_anybody_wants_to_know(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999_999, "999,999"), (1_234_567, "1.23M"), (2 * 10**9, "2.00B")]
)
def test_large_counts_are_short(number: int, text: str) -> None:
    assert count_text(number) == text


def test_a_file_gets_lines_and_no_control_codes_though_colours_are_forced() -> None:
    code = (
        "from tests.unit.test_live_view import PROGRESS; from evalgen.live_view import LiveView\n"
        "with LiveView() as view: view.show(PROGRESS)"
    )
    forced = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=forced, capture_output=True, text=True)
    assert done.stderr.startswith("sampled 24 of 40 parts") and "\x1b" not in done.stderr


def test_a_reader_that_goes_away_ends_neither_the_job_nor_what_else_it_prints() -> None:
    code = (
        "from tests.unit.test_live_view import PROGRESS; from evalgen.live_view import LiveView\n"
        "with LiveView() as view: view.show(PROGRESS); view.show(PROGRESS)\n"
        "print('the table')"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=writer, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, "the table\n")
