"""The desk asks the judge once for each question, whoever asks and however often: over real HTTP to a local server."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import anthropic
import httpx2
import pyarrow.parquet as pq
import pytest

from evalgen.errors import GraderUnavailable, GradingBudgetSpent
from evalgen.grading import claude
from evalgen.grading.breaker import Breaker
from evalgen.grading.desk import REQUEST_TIMEOUT_S, GradingDesk
from evalgen.grading.in_vain import MANY_QUESTIONS
from evalgen.grading.limiter_records import Demand, Lease, Outcome
from evalgen.grading.prices import load_prices
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.grading.shared_verdicts import SharedVerdicts
from evalgen.grading.spending import Spending
from evalgen.records import Answer, GraderSpec, Question, Verdict
from evalgen.verdict_store import VerdictStore, spent_usd
from tests import messages_api
from tests.claude_calls import question, sdk_pointed_at_messages_api, unlimited
from tests.messages_api import MessagesApi, honest_judge
from tests.virtual_time import now, run_in_virtual_time


class Watched(VerdictStore):
    """Remembers what was added."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.added: list[Answer] = []

    def add(self, answers: Sequence[Answer]) -> None:
        super().add(answers)
        self.added += answers


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with sdk_pointed_at_messages_api() as api:
        yield api


def offline(completion: str) -> Question:
    grader = GraderSpec(model="offline/exact", instructions="")
    return Question(grader=grader, prompt="p", reference=" r", completion=completion)


def run(
    store: VerdictStore, *batches: Sequence[Question], num_desks: int = 1, limiter: RateLimiter | None = None
) -> list[list[Verdict]]:
    """The batches graded at so many desks in turn, all at once."""

    async def grade() -> list[list[Verdict]]:
        shared, gate = SharedVerdicts(store), limiter or unlimited()
        desks = [GradingDesk(shared, gate, max_connections=10, prices=load_prices()) for _ in range(num_desks)]
        turns = itertools.cycle(desks)
        return await asyncio.gather(*(next(turns).grade(batch) for batch in batches))

    return asyncio.run(grade())


@pytest.mark.parametrize("num_desks", [1, 2])
def test_equal_questions_in_flight_are_asked_once(api: MessagesApi, store: Watched, num_desks: int) -> None:
    same, other = question(" Grace Miller"), question(" Ethan Parker")
    batches = [same, other, same], [other, question(" Grace Miller")]
    first, second = run(store, *batches, num_desks=num_desks)
    assert [v.kind for v in first] == ["equivalent", "not_equivalent", "equivalent"]
    assert [v.kind for v in second] == ["not_equivalent", "equivalent"]
    assert api.calls == 2
    assert sorted(a.question.completion for a in store.added) == [" Ethan Parker", " Grace Miller"]


def test_every_question_is_asked_exactly_once_over_many_desks_and_batches(api: MessagesApi, store: Watched) -> None:
    asked = [question(f" Grace Miller {number % 37}") for number in range(400)]
    batches = [asked[start::8] for start in range(8)]
    verdicts = run(store, *batches, num_desks=4)
    assert all(v.kind == "equivalent" for batch in verdicts for v in batch)
    assert api.calls == 37
    assert sum(v.api_calls for v in map(store.known, map(question, {q.completion for q in asked})) if v) == 37


def test_questions_are_claimed_in_whole_packs(api: MessagesApi, store: Watched) -> None:
    asked = [question(f" Grace Miller {number}", pack_size=60) for number in range(420)]
    (verdicts,) = run(store, asked)
    assert {verdict.kind for verdict in verdicts} == {"equivalent"} and api.calls == 420 / 60


def test_a_question_answered_before_is_not_asked_again(api: MessagesApi, store: Watched) -> None:
    ((first,),), ((second,),) = run(store, [question()]), run(store, [question()])
    assert first.kind == second.kind and api.calls == 1
    assert (first.api_calls, second.api_calls, second.cost_usd) == (1, 0, 0.0)


@pytest.mark.parametrize("pack_size", [1, 4])
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "killed"])
def test_votes_that_were_given_before_a_job_was_stopped_are_not_paid_for_again(
    pack_size: int, ended: bool, api: MessagesApi, tmp_path: Path
) -> None:
    asked = [question(f" Grace Miller {n}", num_votes=3, pack_size=pack_size) for n in range(pack_size)]
    first = VerdictStore(tmp_path)
    kind = "not_equivalent"
    one_vote = messages_api.verdict(kind)
    if pack_size > 1:
        one_vote = {"verdicts": [one_vote | {"index": n} for n in range(pack_size)]}
    api.script(messages_api.answer(one_vote), messages_api.spend_cap())
    with pytest.raises(GraderUnavailable):
        run(first, asked, limiter=RateLimiter(max_connections=1, breaker=Breaker(900)))
    assert [first.kind(it) for it in asked] == [None] * pack_size
    assert [[vote.kind for vote in first.votes(it)] for it in asked] == [[kind]] * pack_size
    if ended:
        first.close()
    (verdicts,) = run(store := Watched(tmp_path), asked)
    assert sum(it.is_vote for it in store.added) == 2 * pack_size, "one vote before, two now"
    assert [sorted(it.votes) for it in verdicts] == [["equivalent", "equivalent", kind]] * pack_size
    store.close()
    rows = pq.read_table(tmp_path / "0000.parquet").to_pylist()
    assert sum(row["api_calls"] for row in rows) == 3 and [row["ballots"] for row in rows] == [[]] * pack_size
    assert all(row["verdict"] == "equivalent" and sorted(row["votes"]) == sorted(verdicts[0].votes) for row in rows)


def test_a_verdict_from_the_cache_is_not_asked_and_is_marked(api: MessagesApi, tmp_path: Path) -> None:
    known = Verdict(kind="not_equivalent", reasoning="earlier")
    earlier = VerdictStore(tmp_path / "earlier")
    earlier.add([Answer(question=question(" Grace Miller"), verdict=known)])
    earlier.close()
    store = VerdictStore(tmp_path / "now", list((tmp_path / "earlier").iterdir()))
    ((verdict,),) = run(store, [question(" Grace Miller")])
    assert verdict == known and api.calls == 0
    store.close()
    (row,) = pq.read_table(tmp_path / "now" / "0000.parquet").to_pylist()
    assert (row["verdict"], row["from_cache"], row["cost_usd"]) == ("not_equivalent", True, 0.0)


def test_an_offline_grader_needs_no_server_and_no_key(monkeypatch: pytest.MonkeyPatch, store: Watched) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    ((wrong, right, again),) = run(store, [offline(" x"), offline(" r"), offline(" r")])
    assert (wrong.kind, right.kind, again.kind) == ("not_equivalent", "equivalent", "equivalent")
    assert len(store.added) == 2 and not any(a.from_cache for a in store.added)


def test_verdicts_are_in_the_order_of_mixed_questions(api: MessagesApi, store: Watched) -> None:
    asked = [offline(" r"), question(" Ethan"), offline(" x"), question(" Grace Miller"), offline(" r")]
    (verdicts,) = run(store, asked)
    assert [v.kind for v in verdicts] == ["equivalent", "not_equivalent", "not_equivalent", "equivalent", "equivalent"]
    assert run(store, []) == [[]]


def test_an_ungraded_question_is_stored_as_such_and_the_others_are_graded(api: MessagesApi, store: Watched) -> None:
    api.script(*[messages_api.message("not JSON")] * 2)  # for the first question, twice
    ((first,),), ((second,),) = run(store, [question(" a")]), run(store, [question(" Grace Miller")])
    assert (first.kind, second.kind) == ("ungraded", "equivalent")
    assert [(a.verdict.kind, a.from_cache) for a in store.added] == [("ungraded", False), ("equivalent", False)]


def test_a_refused_key_stops_every_caller_and_stores_nothing(
    api: MessagesApi, monkeypatch: pytest.MonkeyPatch, store: Watched
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-wrong")
    with pytest.raises(GraderUnavailable):
        run(store, [question(" a")], [question(" a"), question(" b")])
    assert store.added == []


def test_a_caller_that_is_cancelled_does_not_take_the_answer_from_another(store: Watched) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow_judge(of: dict[str, str]) -> messages_api.Json:
        asked.set()
        assert go_on.wait(10)
        return honest_judge(of)

    async def scenario() -> list[Verdict]:
        desk = GradingDesk(SharedVerdicts(store), unlimited(), max_connections=10)
        first = asyncio.create_task(desk.grade([question(" Grace Miller")]))
        await asyncio.to_thread(asked.wait, 10)
        second = asyncio.create_task(desk.grade([question(" Grace Miller")]))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        go_on.set()
        return await second

    with sdk_pointed_at_messages_api(slow_judge):
        (verdict,) = asyncio.run(scenario())
        assert verdict.kind == "equivalent" and len(store.added) == 1


def test_few_more_questions_are_at_work_than_there_are_connections(api: MessagesApi, store: Watched) -> None:
    """The rest wait at the desk, and not in another process."""
    waiting, most = 0, 0

    class Counting(RateLimiter):
        async def acquire(self, demands: Sequence[Demand], holder: str) -> list[Lease]:
            nonlocal waiting, most
            leases = await super().acquire(demands, holder)
            waiting += len(leases)
            most = max(most, waiting)
            await asyncio.sleep(0)
            return leases

        async def settle(self, outcomes: Sequence[Outcome]) -> None:
            nonlocal waiting
            waiting -= len(outcomes)
            await super().settle(outcomes)

    questions = [question(f" Grace Miller {n}") for n in range(40)]
    desk = GradingDesk(SharedVerdicts(store), Counting(max_connections=100, breaker=Breaker(900)), max_connections=3)
    assert len(asyncio.run(desk.grade(questions))) == 40
    assert most <= 9  # twice as many, and those that were answered a moment ago


def test_what_a_dead_process_was_to_ask_is_asked_at_once_and_not_one_by_one(store: Watched) -> None:
    together = threading.Barrier(5)

    def sociable_judge(of: dict[str, str]) -> messages_api.Json:
        if of["completion"] != " first":  # until that is answered, requests go one at a time
            together.wait(10)
        return honest_judge(of)

    async def scenario() -> list[Verdict]:
        shared = SharedVerdicts(store)
        desk = GradingDesk(shared, unlimited(), max_connections=10)
        await desk.grade([question(" first")])
        asked = [question(f" Grace Miller {n}") for n in range(5)]
        await shared.claim(asked, "dies")
        grading = asyncio.create_task(desk.grade(asked))
        await asyncio.sleep(0.1)
        await shared.release(asked)
        return await grading

    with sdk_pointed_at_messages_api(sociable_judge):
        assert [verdict.kind for verdict in asyncio.run(scenario())] == ["equivalent"] * 5


def test_the_judge_has_work_while_answers_are_stored(store: Watched) -> None:
    """Nothing is stored before the judge was asked more questions than there are connections."""
    num_asked, is_enough = itertools.count(1), threading.Event()

    class Slow(SharedVerdicts):
        async def add(self, answers: Sequence[Answer]) -> None:
            assert await asyncio.to_thread(is_enough.wait, 10)
            await super().add(answers)

    def judge(of: dict[str, str]) -> messages_api.Json:
        if next(num_asked) == 8:
            is_enough.set()
        return honest_judge(of)

    async def scenario() -> list[Verdict]:
        desk = GradingDesk(Slow(store), RateLimiter(max_connections=5, breaker=Breaker(900)), max_connections=5)
        return await desk.grade([question(f" Grace Miller {n}") for n in range(20)])

    with sdk_pointed_at_messages_api(judge):
        assert len(asyncio.run(scenario())) == 20 == len(store.added)


def test_the_last_question_of_a_job_is_not_given_up_before_the_job_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge's packets are dropped: each request fails only after its whole time."""

    async def time_out(*_: object, **__: object) -> None:
        await asyncio.sleep(REQUEST_TIMEOUT_S)
        error = anthropic.APITimeoutError(request=httpx2.Request("POST", "http://judge"))
        raise error from httpx2.ConnectTimeout("no answer")

    async def scenario() -> None:
        gate = RateLimiter(max_connections=10, breaker=Breaker(900), clock=now)
        desk = GradingDesk(SharedVerdicts(VerdictStore(tmp_path), now), gate, max_connections=10)
        await desk.grade([question(" Grace Miller")])

    monkeypatch.setattr(claude, "connect", lambda _: SimpleNamespace(post=time_out))
    monkeypatch.setattr(claude, "time", SimpleNamespace(monotonic=now))
    for _ in range(10):  # pauses are random
        with pytest.raises(GraderUnavailable):
            run_in_virtual_time(scenario())


def test_what_may_not_be_paid_for_stops_the_job_and_keeps_what_was_paid(api: MessagesApi, tmp_path: Path) -> None:
    """Over two parts of a job; the server's own books say what was charged."""
    prices = load_prices()
    cap = 0.1

    async def grade(store: VerdictStore, start: int) -> None:
        spending = Spending(tmp_path, cap, spent_usd(tmp_path))
        gate = RateLimiter(max_connections=10, spending=spending, breaker=Breaker(900))
        desk = GradingDesk(SharedVerdicts(store), gate, max_connections=10, prices=prices)
        await desk.grade([question(f" Grace Miller {number}") for number in range(start, start + 300)])

    for start in (0, 1_000):
        store = VerdictStore(tmp_path)
        with pytest.raises(GradingBudgetSpent):
            asyncio.run(grade(store, start))
        store.close()
    bodies = [len(json.dumps(request.body)) // 4 for request in api.requests]
    charged = sum(prices.cost_usd("claude-haiku-4-5", tokens, 60) or 0.0 for tokens in bodies)
    assert 0.5 * cap < charged <= cap
    assert spent_usd(tmp_path) <= cap


def test_what_a_pack_has_answered_is_stored_though_a_question_of_it_is_left_and_fails(
    api: MessagesApi, store: Watched
) -> None:
    entries = [{"index": index, **messages_api.verdict("equivalent")} for index in (0, 1, 3)]
    api.script(messages_api.message(json.dumps({"verdicts": entries})), messages_api.spend_cap())
    asked = [question(f" Grace Miller {number}", pack_size=4) for number in range(4)]
    with pytest.raises(GraderUnavailable):
        run(store, asked)
    assert [answer.question for answer in store.added] == [asked[0], asked[1], asked[3]]
    assert sum(answer.verdict.api_calls for answer in store.added) == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (messages_api.error(400, "invalid_request_error", "output_config: unknown"), "output_config: unknown"),
        (messages_api.message("I think so."), "malformed"),
    ],
    ids=["rejects all", "knows no schema"],
)
def test_a_judge_that_gives_no_verdict_whatever_it_is_asked_is_warned_of_once(
    api: MessagesApi, store: Watched, reply: messages_api.Reply, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    api.script(*[reply] * 1_000)
    run(store, [question(f" {number}") for number in range(2 * MANY_QUESTIONS)])
    (warning,) = [record.getMessage() for record in caplog.records if "none of the first" in record.getMessage()]
    assert reason in warning


def test_a_judge_that_gives_some_verdict_is_not_warned_of(
    api: MessagesApi, store: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    run(store, [question(" Grace Miller")])
    api.script(*[messages_api.error(400, "invalid_request_error", "prompt is too long")] * 100)
    run(store, [question(" Grace Miller"), *(question(f" {number}") for number in range(MANY_QUESTIONS - 1))])
    assert "none of the first" not in caplog.text
