"""The stages of a job add up to its seconds, from the start of the interpreter on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from evalgen.timings import Timings


class Clock:
    """In the place of the one by which timings go; it stands still but for who moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("evalgen.timings.time", SimpleNamespace(perf_counter=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_stages_and_what_passed_between_them_add_up_to_the_total(clock: Clock) -> None:
    timings = Timings()
    with timings.stage("plan"):
        clock.now += 2.0
    clock.now += 3.0
    for _ in range(2):
        with timings.stage("sample"):
            clock.now += 0.5
    timings.add("sample_all_replicas", 1000.0)
    seconds = {"plan": 2.0, "sample": 1.0, "sample_all_replicas": 1000.0, "other": 3.0, "total": 6.0}
    assert timings.whole() == seconds and list(timings.whole()) == list(seconds)


def test_a_stage_that_fails_is_counted_all_the_same(clock: Clock) -> None:
    timings = Timings()
    with pytest.raises(KeyboardInterrupt), timings.stage("plan"):
        clock.now += 2.0
        raise KeyboardInterrupt
    assert timings.whole()["plan"] == 2.0


def test_stages_that_overlap_are_a_mistake_of_ours(clock: Clock) -> None:
    timings = Timings()
    with timings.stage("outer"), timings.stage("inner"):
        clock.now += 2.0
    with pytest.raises(AssertionError, match="stages overlap"):
        timings.whole()


def test_timings_of_a_process_begin_with_its_interpreter() -> None:
    code = """
import time
time.sleep(0.3)
import json
from evalgen.timings import Timings
timings = Timings.of_process()
time.sleep(0.1)
print(json.dumps(timings.whole()))
"""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    elapsed = time.perf_counter() - begun
    whole = json.loads(done.stdout)
    tick = 0.02  # to which Linux knows when a process began
    assert 0.3 - tick <= whole["start_python"] <= elapsed - 0.1 + tick
    assert 0.4 - tick <= whole["total"] <= elapsed + tick
    assert whole["start_python"] + whole["other"] == pytest.approx(whole["total"])
