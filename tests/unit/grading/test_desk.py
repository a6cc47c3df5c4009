"""The desk asks the judge once for each question, whoever asks and however often: over real HTTP to a local server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from evalgen.errors import GraderUnavailable
from evalgen.grading.desk import GradingDesk
from evalgen.records import Answer, GraderSpec, Question, Verdict
from tests import messages_api
from tests.claude_calls import question, sdk_pointed_at_messages_api, unlimited
from tests.messages_api import MessagesApi, honest_judge


class Memory:
    """Verdicts in a dict, as `evalgen.grading.desk.Verdicts`."""

    def __init__(self, *known: tuple[Question, Verdict]) -> None:
        self.stored = {asked.key: verdict for asked, verdict in known}
        self.added: list[Answer] = []

    async def known(self, question: Question) -> Verdict | None:
        await asyncio.sleep(0)
        return self.stored.get(question.key)

    async def add(self, answers: Sequence[Answer]) -> None:
        await asyncio.sleep(0)
        self.added += answers


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with sdk_pointed_at_messages_api() as api:
        yield api


def offline(completion: str) -> Question:
    grader = GraderSpec(model="offline/exact", instructions="")
    return Question(grader=grader, prompt="p", reference=" r", completion=completion)


def run(memory: Memory, *batches: Sequence[Question]) -> list[list[Verdict]]:
    """The batches graded at one desk, all at once."""

    async def grade() -> list[list[Verdict]]:
        desk = GradingDesk(memory, unlimited(), max_connections=10)
        return await asyncio.gather(*map(desk.grade, batches))

    return asyncio.run(grade())


def test_equal_questions_in_flight_are_asked_once(api: MessagesApi) -> None:
    memory = Memory()
    same, other = question(" Grace Miller"), question(" Ethan Parker")
    first, second = run(memory, [same, other, same], [other, question(" Grace Miller")])
    assert [v.kind for v in first] == ["equivalent", "not_equivalent", "equivalent"]
    assert [v.kind for v in second] == ["not_equivalent", "equivalent"]
    assert api.calls == 2
    assert sorted(a.question.completion for a in memory.added) == [" Ethan Parker", " Grace Miller"]


def test_a_question_answered_before_is_not_asked_again(api: MessagesApi) -> None:
    async def twice() -> list[list[Verdict]]:
        desk = GradingDesk(Memory(), unlimited(), max_connections=10)
        return [await desk.grade([question()]), await desk.grade([question()])]

    first, second = asyncio.run(twice())
    assert first == second and api.calls == 1


def test_a_verdict_from_the_cache_is_not_asked_and_is_marked(api: MessagesApi) -> None:
    known = Verdict(kind="not_equivalent", reasoning="earlier")
    memory = Memory((question(" Grace Miller"), known))
    ((verdict,),) = run(memory, [question(" Grace Miller")])
    assert verdict == known and api.calls == 0
    assert [(a.verdict, a.from_cache) for a in memory.added] == [(known, True)]


def test_an_offline_grader_needs_no_server_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    memory = Memory()
    ((wrong, right, again),) = run(memory, [offline(" x"), offline(" r"), offline(" r")])
    assert (wrong.kind, right.kind, again.kind) == ("not_equivalent", "equivalent", "equivalent")
    assert len(memory.added) == 2 and not any(a.from_cache for a in memory.added)


def test_verdicts_are_in_the_order_of_mixed_questions(api: MessagesApi) -> None:
    asked = [offline(" r"), question(" Ethan"), offline(" x"), question(" Grace Miller"), offline(" r")]
    (verdicts,) = run(Memory(), asked)
    assert [v.kind for v in verdicts] == ["equivalent", "not_equivalent", "not_equivalent", "equivalent", "equivalent"]
    assert run(Memory(), []) == [[]]


def test_an_ungraded_question_is_stored_as_such_and_the_others_are_graded(api: MessagesApi) -> None:
    api.script(*[messages_api.message("not JSON")] * 2)  # for the first question, twice

    async def one_after_the_other(memory: Memory) -> list[Verdict]:
        desk = GradingDesk(memory, unlimited(), max_connections=10)
        return [*await desk.grade([question(" a")]), *await desk.grade([question(" Grace Miller")])]

    memory = Memory()
    first, second = asyncio.run(one_after_the_other(memory))
    assert (first.kind, second.kind) == ("ungraded", "equivalent")
    assert [(a.verdict.kind, a.from_cache) for a in memory.added] == [("ungraded", False), ("equivalent", False)]


def test_a_refused_key_stops_every_caller_and_stores_nothing(api: MessagesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-wrong")
    memory = Memory()
    with pytest.raises(GraderUnavailable):
        run(memory, [question(" a")], [question(" a"), question(" b")])
    assert memory.added == []


def test_a_caller_that_is_cancelled_does_not_take_the_answer_from_another() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow_judge(of: dict[str, str]) -> messages_api.Json:
        asked.set()
        assert go_on.wait(10)
        return honest_judge(of)

    async def scenario(memory: Memory) -> list[Verdict]:
        desk = GradingDesk(memory, unlimited(), max_connections=10)
        first = asyncio.create_task(desk.grade([question(" Grace Miller")]))
        await asyncio.to_thread(asked.wait, 10)
        second = asyncio.create_task(desk.grade([question(" Grace Miller")]))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        go_on.set()
        return await second

    with sdk_pointed_at_messages_api(slow_judge) as api:
        memory = Memory()
        (verdict,) = asyncio.run(scenario(memory))
        assert verdict.kind == "equivalent" and api.calls == 1 and len(memory.added) == 1


def test_no_more_questions_are_at_work_than_there_are_connections(api: MessagesApi) -> None:
    """The rest wait at the desk: a limiter in another process has only so many places to wait in."""
    waiting, most = 0, 0

    class Watched:
        async def acquire(self) -> int:
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            await asyncio.sleep(0)
            return 1

        async def release(self, lease: int) -> None:
            nonlocal waiting
            waiting -= 1

    questions = [question(f" Grace Miller {n}") for n in range(40)]
    verdicts = asyncio.run(GradingDesk(Memory(), Watched(), max_connections=3).grade(questions))
    assert len(verdicts) == 40
    assert most == 3
