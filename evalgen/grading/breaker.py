"""Keeps all graders of a job off a server that fails, and lets one request at a time find out whether it is well again.

Closed: everything may go. After some failures in a row it opens: nothing goes for a while. Then one request may, the
probe; its answer closes the breaker, its failure opens it for twice as long.
"""

from __future__ import annotations

import logging
import math
import random
from typing import Literal

from evalgen.errors import GraderUnavailable

FAILURES_IN_A_ROW = 5  # with which the breaker opens
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 15.0  # so that a server is found well again soon after it is
LONG_HOLD_S = 90.0  # a limit a minute does not explain it
MANY_QUESTIONS = 3  # that fail, before the server is to blame and not what it is asked

log = logging.getLogger(__name__)


class Breaker:
    """Times are of any one clock, in seconds."""

    def __init__(self, outage_budget_s: float) -> None:
        """`outage_budget_s`: how long the server may answer nobody, or say that it will not, before the job stops."""
        self._outage_budget_s = outage_budget_s
        self._random = random.Random()  # jitter; decides nothing but when
        self._num_failures = 0  # since the last answer
        self._failing_since: float | None = None
        self._failing: set[str] = set()  # topics, as many as are needed to tell
        self._is_down = False  # of the last failure: whatever is asked fails like this
        self._pause_s = 0.0  # 0: closed
        self._open_until = -math.inf
        self._probe: int | None = None
        self._hold_until, self._hold_error = -math.inf, ""
        self._last_error = ""

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        if not self._pause_s:
            return "closed"
        return "open" if self._probe is None else "half-open"

    def held_for_s(self, now: float) -> float:
        """How long the server wants no request, as it has said; 0: it has not, or that is over."""
        return max(0.0, self._hold_until - now)

    def pause_s(self, now: float) -> float:
        """How long until a request may go: 0, now; infinite, when the probe is back.

        Raises:
            GraderUnavailable: the server has answered nobody for too long.
        """
        self._check_outage(now)
        hold_s = self.held_for_s(now)
        if not self._pause_s:
            return hold_s
        return math.inf if self._probe is not None else max(hold_s, self._open_until - now)

    def sent(self, lease: int) -> None:
        """A request goes. While the breaker is not closed it is the probe."""
        if self._pause_s:
            self._probe = lease

    def hold(self, seconds: float, error: str, now: float) -> None:
        """The server wants no request for so long."""
        if seconds >= LONG_HOLD_S and self._hold_until <= now:
            log.warning("the judge's server wants no request for %.0f s (%s)", seconds, error)
        if now + seconds > self._hold_until:
            self._hold_until, self._hold_error = now + seconds, error

    def refused(self, lease: int, topic: str, error: str, now: float) -> None:
        """The server said when to come back. That opens nothing, but is no answer: some day it is an outage."""
        self._note(topic, error, now)
        self.unsent(lease)

    def unsent(self, lease: int) -> None:
        """The request did not go after all, or its process died. Was it the probe, another may be."""
        if lease == self._probe:
            self._probe = None

    def answered(self) -> None:
        """The server works, whatever it thinks of the request."""
        if self._pause_s:
            log.warning("the judge's server answers again")
        self._num_failures, self._failing_since = 0, None
        self._failing.clear()
        self._is_down = False
        self._pause_s, self._probe = 0.0, None

    def failed(self, lease: int, topic: str, error: str, now: float, *, is_down: bool = False) -> None:
        """The server failed a request about `topic`, which tells many failing questions from one.

        With `is_down` one is enough: a question may be the last of its job.
        """
        self._num_failures += 1
        self._is_down = is_down
        self._note(topic, error, now)
        if self._pause_s:
            if lease == self._probe:  # the others were sent before the breaker opened
                self._open(now, min(2 * self._pause_s, LONGEST_PAUSE_S))
        elif self._num_failures >= FAILURES_IN_A_ROW:
            log.warning("%d requests in a row failed (%s): pausing all of them", self._num_failures, error)
            self._open(now, FIRST_PAUSE_S)

    def _note(self, topic: str, error: str, now: float) -> None:
        self._last_error = error
        if self._failing_since is None:
            self._failing_since = now
        if len(self._failing) < MANY_QUESTIONS:
            self._failing.add(topic)

    def _open(self, now: float, pause_s: float) -> None:
        self._pause_s = pause_s
        self._open_until = now + pause_s * self._random.uniform(0.75, 1.25)
        self._probe = None

    def _check_outage(self, now: float) -> None:
        longest_s = max(self._outage_budget_s, LONG_HOLD_S)
        if (hold_s := self._hold_until - now) > longest_s:
            raise self._outage("wants no request", hold_s, self._hold_error)
        if self._failing_since is None or not (self._is_down or len(self._failing) >= MANY_QUESTIONS):
            return
        # The server may have said that it wants none for longer than that, as a limit a minute explains.
        is_told = self._hold_until > self._failing_since + self._outage_budget_s
        if (outage_s := now - self._failing_since) > (longest_s if is_told else self._outage_budget_s):
            raise self._outage("has answered no request", outage_s, self._last_error)

    def _outage(self, what: str, seconds: float, error: str) -> GraderUnavailable:
        budget_s = self._outage_budget_s
        return GraderUnavailable(
            f"the judge's server {what} for {math.ceil(seconds)} s, "
            f"and --max_outage_minutes {budget_s / 60:g} is {budget_s:g} s ({error})"
        )
