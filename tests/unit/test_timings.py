"""The stages of a job add up to its seconds, from the start of the interpreter on."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from evalgen.timings import Timings


def test_stages_and_what_passed_between_them_add_up_to_the_total() -> None:
    timings = Timings()
    with timings.stage("plan"):
        time.sleep(0.02)
    time.sleep(0.03)
    for _ in range(2):
        with timings.stage("sample"):
            time.sleep(0.01)
    timings.add("sample_all_replicas", 1000.0)
    whole = timings.whole()
    assert list(whole) == ["plan", "sample", "sample_all_replicas", "other", "total"]
    assert whole["plan"] >= 0.02 and whole["sample"] >= 0.02 and whole["other"] >= 0.03
    assert whole["plan"] + whole["sample"] + whole["other"] == pytest.approx(whole["total"])
    assert whole["total"] <= timings.total_s() < 1000


def test_a_stage_that_fails_is_counted_all_the_same() -> None:
    timings = Timings()
    with pytest.raises(KeyboardInterrupt), timings.stage("plan"):
        time.sleep(0.02)
        raise KeyboardInterrupt
    assert timings.whole()["plan"] >= 0.02


def test_stages_that_overlap_are_a_mistake_of_ours() -> None:
    timings = Timings()
    with timings.stage("outer"), timings.stage("inner"):
        time.sleep(0.02)
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
