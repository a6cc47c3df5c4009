"""What became of each cell (one engine in one regime), and where it is kept: a JSON file rewritten after every cell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.benchmarks.engines import ENGINES
from tests.benchmarks.regimes import Regime

Status = Literal["done", "over_time", "skipped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One engine in one regime."""

    regime: Regime
    engine: str
    status: Status
    seconds: float | None = None  # done: median of the repeats; over_time: the limit it ran past
    reason: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)  # what `cell_protocol` reports; empty unless done


@dataclass(frozen=True, kw_only=True)
class Report:
    """A run of the benchmark."""

    machine: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]
    versions: Mapping[str, Mapping[str, str]]  # of each engine's libraries

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1))
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> Report:
        fields = json.loads(path.read_text())
        outcomes = []
        for outcome in fields["outcomes"]:
            regime = outcome.pop("regime")
            outcomes.append(Outcome(regime=Regime(**regime | {"engines": tuple(regime["engines"])}), **outcome))
        return cls(machine=fields["machine"], outcomes=tuple(outcomes), versions=fields["versions"])


def times_slower(outcome: Outcome, reference: Outcome | None) -> str:
    """How many times as long as the reference it took: `12x`, `> 12x` for a call that was stopped, or nothing."""
    if reference is None or reference.status != "done" or outcome.seconds is None:
        return ""
    ratio = outcome.seconds / reference.seconds  # type: ignore[operator] - it is done
    number = f"{ratio:,.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x"
    return f"> {number}" if outcome.status == "over_time" else number


def disagreement(outcome: Outcome, reference: Outcome | None) -> str:
    """What of an engine's completions is unlike the reference's, beyond the chance of its draws; "" if nothing.

    A mean over all draws of shares has a standard deviation of at most 0.5 / sqrt(draws); two engines may differ by
    four of their difference's. An engine that enumerates has no draws, and its rarest completions are missing.
    """
    if outcome.status != "done":
        return ""
    regime, measured = outcome.regime, outcome.measured
    draws = ENGINES[outcome.engine].draws
    if draws and any(count != regime.num_draws for count in measured["num_completions"]):
        return f"{measured['num_completions']} completions, not {regime.num_draws} of each prompt"
    if reference is None or reference.status != "done":
        return ""
    tolerance = 4 * 2**0.5 * 0.5 / (regime.num_draws * regime.num_prompts) ** 0.5
    tolerances = {"top_share": tolerance}
    if draws:
        tolerances |= {"top_first_token_share": tolerance, "mean_length": tolerance * regime.max_new_tokens}
    for name, tolerated in tolerances.items():
        ours, theirs = reference.measured[name], measured[name]
        if abs(ours - theirs) > tolerated:
            return f"{name} is {theirs:.3f}, of {reference.engine} {ours:.3f}"
    return ""
