"""The digest of a judge: all that it is told but the question, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evalgen.grading import question_text
from evalgen.grading.grader_config import load_grader
from evalgen.grading.grader_digest import grader_digest
from evalgen.records import GraderSpec, Question

CLAUDE = GraderSpec(model="anthropic/claude-haiku-4-5-20251001", instructions="The same date.")
OFFLINE = GraderSpec(model="offline/person_name", instructions="The surname is enough.")


def test_equal_judges_have_one_digest_also_over_message_batches() -> None:
    batches = replace(CLAUDE, model="anthropic-batch/claude-haiku-4-5-20251001")
    assert grader_digest(CLAUDE) == grader_digest(replace(CLAUDE)) == grader_digest(batches)
    assert len(grader_digest(CLAUDE)) == 64


@pytest.mark.parametrize(
    ("grader", "other"),
    [
        (CLAUDE, replace(CLAUDE, model="anthropic/claude-sonnet-5")),
        (CLAUDE, replace(CLAUDE, instructions="The same year.")),
        (CLAUDE, replace(CLAUDE, num_votes=3)),
        (CLAUDE, replace(CLAUDE, pack_size=10)),
        (CLAUDE, OFFLINE),
        (OFFLINE, replace(OFFLINE, model="offline/date")),
        (OFFLINE, replace(OFFLINE, options={"accept_surname_alone": True})),
    ],
)
def test_another_judge_has_another_digest(grader: GraderSpec, other: GraderSpec) -> None:
    assert grader_digest(grader) != grader_digest(other)


def test_the_order_of_options_is_no_difference() -> None:
    options = {"accept_surname_alone": True, "accept_first_name_alone": False}
    backwards = dict(reversed(options.items()))
    assert grader_digest(replace(OFFLINE, options=options)) == grader_digest(replace(OFFLINE, options=backwards))


@pytest.mark.parametrize(
    ("part", "pack_size"),
    [("_TASK", 1), ("_ONE_COMPLETION", 1), ("_ONE_REPLY", 1), ("_SEVERAL_COMPLETIONS", 10), ("_SEVERAL_REPLIES", 10)],
)
def test_another_template_is_another_digest_of_those_who_are_told_it(
    part: str, pack_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grader = replace(CLAUDE, pack_size=pack_size)
    before, of_offline = grader_digest(grader), grader_digest(OFFLINE)
    monkeypatch.setattr(question_text, part, getattr(question_text, part) + "Be strict.\n")
    assert grader_digest(grader) != before
    assert grader_digest(OFFLINE) == of_offline


@pytest.mark.parametrize("part", ["_TASK", "_ONE_REPLY", "_SEVERAL_REPLIES"])
def test_verdicts_that_were_asked_for_in_other_words_are_no_answer_to_a_question_of_today(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> list[str]:
        graders = load_grader(CLAUDE.model, None), load_grader("offline/date", None)
        return [Question(grader=grader, prompt="p", reference=" r", completion=" c").key for grader in graders]

    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
    of_claude, of_offline = keys()
    monkeypatch.setattr(question_text, part, getattr(question_text, part) + "Be strict.\n")
    assert keys()[0] != of_claude and keys()[1] == of_offline
