"""Prints a report: seconds of every engine in every regime, then what else was measured, then the warnings."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tests.benchmarks.engines import ENGINES
from tests.benchmarks.outcomes import Outcome, Report, disagreement, times_slower
from tests.benchmarks.regimes import Regime

REFERENCE = "tree"
BUSY_CORES = 0.25
WIDTH = 170  # where the output is not a terminal


def print_report(report: Report, console: Console) -> None:
    by_regime: dict[Regime, dict[str, Outcome]] = {}
    for outcome in report.outcomes:
        by_regime.setdefault(outcome.regime, {})[outcome.engine] = outcome
    console.print(f"{report.machine}", highlight=False)
    for engine, versions in report.versions.items():
        console.print(f"{engine}: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    for checkpoint in dict.fromkeys(regime.checkpoint for regime in by_regime):
        regimes = [regime for regime in by_regime if regime.checkpoint == checkpoint]
        console.print(_seconds_table({regime: by_regime[regime] for regime in regimes}))
        console.print(_details_table({regime: by_regime[regime] for regime in regimes}))
    for line in _remarks(by_regime):
        console.print(line, highlight=False, markup=False)


def seconds_text(outcome: Outcome) -> str:
    if outcome.seconds is None:
        return outcome.status
    digits = 3 if outcome.seconds < 1 else 2 if outcome.seconds < 10 else 1
    if outcome.status == "over_time":
        return f"> {outcome.seconds:.0f} s"
    return f"{outcome.seconds:.{digits}f} s"


def _seconds_table(by_regime: dict[Regime, dict[str, Outcome]]) -> Table:
    table = Table(title=f"seconds, and times as long as {REFERENCE}")
    engines = [name for name in ENGINES if any(name in outcomes for outcomes in by_regime.values())]
    table.add_column("regime")
    for engine in engines:
        table.add_column(engine, justify="right")
    for regime, outcomes in by_regime.items():
        reference = outcomes.get(REFERENCE)
        cells = []
        for engine in engines:
            outcome = outcomes.get(engine)
            ratio = "" if outcome is None or engine == REFERENCE else times_slower(outcome, reference)
            cells.append("" if outcome is None else f"{seconds_text(outcome)}\n{ratio}".strip())
        table.add_row(regime.name, *cells)
    return table


def _details_table(by_regime: dict[Regime, dict[str, Outcome]]) -> Table:
    table = Table(
        title="seconds: median of the calls; CPU: seconds of all cores for a call; others: cores that others kept busy;"
        "\nmemory: the most that was resident in the engine's process, weights and libraries included;"
        "\ntokens a prefix: drawn for each evaluation"
    )
    headings = ("calls", "least", "most", "CPU", "others", "memory", "outside forward", "evaluations")
    headings += ("tokens a prefix", "distinct")
    table.add_column("regime")
    table.add_column("engine")
    for heading in headings:
        table.add_column(heading, justify="right")
    for regime, outcomes in by_regime.items():
        done = [outcome for outcome in outcomes.values() if outcome.status == "done"]
        for place, outcome in enumerate(done):
            end_of_regime = place == len(done) - 1
            table.add_row(regime.name if not place else "", *_details(outcome), end_section=end_of_regime)
    return table


def _details(outcome: Outcome) -> tuple[str, ...]:
    measured = outcome.measured
    seconds = measured["all_seconds"]
    peak, outside = measured["peak_bytes"], measured.get("outside_forward_s")
    evaluations = measured.get("model_evaluations")
    return (
        outcome.engine,
        str(len(seconds)),
        f"{min(seconds):.3f} s",
        f"{max(seconds):.3f} s",
        f"{measured['cpu_s']:.3f} s",
        f"{measured['cores_of_others']:.1f}",
        "" if peak is None else f"{peak / 1e6:,.0f} MB",
        "" if outside is None else f"{outside:.3f} s, {outside / seconds[-1]:.0%}",  # both are of the last call
        "" if evaluations is None else f"{evaluations:,}",
        "" if evaluations is None else f"{tokens_drawn(outcome) / evaluations:.1f}",
        f"{measured['num_distinct']:,}",
    )


def tokens_drawn(outcome: Outcome) -> float:
    """Of all draws together, before EOS."""
    regime = outcome.regime
    mean_length: float = outcome.measured["mean_length"]
    return regime.num_prompts * regime.num_draws * mean_length


def _remarks(by_regime: dict[Regime, dict[str, Outcome]]) -> list[str]:
    """Why there is no figure, once for each engine and reason; and the warnings."""
    reasons: dict[tuple[str, str], list[str]] = {}
    warnings = []
    for regime, outcomes in by_regime.items():
        for outcome in outcomes.values():
            if outcome.reason:
                reasons.setdefault((outcome.engine, outcome.reason), []).append(regime.name)
            unlike = disagreement(outcome, outcomes.get(REFERENCE))
            if unlike:
                warnings.append(f"WARNING: {outcome.engine}, {regime.name}: {unlike}")
            if outcome.measured.get("cores_of_others", 0) > BUSY_CORES:
                warnings.append(f"WARNING: {outcome.engine}, {regime.name}: other processes kept the machine busy")
    lines = [
        f"{engine}: {reason} ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"
        for (engine, reason), names in reasons.items()
    ]
    return lines + warnings
