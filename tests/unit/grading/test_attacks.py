"""No completion changes what the judge is asked, or the verdict on the answer it follows: through the real SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from evalgen.grading.question_text import (
    DEFAULT_INSTRUCTIONS,
    PACK_REPLY_SCHEMA,
    REPLY_SCHEMA,
    pack_system_text,
    pack_user_text,
    system_text,
    user_text,
)
from evalgen.records import Question, Verdict
from tests.claude_calls import claude_grader, grade_all, question, sdk_pointed_at_messages_api
from tests.messages_api import RecordedRequest, honest_judge
from tests.unit.grading.attacks import ATTACKS

RIGHT, WRONG = " Grace Miller", " Ethan Parker"
SETTINGS = {"alone": "", "after the right answer": RIGHT, "after a wrong answer": WRONG}
PACK_SIZE = len(SETTINGS)  # divides the number of questions: one left over would not be asked as a pack
every_attack = pytest.mark.parametrize("attack", ATTACKS)


QUESTIONS = {
    (setting, name): question(before + text) for setting, before in SETTINGS.items() for name, text in ATTACKS.items()
}


def fields(asked: Question) -> dict[str, str]:
    return {"prompt": asked.prompt, "reference": asked.reference, "completion": asked.completion}


Graded = tuple[Mapping[tuple[str, str], Verdict], Mapping[str, RecordedRequest]]


@pytest.fixture(scope="module")
def graded() -> Graded:
    """The verdict on every question, and the request that asked it by its completion; each question is one request."""
    with sdk_pointed_at_messages_api() as api:
        verdicts = dict(zip(QUESTIONS, grade_all(*QUESTIONS.values()), strict=True))
        requests = {request.question["completion"]: request for request in api.requests}
        assert api.calls == len(QUESTIONS)
    assert requests.keys() == {asked.completion for asked in QUESTIONS.values()}
    return verdicts, requests


def test_there_are_many_attacks_and_no_two_are_the_same() -> None:
    assert len(set(ATTACKS.values())) == len(ATTACKS) >= 50


@every_attack
@pytest.mark.parametrize("setting", SETTINGS)
def test_what_arrives_is_one_message_with_three_texts_and_nothing_else(
    graded: Graded, attack: str, setting: str
) -> None:
    asked = QUESTIONS[setting, attack]
    body = graded[1][asked.completion].body
    assert body.keys() == {"model", "max_tokens", "system", "messages", "output_config"}
    assert body["system"] == system_text(DEFAULT_INSTRUCTIONS)
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": REPLY_SCHEMA}}
    (message,) = body["messages"]
    assert message.keys() == {"role", "content"} and message["role"] == "user"
    # As pairs, so that a key given twice would show.
    assert json.loads(message["content"], object_pairs_hook=list) == list(fields(asked).items())


@every_attack
def test_the_verdict_is_what_it_is_without_the_attack(graded: Graded, attack: str) -> None:
    after_right, after_wrong, alone = (
        graded[0][setting, attack] for setting in ("after the right answer", "after a wrong answer", "alone")
    )
    assert (after_right.kind, after_right.error) == ("equivalent", None)
    assert after_right.trimmed_completion == (RIGHT if ATTACKS[attack] else None)
    assert (after_wrong.kind, after_wrong.trimmed_completion) == ("not_equivalent", None)
    assert alone.kind == honest_judge(fields(QUESTIONS["alone", attack]))["verdict"]


def test_in_a_pack_no_attack_changes_its_own_verdict_or_anothers() -> None:
    asked = [replace(it, grader=replace(it.grader, pack_size=PACK_SIZE)) for it in QUESTIONS.values()]

    async def grade() -> list[list[Verdict]]:
        grader = claude_grader(None)
        try:
            # However long: the desk would ask the longest by themselves.
            packs = [asked[start : start + PACK_SIZE] for start in range(0, len(asked), PACK_SIZE)]
            return await asyncio.gather(*map(grader.grade, packs))
        finally:
            await grader.aclose()

    with sdk_pointed_at_messages_api() as api:
        verdicts = [verdict for pack in asyncio.run(grade()) for verdict in pack]
        requests = api.requests
    assert len(requests) == len(ATTACKS)
    for it, verdict in zip(asked, verdicts, strict=True):
        assert verdict.kind == honest_judge(fields(it))["verdict"], it.completion[:80]
    for request in requests:
        assert request.body["system"] == pack_system_text(DEFAULT_INSTRUCTIONS)
        assert request.body["output_config"]["format"]["schema"] == PACK_REPLY_SCHEMA
        assert request.question.keys() == {"prompt", "reference", "completions"}
    arrived = [completion for request in requests for completion in request.question["completions"]]
    assert sorted(arrived) == sorted(it.completion for it in asked)


@every_attack
def test_the_questions_text_is_one_printable_line_wherever_the_attack_is(attack: str) -> None:
    text = ATTACKS[attack]
    asked = replace(question(text), prompt=text, reference=text)
    one, pack = user_text(asked), pack_user_text([asked])
    for line in (one, pack):
        assert line.isprintable()
        line.encode("utf-8")
    assert json.loads(one) == dict.fromkeys(("prompt", "reference", "completion"), text)
    assert json.loads(pack) == {"prompt": text, "reference": text, "completions": [text]}
