"""Several completions of one prompt in one request, and one question put to the vote, through the real SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from evalgen.errors import GraderUnavailable
from evalgen.grading.desk import packs
from evalgen.grading.messages import MOST_BYTES_OF_A_PACK
from evalgen.grading.prices import load_prices
from evalgen.grading.question_text import PACK_REPLY_SCHEMA, pack_user_text
from evalgen.records import Question
from tests import messages_api
from tests.claude_calls import (
    HAIKU,
    claude_grader,
    grade_all,
    grade_pack,
    question,
    sdk_pointed_at_messages_api,
    unlimited,
)
from tests.messages_api import Json, MessagesApi, honest_judge

COMPLETIONS = (" Grace Miller\nQ:", " Ethan Parker", " Grace Miller, of course", "")


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with sdk_pointed_at_messages_api() as api:
        yield api


def packed(size: int = 4) -> list[Question]:
    return [question(completion, pack_size=size) for completion in COMPLETIONS]


def entry(index: object, kind: str = "equivalent", **more: object) -> Json:
    return {"index": index, **messages_api.verdict(kind), **more}


def pack_reply(*entries: object, **more: object) -> messages_api.Reply:
    return messages_api.message(json.dumps({"verdicts": entries, **more}), input_tokens=1003, output_tokens=82)


def test_a_pack_is_one_request_whose_verdicts_are_those_of_its_questions_by_themselves(api: MessagesApi) -> None:
    in_one = grade_pack(*packed())
    assert api.calls == 1
    (request,) = api.requests
    assert request.question["completions"] == list(COMPLETIONS)
    assert request.body["output_config"]["format"]["schema"] == PACK_REPLY_SCHEMA
    one_by_one = grade_all(*(question(completion) for completion in COMPLETIONS))
    assert [(it.kind, it.trimmed_completion) for it in in_one] == [
        (it.kind, it.trimmed_completion) for it in one_by_one
    ]


def test_the_cost_of_a_pack_is_shared_to_the_last_token(api: MessagesApi) -> None:
    api.script(pack_reply(*(entry(index) for index in range(4))))
    verdicts = grade_pack(*packed())
    assert sum(it.api_calls for it in verdicts) == 1
    assert sum(it.input_tokens for it in verdicts) == 1003 and sum(it.output_tokens for it in verdicts) == 82
    cost = load_prices().cost_usd(HAIKU.removeprefix("anthropic/"), 1003, 82)
    assert sum(it.cost_usd or 0 for it in verdicts) == pytest.approx(cost)


MALFORMED = {
    "one missing": pack_reply(entry(0), entry(1, "not_equivalent"), entry(3, "not_equivalent")),
    "one twice": pack_reply(*(entry(index) for index in (0, 1, 2, 2, 3))),
    "out of range": pack_reply(entry(0), entry(1, "not_equivalent"), entry(4), entry(-1), entry(3, "not_equivalent")),
    "an index that is no number": pack_reply(entry(0), entry(1), entry("2"), entry(3)),
    "a verdict that is none": pack_reply(entry(0), entry(1), entry(2, "maybe"), entry(3)),
    "one key too many": pack_reply(entry(0), entry(1), entry(2, confidence=1), entry(3)),
    "half a character": pack_reply(entry(0), entry(1), entry(2, reasoning="\ud83e"), entry(3)),
    "an entry that is no object": pack_reply(entry(0), entry(1), "equivalent", entry(3)),
}


@pytest.mark.parametrize("reply", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_a_pack_leaves_unclear_is_asked_by_itself_and_nothing_else_is(
    api: MessagesApi, reply: messages_api.Reply
) -> None:
    api.script(reply)
    verdicts = grade_pack(*packed())
    assert verdicts[2].kind == "equivalent" and verdicts[2].trimmed_completion == " Grace Miller"
    assert [request.question.get("completion") for request in api.requests] == [None, COMPLETIONS[2]]
    assert sum(it.api_calls for it in verdicts) == 2


USELESS = {
    "prose": messages_api.message("All of them are."),
    "no list": messages_api.message('{"verdicts": {"0": "equivalent"}}'),
    "a list alone": messages_api.message("[]"),
    "refusal": messages_api.message("", stop_reason="refusal"),
    "cut off": messages_api.message('{"verdicts": [', stop_reason="max_tokens"),
    "refused for its content": messages_api.error(400, "invalid_request_error", "prompt is too long"),
}


@pytest.mark.parametrize("reply", USELESS.values(), ids=USELESS.keys())
def test_a_useless_reply_to_a_pack_leaves_every_question_to_be_asked_by_itself(
    api: MessagesApi, reply: messages_api.Reply
) -> None:
    api.script(reply)
    verdicts = grade_pack(*packed())
    assert [it.kind for it in verdicts] == ["equivalent", "not_equivalent", "equivalent", "not_equivalent"]
    assert api.calls == 5 == sum(it.api_calls for it in verdicts)


def test_only_questions_alike_but_for_their_completion_are_packed() -> None:
    asked = [question(f" {number}", pack_size=3) for number in range(7)]
    other_prompt = [replace(each, prompt="Q: Who is the mayor of Paris? A:") for each in asked[:2]]
    single = [question(f" {number}") for number in range(2)]
    found = [[(it.prompt, it.completion) for it in pack] for pack in packs([*asked, *other_prompt, *single])]
    assert [len(pack) for pack in found] == [3, 3, 1, 2, 1, 1]
    assert all(len({prompt for prompt, _ in pack}) == 1 for pack in found)


def test_a_pack_has_no_more_text_than_one_request_should() -> None:
    long = [question("x" * (MOST_BYTES_OF_A_PACK // 3) + str(number), pack_size=100) for number in range(5)]
    huge = question("y" * (2 * MOST_BYTES_OF_A_PACK), pack_size=100)
    assert [len(pack) for pack in packs([*long[:3], huge, *long[3:]])] == [2, 1, 1, 2]


@pytest.mark.parametrize("char", ["x", "東", "\0", "\ud800"], ids=["Latin", "Han", "a control", "half a pair"])
def test_the_price_of_a_pack_holds_whatever_it_is_written_in(char: str) -> None:
    """A token has a byte or more, and the price is that of up to 100,000 tokens."""
    for pack in packs([question(char * 2_000 + str(number), pack_size=100) for number in range(100)]):
        assert len(pack_user_text(pack).encode()) < 90_000


def test_a_pack_never_looks_like_a_single_question_to_the_cache() -> None:
    assert question(" x", pack_size=4).key != question(" x").key != question(" x", num_votes=3).key


def test_a_question_put_to_the_vote_is_asked_so_often_and_the_majority_wins(api: MessagesApi) -> None:
    wrong = messages_api.answer(messages_api.verdict("not_equivalent", reasoning="no"))
    api.script(wrong)
    (verdict,) = grade_pack(question(num_votes=3))
    assert (verdict.kind, verdict.api_calls, api.calls) == ("equivalent", 3, 3)
    assert sorted(verdict.votes) == ["equivalent", "equivalent", "not_equivalent"]
    assert verdict.trimmed_completion == " Grace Miller"


def test_packs_can_be_put_to_the_vote(api: MessagesApi) -> None:
    asked = [question(completion, pack_size=4, num_votes=3) for completion in COMPLETIONS]
    verdicts = grade_pack(*asked)
    assert api.calls == 3 == sum(it.api_calls for it in verdicts)
    assert [it.votes for it in verdicts] == [(it.kind,) * 3 for it in verdicts]
    one = {"prompt": asked[0].prompt, "reference": asked[0].reference}
    assert [it.kind for it in verdicts] == [honest_judge(one | {"completion": c})["verdict"] for c in COMPLETIONS]


@pytest.mark.parametrize(
    ("asked", "replies"),
    [([question(num_votes=3)], []), (packed(), [messages_api.message("All of them are.")])],
    ids=["votes", "singles of a pack"],
)
def test_when_a_request_ends_the_job_no_other_about_the_same_questions_stays_under_way(
    asked: list[Question], replies: list[messages_api.Reply], api: MessagesApi
) -> None:
    async def scenario() -> int:
        limiter = unlimited()
        grader = claude_grader(limiter)
        await grader.grade([question()])  # from now on there may be several requests at once
        with pytest.raises(GraderUnavailable):
            await grader.grade(asked)
        await grader.aclose()
        return limiter.num_in_flight

    first = messages_api.answer(messages_api.verdict("equivalent"))
    api.script(first, *replies, messages_api.spend_cap())
    for number in range(3, 6):
        api.hold(number + len(replies))  # what is asked beside the one that fails
    assert asyncio.run(scenario()) == 0
