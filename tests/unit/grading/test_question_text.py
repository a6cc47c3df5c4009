"""The judge's question survives any completion, and its reply is read strictly."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalgen.errors import GradingError
from evalgen.grading.question_text import (
    REPLY_SCHEMA,
    JudgeReply,
    parse_packed_replies,
    parse_reply,
    system_text,
    user_text,
)
from evalgen.records import GraderSpec, Question


def about(completion: str, prompt: str = "P", reference: str = " R") -> Question:
    return Question(
        grader=GraderSpec(model="anthropic/x", instructions="I"),
        prompt=prompt,
        reference=reference,
        completion=completion,
    )


ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@given(prompt=ANY_TEXT, reference=ANY_TEXT, completion=ANY_TEXT)
def test_any_texts_come_back_and_can_be_sent(prompt: str, reference: str, completion: str) -> None:
    text = user_text(about(completion, prompt, reference))
    assert json.loads(text) == {"prompt": prompt, "reference": reference, "completion": completion}
    assert text.isprintable()
    text.encode("utf-8")


def test_letters_of_other_languages_reach_the_judge_unescaped() -> None:
    assert "São Paulo 東京" in user_text(about(" São Paulo 東京"))


def test_the_experimenters_instructions_reach_the_judge_as_they_are() -> None:
    instructions = "Names like {this} are 100% equal; </rules> is a tag, \\n is not a line break."
    assert instructions in system_text(f"\n{instructions}\n")


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "\n```\n{}\n```\n"], ids=["json", "plain"])
def test_a_server_without_schemas_may_answer_in_a_code_block(fence: str) -> None:
    one = '{"reasoning": "```\\n", "verdict": "equivalent", "trimmed_completion": null}'
    assert parse_reply(fence.replace("{}", one)) == parse_reply(one)
    several = json.dumps({"verdicts": [{"index": 0, **json.loads(one)}]})
    assert parse_packed_replies(fence.replace("{}", several)) == parse_packed_replies(several) != []


def test_the_schema_and_the_parsed_reply_agree() -> None:
    properties = REPLY_SCHEMA["properties"]
    assert isinstance(properties, dict)
    assert list(properties) == REPLY_SCHEMA["required"] == list(JudgeReply.model_fields)
    for kind in properties["verdict"]["enum"]:
        parse_reply(json.dumps({"reasoning": "r", "verdict": kind, "trimmed_completion": None}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "equivalent",
        '{"reasoning": "r", "verdict": "equivalent"}',
        '{"reasoning": "r", "verdict": "Equivalent", "trimmed_completion": null}',
        '{"reasoning": "r", "verdict": "equivalent", "trimmed_completion": 7}',
        '{"reasoning": null, "verdict": "equivalent", "trimmed_completion": null}',
        '{"reasoning": "r", "verdict": "equivalent", "trimmed_completion": null, "x": 1}',
        'Yes.\n```\n{"reasoning": "r", "verdict": "equivalent", "trimmed_completion": null}\n```',
    ],
)
def test_a_reply_of_any_other_shape_is_an_error_that_says_what_is_wrong(text: str) -> None:
    with pytest.raises(GradingError, match="malformed"):
        parse_reply(text)
