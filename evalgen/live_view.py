"""What a person sees of a job in mid-run: a few live lines on a terminal; elsewhere a line every few seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evalgen.grading.batch_progress import BatchProgress
from evalgen.job_log import fields
from evalgen.progress import Progress

LINE_EVERY_S = 5.0
# While nothing but the time is new: a unit of a large model takes minutes, and a batch may take hours.
SAME_LINE_EVERY_S, SAME_BATCHES_EVERY_S = 30.0, 600.0

log = logging.getLogger(__name__)


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read is gone. The job goes on, which rich itself would end."""
        self.quiet = True


class LiveView:
    """Shows the last that it was told. `quiet`: nothing on the terminal; every line it would print is logged anyway."""

    def __init__(
        self,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # With FORCE_COLOR rich takes a file for a terminal.
        self._console = console or _Terminal(stderr=True, force_interactive=None if sys.stderr.isatty() else False)
        self._clock = clock
        is_live = self._console.is_interactive and not quiet  # a dumb terminal gets lines, like a file
        # Drawn when there is something new, and never in between: nothing flickers.
        self._live = Live(console=self._console, auto_refresh=False) if is_live else None
        self._prints_lines = not (quiet or is_live)
        self._last: _Shown | None = None  # that was told
        self._last_line: tuple[str, float] | None = None  # that was printed, without its time; and when

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            self._say(self._last)
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """To be called as often as is convenient, by any thread."""
        self._show(
            _Shown(
                event="progress",
                parts=line_parts(progress),
                time="; ".join(filter(None, (held_text(progress), time_text(progress)))),
                panel=panel(progress),
                figures=progress.fields(),
                same_every_s=SAME_LINE_EVERY_S,
            )
        )

    def show_batches(self, progress: BatchProgress) -> None:
        """The same for Message Batches."""
        self._show(
            _Shown(
                event="batches",
                parts=batch_parts(progress),
                time=batch_time_text(progress),
                panel=batch_panel(progress),
                figures=progress.fields(),
                same_every_s=SAME_BATCHES_EVERY_S,
            )
        )

    def _show(self, shown: _Shown) -> None:
        self._last = shown
        if self._live is not None:
            self._live.update(shown.panel, refresh=True)
        if self._last_line is None or self._clock() - self._last_line[1] >= LINE_EVERY_S:
            self._say(shown)

    def _say(self, shown: _Shown) -> None:
        """Prints and logs a line, if anything but the time is new or that is long ago."""
        text, now = "; ".join(shown.parts), self._clock()
        last_text, last_at = self._last_line or ("", now)
        if text == last_text and now - last_at < shown.same_every_s:
            return
        self._last_line = (text, now)
        log.info("%s", shown.event, extra=fields(**shown.figures))
        if self._prints_lines:
            line = f"{text}; {shown.time}" if shown.time else text
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """One state, in every form."""

    event: str  # in the log
    parts: Sequence[str]  # of a line: all but the time
    time: str
    panel: RenderableType
    figures: Mapping[str, Any]  # of the event
    same_every_s: float  # between lines, while nothing but the time is new


def line_parts(progress: Progress) -> list[str]:
    """All figures but the time."""
    parts = [f"sampled {_sampled(progress)}, {_drawn(progress)}"]
    if progress.num_questions:
        parts.append(f"graded {_graded(progress)}, {_judged(progress)}")
    if progress.num_requests:
        parts += [_requests(progress), _tokens(progress)]
    if cost := _cost(progress):
        parts.append(cost)
    if progress.is_judge_away:
        parts.append(JUDGE_AWAY)
    return parts


def panel(progress: Progress) -> RenderableType:
    """At most seven lines, for 80 columns or more."""
    rows: list[tuple[str, RenderableType]] = [
        ("sampling", _bar_line(progress.num_sampled, progress.num_parts, _sampled(progress))),
        ("", _drawn(progress)),
    ]
    if progress.num_questions:
        rows.append(("grading", _bar_line(progress.num_answered, progress.num_questions, _graded(progress))))
        rows.append(("", _judged(progress)))
    if progress.num_requests:
        rows.append(("judge", _judge(progress)))
        rows.append(("", _tokens(progress)))
    end = [part for part in (_cost(progress), time_text(progress)) if part]
    rows.append(("", "; ".join(end)))
    return _grid(rows)


def batch_parts(progress: BatchProgress) -> list[str]:
    """All figures but the time."""
    parts = [f"{_ended(progress)} batches have ended", f"{_answered_in_batches(progress)} questions are answered"]
    return [*parts, _judged_in_batches(progress), _paid_in_batches(progress)]


def batch_panel(progress: BatchProgress) -> RenderableType:
    """At most six lines."""
    answered = _answered_in_batches(progress)
    num_met = progress.num_answered + progress.num_waiting
    rows: list[tuple[str, RenderableType]] = [
        ("batches", _bar_line(progress.num_ended, progress.num_batches, f"{_ended(progress)} have ended")),
        ("grading", _bar_line(progress.num_answered, num_met, answered)),
        ("", _judged_in_batches(progress)),
        ("", _paid_in_batches(progress)),
    ]
    if waits := batch_time_text(progress):
        rows.append(("", waits))
    return _grid(rows)


def batch_time_text(progress: BatchProgress) -> str:
    if progress.oldest_age_s is None:
        return ""
    return f"oldest open batch sent {duration_text(progress.oldest_age_s)} ago; the API ends it within 24 h"


def _ended(progress: BatchProgress) -> str:
    return f"{progress.num_ended:,} of {progress.num_batches:,}"


def _answered_in_batches(progress: BatchProgress) -> str:
    return f"{count_text(progress.num_answered)} of {count_text(progress.num_answered + progress.num_waiting)}"


def _judged_in_batches(progress: BatchProgress) -> str:
    totals = progress.totals
    share, num_ungraded = progress.equivalent_share, totals.of_kind("ungraded")
    more = "; more are sent as there is room" if progress.is_held_back else ""
    return _verdicts(share, num_ungraded, totals.cached.total(), totals.asked_again.total()) + more


def _paid_in_batches(progress: BatchProgress) -> str:
    requests = progress.totals.requests
    failed = f", {requests.outcomes['failed']:,} failed" if requests.outcomes["failed"] else ""
    cost = "cost unknown" if requests.num_unpriced else f"${requests.cost_usd:,.2f}"
    return f"{requests.outcomes.total():,} requests have ended{failed}, {cost}"


JUDGE_AWAY = "the judge's server fails: all requests wait until it is well"


def _grid(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=8, no_wrap=True)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for label, content in rows:
        grid.add_row(Text(label, style="bold"), Text(content) if isinstance(content, str) else content)
    return grid


def _bar_line(done: int, total: int, figures: str) -> Table:
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True, min_width=26)
    line.add_row(ProgressBar(total=max(1, total), completed=done if total else 1), Text(figures))
    return line


def _sampled(progress: Progress) -> str:
    failed = f", {progress.num_failed:,} failed" if progress.num_failed else ""
    again = f", {progress.num_retried:,} again" if progress.num_retried else ""
    return f"{progress.num_sampled:,} of {progress.num_parts:,} parts{failed}{again}"


def _drawn(progress: Progress) -> str:
    return f"{count_text(progress.num_draws)} draws, {count_text(progress.num_distinct)} distinct completions"


def _graded(progress: Progress) -> str:
    return f"{count_text(progress.num_answered)} of {count_text(progress.num_questions)}"


def _judged(progress: Progress) -> str:
    share = progress.equivalent_share
    return _verdicts(share, progress.num_ungraded, progress.num_cached, progress.num_asked_again)


def _verdicts(equivalent_share: float | None, num_ungraded: int, num_cached: int, num_asked_again: int) -> str:
    equivalent = "-" if equivalent_share is None else f"{equivalent_share:.1%}"
    cached = f", {num_cached:,} from earlier jobs" if num_cached else ""
    again = f", {num_asked_again:,} asked again" if num_asked_again else ""
    return f"{equivalent} equivalent, {num_ungraded:,} ungraded{cached}{again}"


def _requests(progress: Progress) -> str:
    rate = _of_limit(progress.requests_per_minute, progress.limits.requests)
    throttled = f", {progress.num_throttled:,} throttled" if progress.num_throttled else ""
    return f"{rate} requests a minute, {progress.num_in_flight:,} in flight{throttled}"


def _judge(progress: Progress) -> RenderableType:
    if progress.is_judge_away:
        return Text(JUDGE_AWAY, style="bold red")
    held = held_text(progress)
    return Text(held, style="bold yellow") if held else _requests(progress)


def _tokens(progress: Progress) -> str:
    sent = _of_limit(progress.input_tokens_per_minute, progress.limits.input_tokens)
    received = _of_limit(progress.output_tokens_per_minute, progress.limits.output_tokens)
    return f"tokens a minute: {sent} in, {received} out"


def _cost(progress: Progress) -> str:
    """Nothing where nothing is paid for."""
    if not progress.num_requests and progress.cap_usd is None:
        return ""
    spent = "cost unknown" if progress.cost_usd is None else f"${progress.cost_usd:,.2f}"
    return spent if progress.cap_usd is None else f"{spent} of ${progress.cap_usd:,.2f}"


def _of_limit(rate: float | None, limit: float | None) -> str:
    value = "-" if rate is None else count_text(round(rate))
    return value if limit is None else f"{value} of {count_text(round(limit))}"


def held_text(progress: Progress) -> str:
    """Why no request goes, and for how long; nothing where the judge asked for no pause."""
    if not progress.held_for_s:
        return ""
    return f"the judge asked for a pause: {duration_text(ceil(progress.held_for_s))} more"


def time_text(progress: Progress) -> str:
    """How long it has taken, and how long it will."""
    left = "-" if progress.eta_s is None else duration_text(progress.eta_s)
    return f"{duration_text(progress.elapsed_s)} so far, {left} left"


def count_text(number: int) -> str:
    """Seven characters at most, up to a million million."""
    for unit, size in (("B", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:,}"


def duration_text(seconds: float) -> str:
    """Two units at most, no finer than anybody wants to know."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 10:
        return f"{minutes} min {whole % 60} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
