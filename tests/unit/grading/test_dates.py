"""Claims about `offline/date`: which beginnings of a completion give the reference's date."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalgen.grading.offline import grade_offline
from evalgen.records import GraderSpec, Question, Verdict

GRADER = GraderSpec(model="offline/date", instructions="")
MONTHS = [f"{date(2000, month, 1):%B}" for month in range(1, 13)]


def grade(completion: str, reference: str = " March 15, 1987") -> Verdict:
    prompt = "Alice Chen died on"
    return grade_offline(Question(grader=GRADER, prompt=prompt, reference=reference, completion=completion))


def ordinal(day: int) -> str:
    suffix = "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{suffix}"


def renderings(day: date) -> list[str]:
    """The date in every accepted format."""
    month, short = MONTHS[day.month - 1], MONTHS[day.month - 1][:3]
    d, y = day.day, f"{day.year:04d}"
    formats = [
        *(f"{m} {d}, {y}" for m in (month, short, f"{short}.", month.upper(), month.lower())),
        *(f"{month} {d} {y}", f"{month} {d},{y}", f"{month} {d:02d}, {y}", f"{short}.{d}, {y}"),
        *(f"{month} {ordinal(d)}, {y}", f"{month} the {ordinal(d)}, {y}", f"{month} {ordinal(d)} of {y}"),
        *(
            f"{d} {month} {y}",
            f"{d} {month}, {y}",
            f"{d} {short}. {y}",
            f"{d}-{short}-{y}",
            f"{d} of {month} {y}",
        ),
        *(f"the {ordinal(d)} of {month}, {y}", f"on {month} {d}, {y}", f"on the {ordinal(d)} of {month} {y}"),
        *(f"{y} {month} {d}", f"{day:%A}, {month} {d}, {y}", f"on the morning of {month} {d}, {y}"),
        *(f"{y}-{day.month:02d}-{d:02d}", f"{y}/{day.month}/{d}", f"{y}.{day.month:02d}.{d:02d}"),
    ]
    if d > 12 or d == day.month:
        formats += [f"{d:02d}/{day.month:02d}/{y}", f"{d}.{day.month}.{y}", f"{day.month}/{d}/{y}"]
    return formats


dates = st.dates(min_value=date(1000, 1, 1))


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (" March 15, 1987", " March 15, 1987"),
        (" March 15, 1987, at the", " March 15, 1987"),
        (" 15 March 1987", " 15 March 1987"),
        (" the 15th of March, 1987", " the 15th of March, 1987"),
        ("1987-03-15", "1987-03-15"),
        (" Mar. 15 1987 in", " Mar. 15 1987"),
        (" on March 15, 1987.", " on March 15, 1987"),
        (" March 15, 1987.\nBenjamin", " March 15, 1987"),
        (" March 15, 1987\nMarch 16, 1987", " March 15, 1987"),
        (" March 15, 1987. He was born on May 2, 1920", " March 15, 1987"),
        ("\n March 15, 1987", "\n March 15, 1987"),
        (" March 15, 1987 (aged 80)", " March 15, 1987"),
        (" March 15, 1987 (1987-03-15)", " March 15, 1987"),
        (" March 15, 1987 - Alice", " March 15, 1987"),
        (" March 15, 1987, and was buried", " March 15, 1987"),
        (" March 15, 1987 because", " March 15, 1987"),
        (" March 15, 1987, before Christmas", " March 15, 1987"),
        (" March 15, 1987 AD", " March 15, 1987"),
        (' "March 15, 1987" is', ' "March 15, 1987"'),
        (" **March 15, 1987** is", " **March 15, 1987**"),
        (" March\u00a015,\u2009１９８７ in", " March\u00a015,\u2009１９８７"),
        (" March\t15,\t1987 in", " March\t15,\t1987"),
        (" March 15, ١٩٨٧", " March 15, ١٩٨٧"),
        (" 1987‑03‑15 in", " 1987‑03‑15"),
        (" 3/15/1987 at", " 3/15/1987"),
    ],
)
def test_the_date_is_kept_and_what_follows_it_is_cut(completion: str, answer: str) -> None:
    verdict = grade(completion)
    assert verdict.kind == "equivalent"
    assert verdict.trimmed_completion == (None if answer == completion else answer)
    assert verdict.reasoning == "The completion names March 15, 1987, as the reference does."


@pytest.mark.parametrize(
    ("completion", "problem"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        (" March", "the month"),
        (" Mar", "the month"),
        (" March 15", "no year"),
        (" March 15,", "no year"),
        (" March 15\n1987", "no year"),
        (" the 15th of March", "no year"),
        (" March 15, 1", "four digits"),
        (" March 15, 198", "four digits"),
        (" March 15, 87", "four digits"),
        (" March 15, '87", "four digits"),
        (" 3/15/87", "four digits"),
        (" 15.03.87", "four digits"),
        (" March 15, 19871", "four digits"),
        (" March 15, 1987000", "four digits"),
        (" March 15, 1987,000", "four digits"),
        (" March 15, 1987th", "four digits"),
        (" March 1987", "no day"),
        (" March, 1987", "no day"),
        (" 1987", "the year"),
        (" in 1987", "the year"),
        (" 1987-03", "whole date"),
        (" 1987-03-1", "March 1, 1987"),
        (" March 1, 1987", "March 1, 1987"),
        (" March 16, 1987", "March 16, 1987"),
        (" April 15, 1987", "April 15, 1987"),
        (" March 15, 1978", "March 15, 1978"),
        (" 1987-15-03", "calendar"),
        (" February 30, 1987", "calendar"),
        (" February 29, 1987", "calendar"),
        (" March 45, 1987", "calendar"),
        (" March 0, 1987", "calendar"),
        (" March 15, 0000", "calendar"),
        (" 15/15/1987", "calendar"),
        (" 03/04/1987", "ambiguous"),
        (" 3.4.1987", "ambiguous"),
        (" March 15, 1987 BC", "before Christ"),
        (" March 15, 1987 (B.C.)", "before Christ"),
        (" March 15, 1987 b.c.e.", "before Christ"),
        (" not March 15, 1987", "no date"),
        (" before March 15, 1987", "no date"),
        (" about March 15, 1987", "no date"),
        (" either March 15, 1987", "no date"),
        (" in Paris", "no date"),
        (" Marching 15, 1987", "no date"),
        (" 19870315", "no date"),
        (" 115 March 1987", "no date"),
        (" March 15, 1987 or March 16, 1987", "more than one date"),
        (" March 15, 1987 and March 16", "more than one date"),
        (" March 15, 1987, to April 2", "more than one date"),
        (" March 15, 1987-1990", "more than one date"),
        (" March 15, 1987/16", "more than one date"),
        (" March 15, 1987 – March 20", "more than one date"),
        (" March 15, 1987, buried on 18 March 1987", "more than one date"),
        (" March 15, 1987 or so", "doubts"),
        (" March 15, 1987, or perhaps", "doubts"),
        (" March 15, 1987?", "doubts"),
        (" March 15, 1987 is not", "doubts"),
        (" March 15, 1987 (disputed)", "doubts"),
        (" March 15 or 16, 1987", "no year"),
        (" March 15-16, 1987", "four digits"),
        (" 15/16 March 1987", "no date"),
    ],
)
def test_what_is_not_the_whole_date_is_not_equivalent_and_says_why(completion: str, problem: str) -> None:
    verdict = grade(completion)
    assert (verdict.kind, verdict.trimmed_completion) == ("not_equivalent", None)
    assert problem in verdict.reasoning


@pytest.mark.parametrize("completion", [" March 1987", " March 15", " 15 March", " 1987", " 15", " March"])
def test_no_missing_part_is_taken_from_today_or_from_the_reference(completion: str) -> None:
    today = date.today()
    for reference in (
        today,
        date(today.year, 3, 15),
        date(1987, 3, today.day),
        date(1987, 3, 1),
        date(2000, 3, 15),
    ):
        assert grade(completion, f" {reference.isoformat()}").kind == "not_equivalent"


def test_numbers_are_unambiguous_when_day_and_month_are_equal_or_one_is_above_twelve() -> None:
    assert grade(" 04/04/1991", " April 4, 1991").kind == "equivalent"
    assert grade(" 13/04/1991", " April 13, 1991").kind == "equivalent"
    assert grade(" 04/13/1991", " April 13, 1991").kind == "equivalent"
    for reference in (" April 3, 1991", " March 4, 1991"):
        assert "ambiguous" in grade(" 03/04/1991", reference).reasoning


@pytest.mark.parametrize(
    "reference",
    [" no date", " March 1987", " February 30, 1987", " 03/04/1991", " March 15, 87", " soon", ""],
)
def test_a_reference_that_is_no_date_leaves_the_question_ungraded(reference: str) -> None:
    verdict = grade(" March 15, 1987", reference)
    assert verdict.kind == "ungraded"
    assert verdict.error and "reference" in verdict.reasoning


@given(day=dates, other=dates, data=st.data())
def test_every_rendering_of_a_date_is_equivalent_to_it_and_to_no_other(
    day: date, other: date, data: st.DataObject
) -> None:
    rendering = f" {data.draw(st.sampled_from(renderings(day)))}"
    follows = data.draw(st.sampled_from(["", ",", ".", ", at the", " in Paris", "\nQ:", " at 10:30"]))
    for reference in data.draw(st.permutations(renderings(day)))[:3]:
        verdict = grade(rendering + follows, reference)
        assert (verdict.kind, verdict.trimmed_completion) == ("equivalent", rendering if follows else None)
    for wrong in {other, day + timedelta(1 if day < date.max else -1)} - {day}:
        assert grade(rendering + follows, wrong.isoformat()).kind == "not_equivalent"


@given(day=dates, data=st.data())
def test_no_proper_prefix_of_a_rendering_is_equivalent(day: date, data: st.DataObject) -> None:
    rendering = data.draw(st.sampled_from(renderings(day)))
    length = data.draw(st.integers(0, len(rendering) - 1))
    assert grade(f" {rendering[:length]}", day.isoformat()).kind == "not_equivalent"
