"""Claims that hold for every offline grader: a verdict for any text, and trimming that keeps the meaning."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalgen.errors import ConfigError
from evalgen.grading.offline import OFFLINE_GRADERS, OFFLINE_OPTIONS, grade_offline
from evalgen.records import GraderSpec, Question, Verdict

CONFIGS = Path(__file__).parents[3] / "configs"
REFERENCES = {
    "offline/exact": " 42",
    "offline/person_name": " Grace Miller",
    "offline/date": " March 15, 1987",
}
OPTIONS = {"accept_first_name_alone": True, "accept_surname_alone": True}
# What answers and their surroundings are made of, so that random texts come near to the graders' patterns.
WORDS = "Grace Miller Mayor Ms. the and or not is on Noah Jr. G. March Mar. 15 15th of to 1987 BC １９８７"
MARKS = "٣-/,.?:()\"'’*—² \u00a0\u200b\n\r\t\u2028\x00\u0301\ufffd\ud800"
PIECES = [*WORDS.split(" "), *MARKS, "'s", " ", " "]
near_answers = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
spaced_near_answers = st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join)
texts = st.text() | near_answers | spaced_near_answers
graders = st.sampled_from(OFFLINE_GRADERS)


def grade(grader: str, reference: str, completion: str) -> Verdict:
    spec = GraderSpec(model=grader, instructions="", options=OPTIONS)
    return grade_offline(Question(grader=spec, prompt="", reference=reference, completion=completion))


@given(grader=graders, reference=texts, completion=texts)
def test_any_text_gets_a_free_verdict_with_a_sentence(grader: str, reference: str, completion: str) -> None:
    verdict = grade(grader, reference, completion)
    assert verdict.reasoning.startswith("The ") and verdict.reasoning.endswith(".")
    assert (verdict.error is None) is (verdict.kind != "ungraded")
    assert (verdict.api_calls, verdict.input_tokens, verdict.output_tokens, verdict.cost_usd) == (
        0,
        0,
        0,
        0.0,
    )


@given(grader=graders, reference=texts, completions=st.lists(texts, min_size=2, max_size=2))
def test_whether_a_question_is_graded_depends_on_the_reference_alone(
    grader: str, reference: str, completions: list[str]
) -> None:
    kinds = [grade(grader, reference, completion).kind for completion in completions]
    assert len({kind == "ungraded" for kind in kinds}) == 1


@given(grader=graders, before=near_answers, tail=texts, use_reference=st.booleans())
def test_trimming_keeps_a_proper_prefix_that_is_equivalent_and_not_trimmed_again(
    grader: str, before: str, tail: str, use_reference: bool
) -> None:
    reference = REFERENCES[grader]
    completion = (reference if use_reference else before) + tail
    verdict = grade(grader, reference, completion)
    if verdict.trimmed_completion is None:
        return
    assert verdict.kind == "equivalent"
    assert completion.startswith(verdict.trimmed_completion)
    assert len(verdict.trimmed_completion) < len(completion)
    again = grade(grader, reference, verdict.trimmed_completion)
    assert (again.kind, again.trimmed_completion) == ("equivalent", None)


@given(grader=graders, reference=texts)
def test_a_reference_that_can_be_read_is_equivalent_to_itself(grader: str, reference: str) -> None:
    assert grade(grader, reference, reference).kind in ("equivalent", "ungraded")


@pytest.mark.parametrize(
    ("completion", "kind", "trimmed"),
    [
        (" 42", "equivalent", None),
        ("42", "equivalent", None),
        (" 42 \n", "equivalent", " 42"),
        ("\u00a042", "equivalent", None),
        (" 42.", "not_equivalent", None),
        (" 4", "not_equivalent", None),
        ("", "not_equivalent", None),
    ],
)
def test_exact_ignores_whitespace_around_the_text_and_nothing_else(
    completion: str, kind: str, trimmed: str | None
) -> None:
    verdict = grade("offline/exact", " 42", completion)
    assert (verdict.kind, verdict.trimmed_completion) == (kind, trimmed)


@pytest.mark.parametrize("grader", OFFLINE_GRADERS)
@pytest.mark.parametrize("repeated", [*" 1aA-.,'(\n\u0301１", "Grace ", "March 15, ", "1-", "a'", "the on "])
def test_a_megabyte_is_graded_in_an_instant(grader: str, repeated: str) -> None:
    huge = repeated * (1_000_000 // len(repeated))
    started_s = time.perf_counter()
    for completion in (huge, REFERENCES[grader] + huge, huge + REFERENCES[grader]):
        grade(grader, REFERENCES[grader], completion)
    grade(grader, huge, huge)
    assert time.perf_counter() - started_s < 1.0


@pytest.mark.parametrize("grader", ["offline/person_name", "offline/date"])
@pytest.mark.parametrize(
    "correction",
    [", sorry, no", " — sorry, I mean", ". Correction:", ". Wait, no:", "... wait,", " (correction: ", "! Oops,"],
)
def test_an_answer_that_is_taken_back_is_not_equivalent_in_its_own_sentence_or_the_next(
    grader: str, correction: str
) -> None:
    reference, other = (
        REFERENCES[grader],
        {"offline/person_name": "Noah Clark", "offline/date": "April 1, 1990"}[grader],
    )
    assert grade(grader, reference, f"{reference}{correction} {other}").kind == "not_equivalent"


@pytest.mark.parametrize("grader", ["offline/person_name", "offline/date"])
@pytest.mark.parametrize("tail", [". The council waits", ". Corrections officers", "\nSorry,", ". He means well"])
def test_words_that_only_begin_like_a_correction_take_nothing_back(grader: str, tail: str) -> None:
    assert grade(grader, REFERENCES[grader], REFERENCES[grader] + tail).kind == "equivalent"


def test_an_unknown_grader_is_the_users_mistake_and_names_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"offline/dates.*offline/exact, offline/person_name, offline/date"):
        grade("offline/dates", " a", " a")


def test_the_grader_configs_carry_instructions_and_only_known_offline_options() -> None:
    for name in ("mayors_grader.json", "death_date_grader.json"):
        config = json.loads((CONFIGS / name).read_text(encoding="utf-8"))
        assert config["grader_instructions"].strip()
        assert set(config.get("offline_options", {})) <= set(OFFLINE_OPTIONS)


def test_the_mayors_options_do_what_its_instructions_say() -> None:
    config = json.loads((CONFIGS / "mayors_grader.json").read_text(encoding="utf-8"))
    spec = GraderSpec(
        model="offline/person_name",
        instructions=config["grader_instructions"],
        options=config["offline_options"],
    )
    named_equivalent = re.findall(r"Outputs like '(.+?)', '(.+?)'", spec.instructions)[0]
    for completion in [*named_equivalent, "Grace", "grace "]:
        question = Question(grader=spec, prompt="", reference=" Grace Miller", completion=completion)
        assert grade_offline(question).kind == "equivalent"
