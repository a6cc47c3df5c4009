"""The labelled sets that ship: what they hold, and that labels keep to the rules by which they were given.

The labels say what a careful reader makes of the instructions in `configs/mayors_grader.json` and
`configs/death_date_grader.json`; they were written before any grader had seen the items, and no grader's verdict
changes one. One annotator gave them, a language model, and no second one has checked them. Where the instructions
are silent:

* A full name with another surname, or another first name, is another person, although "the same first name" could be
  read otherwise. A name that breaks off inside a word is incomplete, even if its first name is whole.
* Capitals, spacing, accents, script, markup and place in the sentence are format. A misspelt name is not the name; a
  misspelt month that can only be one month is that month.
* A correction counts: what stands in the end is the answer. So does "not X but Y".
* A hedge ("probably", "I think") still gives its answer; "about" and "around" give no day.
* What would have to be worked out (a year from an age) is missing.
* Characters that look alike read alike.

Items on which these rules and the instructions do not decide were left out.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from evalgen.demo.facts import DEATH_DATES, MAYORS, Domain
from evalgen.grading.calibration import Calibration, JudgedItem
from evalgen.grading.grader_config import load_grader
from evalgen.grading.labelled_items import LabelledItem, read_labelled_items
from evalgen.grading.offline import grade_offline

CONFIGS = Path(__file__).parents[3] / "configs"
FILES = {name: CONFIGS / "calibration" / f"{name}.jsonl" for name in ("mayors", "death_dates")}
SETS = {name: read_labelled_items(path) for name, path in FILES.items()}
PROMPTS = {"mayors": r"Q: Who is the mayor of (.+)\? A:", "death_dates": r"(.+) died on"}
DOMAINS = {"mayors": MAYORS, "death_dates": DEATH_DATES}
HARD_CASES = {
    "mayors": "surname_shared first_name_only surname_only honorific initials middle_name misspelling negation hedge "
    "several_answers correction run_on next_question truncated empty lookalike injection other_question",
    "death_dates": "numeric_ambiguous numeric_unambiguous two_digit_year ordinal_words other_language misspelling "
    "range negation hedge several_answers correction run_on next_text truncated empty lookalike injection "
    "age_arithmetic other_question",
}
GRADERS = {
    "mayors": load_grader("offline/person_name", str(CONFIGS / "mayors_grader.json")),
    "death_dates": load_grader("offline/date", str(CONFIGS / "death_date_grader.json")),
}

both_sets = pytest.mark.parametrize("name", SETS)


def labels_of_case(name: str, case: str) -> set[bool]:
    return {item.equivalent for item in SETS[name] if item.case == case}


@both_sets
def test_a_set_is_large_and_balanced(name: str) -> None:
    share = sum(item.equivalent for item in SETS[name]) / len(SETS[name])
    assert len(SETS[name]) >= 160 and 0.4 <= share <= 0.6


@both_sets
def test_every_hard_case_is_there_several_times(name: str) -> None:
    counts = Counter(item.case for item in SETS[name])
    assert counts.keys() >= set(HARD_CASES[name].split())
    assert min(counts.values()) >= 4, counts.most_common()[-3:]


@both_sets
def test_prompts_and_references_are_of_the_domain_and_each_prompt_has_one_reference(name: str) -> None:
    references: dict[str, set[str]] = {}
    for item in SETS[name]:
        found = re.fullmatch(PROMPTS[name], item.prompt)
        assert found, item
        assert re.fullmatch(r" \S.*\S", item.reference), item
        references.setdefault(found[1], set()).add(item.reference)
    assert all(len(of_one) == 1 for of_one in references.values())
    domain: Domain = DOMAINS[name]
    known = {fact.subject: {f" {fact.answer}"} for fact in domain.facts}
    assert known.items() <= references.items()
    assert len(references) > len(known)  # invented people, for the cases that the known ones do not have


@both_sets
def test_a_file_shows_whatever_looks_like_something_else(name: str) -> None:
    assert FILES[name].read_bytes().isascii()  # look-alikes and invisible characters are escapes


@both_sets
def test_a_completion_that_is_the_reference_is_equivalent_and_one_without_a_letter_or_digit_is_not(name: str) -> None:
    for item in SETS[name]:
        if item.completion.strip() == item.reference.strip():
            assert item.equivalent, item
        if not any(character.isalnum() for character in item.completion):
            assert not item.equivalent, item


@both_sets
def test_cases_that_the_instructions_settle_have_one_label(name: str) -> None:
    for case in ("empty", "several_answers", "other_question"):
        assert labels_of_case(name, case) == {False}, case
    assert labels_of_case(name, "exact") == {True}
    for case in ("correction", "negation", "injection", "lookalike", "hedge", "run_on", "truncated"):
        assert labels_of_case(name, case) == {True, False}, case  # what comes before or after does not settle it


def test_numeric_dates_are_labelled_as_the_calendar_has_them() -> None:
    num_checked = 0
    for item in SETS["death_dates"]:
        found = re.fullmatch(r" (\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d\d)", item.completion)
        if found is None:
            continue
        num_checked += 1
        first, second, year = int(found[1]), int(found[3]), found[4]
        meant = {(first, second), (second, first)}  # month and day
        reference = datetime.strptime(item.reference, " %B %d, %Y")
        readings = {(month, day) for month, day in meant if month <= 12 and day <= 31}
        assert item.equivalent is (readings == {(reference.month, reference.day)} and year == str(reference.year)), item
    assert num_checked >= 20


def test_a_whole_name_of_somebody_else_in_the_set_is_never_equivalent() -> None:
    names = {item.reference for item in SETS["mayors"]}
    for item in SETS["mayors"]:
        if item.completion in names - {item.reference}:
            assert not item.equivalent, item


@both_sets
def test_the_offline_graders_can_be_trusted_where_they_say_equivalent(name: str) -> None:
    confusion = Calibration(judged=tuple(judged(item, name) for item in SETS[name])).confusion
    precision = confusion.precision.value
    assert confusion.num_ungraded == 0
    assert precision is not None and precision >= 0.95


def judged(item: LabelledItem, name: str) -> JudgedItem:
    return JudgedItem(item=item, verdict=grade_offline(item.question(GRADERS[name])))
