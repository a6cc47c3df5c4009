"""Figures of agreement hold against published values, and the properties that the words promise."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalgen.grading.calibration import (
    Calibration,
    Confusion,
    Estimate,
    JudgedItem,
    calibration_record,
    cohens_kappa,
    wilson,
)
from evalgen.grading.calibration_tables import calibration_lines
from evalgen.grading.labelled_items import LabelledItem
from evalgen.records import GraderSpec, Verdict, VerdictKind

GRADER = GraderSpec(model="offline/date", instructions="as you like it")
NOW = datetime(2026, 11, 23, tzinfo=UTC)
counts = st.integers(0, 60)
tables = st.tuples(st.tuples(counts, counts), st.tuples(counts, counts))


def judged(equivalent: bool, kind: VerdictKind, line: int = 1, completion: str = " c", says: str = "") -> JudgedItem:
    item = LabelledItem(
        prompt="p", reference=" r", completion=completion, equivalent=equivalent, case=f"case_{line % 3}", line=line
    )
    return JudgedItem(item=item, verdict=Verdict(kind=kind, reasoning=says, error="no" if kind == "ungraded" else None))


judged_items = st.lists(
    st.builds(judged, st.booleans(), st.sampled_from(["equivalent", "not_equivalent", "ungraded"]), st.integers(1, 9))
)


def record(*items: JudgedItem) -> dict[str, object]:
    calibration = Calibration(judged=items)
    return calibration_record(calibration, GRADER, labelled_file="f.jsonl", labelled_file_sha256="0", at=NOW)


def rounded(estimate: Estimate, digits: int) -> tuple[float | None, ...]:
    return tuple(None if it is None else round(it, digits) for it in (estimate.value, estimate.low, estimate.high))


@pytest.mark.parametrize(
    ("num_successes", "num_trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_that_of_newcombe(num_successes: int, num_trials: int, low: float, high: float) -> None:
    """R. G. Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3."""
    assert rounded(wilson(num_successes, num_trials), 4) == (round(num_successes / num_trials, 4), low, high)


def test_kappa_and_its_interval_are_those_that_sas_prints() -> None:
    """The printout that statsmodels compares itself with: stats/tests/test_inter_rater.py, UnweightedCohens."""
    assert rounded(cohens_kappa([[0, 4, 1], [0, 8, 0], [0, 1, 5]]), 4) == (0.4842, 0.2137, 0.7547)


def test_kappa_of_two_readers_of_fifty_proposals_is_two_fifths() -> None:
    """Wikipedia, "Cohen's kappa", simple example: 70% agreement, of which chance gives 50%."""
    assert cohens_kappa([[20, 5], [10, 15]]).value == pytest.approx(0.4, abs=1e-15)


@given(table=tables)
def test_the_interval_of_kappa_is_what_the_delta_method_gives_by_numbers(table: Sequence[Sequence[int]]) -> None:
    cells = [count + 5 for row in table for count in row]  # away from the edge, where derivatives are steep
    total = sum(cells)
    shares = [count / total for count in cells]

    def kappa(p: Sequence[float]) -> float:
        size = sum(p)
        a, b, c, d = (share / size for share in p)
        by_chance = (a + b) * (a + c) + (c + d) * (b + d)
        return (a + d - by_chance) / (1 - by_chance)

    slopes = [_slope(kappa, shares, i) for i in range(4)]
    mean = sum(share * slope for share, slope in zip(shares, slopes, strict=True))
    variance = sum(share * (slope - mean) ** 2 for share, slope in zip(shares, slopes, strict=True)) / total
    found = cohens_kappa([cells[:2], cells[2:]])
    half = 1.959963984540054 * math.sqrt(variance)
    assert found.value == pytest.approx(kappa(shares), abs=1e-9)
    assert found.low == pytest.approx(max(-1.0, kappa(shares) - half), abs=1e-5)
    assert found.high == pytest.approx(min(1.0, kappa(shares) + half), abs=1e-5)


def _slope(function: Callable[[Sequence[float]], float], at: Sequence[float], i: int, step: float = 1e-6) -> float:
    above = [value + step * (i == j) for j, value in enumerate(at)]
    below = [value - step * (i == j) for j, value in enumerate(at)]
    return (function(above) - function(below)) / (2 * step)


@given(table=tables)
def test_kappa_and_its_bounds_lie_between_minus_one_and_one_and_in_order(table: Sequence[Sequence[int]]) -> None:
    kappa = cohens_kappa(table)
    if kappa.value is None:
        assert kappa == Estimate() and sum(1 for row in table for count in row if count) <= 1
    elif kappa.low is None or kappa.high is None:
        assert kappa.low is kappa.high is None and -1 <= kappa.value <= 1
    else:
        assert -1 <= kappa.low <= kappa.value <= kappa.high <= 1
    assert not any(value is not None and math.isnan(value) for value in (kappa.value, kappa.low, kappa.high))


@given(table=tables)
def test_kappa_does_not_depend_on_which_rater_or_which_name_comes_first(table: Sequence[Sequence[int]]) -> None:
    (a, b), (c, d) = table
    assert cohens_kappa([[a, c], [b, d]]) == cohens_kappa(table) == cohens_kappa([[d, c], [b, a]])


@given(both=st.integers(1, 1000), neither=st.integers(1, 1000))
def test_perfect_agreement_has_a_kappa_of_exactly_one_and_no_interval_of_no_width(both: int, neither: int) -> None:
    assert cohens_kappa([[both, 0], [0, neither]]) == Estimate(value=1.0)


@given(num_trials=st.integers(1, 2000), data=st.data())
def test_wilsons_interval_contains_the_share_and_has_width(num_trials: int, data: st.DataObject) -> None:
    share = wilson(data.draw(st.integers(0, num_trials)), num_trials)
    assert share.value is not None and share.low is not None and share.high is not None
    assert 0 <= share.low <= share.value <= share.high <= 1 and share.low < share.high


def test_a_figure_that_nothing_defines_is_none_and_never_zero() -> None:
    none = Confusion(
        num_true_positives=0, num_false_positives=0, num_false_negatives=0, num_true_negatives=0, num_ungraded=0
    )
    assert none.precision == none.recall == none.kappa == Estimate()
    assert none.coverage is None and none.accuracy is None
    never_equivalent = Calibration(judged=(judged(True, "not_equivalent"), judged(False, "not_equivalent"))).confusion
    assert never_equivalent.precision == Estimate()
    assert never_equivalent.recall.value == 0
    assert Calibration(judged=(judged(True, "equivalent"),)).confusion.kappa == Estimate()


def test_an_ungraded_item_is_in_no_figure_but_the_coverage() -> None:
    graded = [judged(True, "equivalent"), judged(True, "not_equivalent"), judged(False, "not_equivalent")]
    without = Calibration(judged=tuple(graded)).confusion
    confusion = Calibration(judged=(*graded, judged(True, "ungraded"), judged(False, "ungraded"))).confusion
    for figure in ("precision", "recall", "kappa", "accuracy", "num_graded"):
        assert getattr(confusion, figure) == getattr(without, figure)
    assert (without.coverage, confusion.coverage) == (1.0, 0.6)
    assert (confusion.num_items, confusion.num_ungraded) == (5, 2)


@given(items=judged_items, seed=st.integers(0, 9))
def test_no_figure_depends_on_the_order_of_the_items(items: list[JudgedItem], seed: int) -> None:
    shuffled = random.Random(seed).sample(items, len(items))
    mistakes = ("false_positives", "false_negatives", "ungraded")
    first, second = record(*items), record(*shuffled)
    assert {k: v for k, v in first.items() if k not in mistakes} == {
        k: v for k, v in second.items() if k not in mistakes
    }


@given(items=judged_items)
def test_the_counts_add_up_over_cases_and_mistakes_and_the_record_is_plain_json(items: list[JudgedItem]) -> None:
    confusion = Calibration(judged=tuple(items)).confusion
    cases = Calibration(judged=tuple(items)).by_case.values()
    assert sum(case.num_items for case in cases) == confusion.num_items == len(items)
    assert sum(case.num_agreed for case in cases) == confusion.num_agreed
    content = json.loads(json.dumps(record(*items), allow_nan=False))
    num_mistakes = [len(content[name]) for name in ("false_positives", "false_negatives", "ungraded")]
    assert sum(num_mistakes) + confusion.num_agreed == len(items)


def test_what_a_terminal_would_obey_is_shown_as_its_escape() -> None:
    nasty = "\x1b[2J\x1b]0;owned\x07 \u202eneddih [bold red]x[/] \u200b\r\n\x9b31m \ud800" + "y" * 10_000
    mistakes = (
        judged(False, "equivalent", 1, completion=nasty, says=nasty),
        judged(True, "not_equivalent", 2, completion=nasty),
        judged(True, "ungraded", 3, completion=nasty),
    )
    lines = calibration_lines(Calibration(judged=mistakes), "title")
    assert all(line.isprintable() and len(line) < 1000 for line in lines)
    text = "\n".join(lines)
    assert r"\x1b[2J" in text and r"\u202e" in text and "[bold red]x[/]" in text
    for heading in ("False positives", "False negatives", "Ungraded"):
        assert f"{heading}:" in text
