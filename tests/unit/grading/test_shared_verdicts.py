"""Each question has one asker at a time, over all processes, and an answer reaches everyone who waits for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evalgen.grading.presence import HEARTBEAT_S, SILENCE_S, say_still_here
from evalgen.grading.shared_verdicts import SharedVerdicts
from evalgen.records import Answer, Question, Verdict, VerdictKind
from evalgen.verdict_store import VerdictStore, graded_keys
from evalgen.verdict_table import VERDICTS_FILE
from tests.claude_calls import question
from tests.virtual_time import now, run_in_virtual_time, until_all_wait

RIGHT = Verdict(kind="equivalent", reasoning="same", api_calls=1, input_tokens=9, output_tokens=9, cost_usd=0.1)


def answer(asked: Question, verdict: Verdict = RIGHT) -> Answer:
    return Answer(question=asked, verdict=verdict)


def test_one_asks_and_the_others_wait_for_its_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        shared = SharedVerdicts(VerdictStore(tmp_path), now)
        (first,), (second,) = await shared.claim([question()], "a"), await shared.claim([question()], "b")
        assert (first.verdict, first.is_asked_by_another) == (None, False)
        assert (second.verdict, second.is_asked_by_another) == (None, True)
        waiting = [asyncio.create_task(shared.wait([question()], holder)) for holder in "bcd"]
        await until_all_wait()
        await shared.add([answer(question())])
        verdicts = [claim.verdict for (claim,) in await asyncio.gather(*waiting)]
        assert {verdict.kind for verdict in verdicts if verdict} == {"equivalent"}
        assert all(verdict and verdict.api_calls == 0 and verdict.cost_usd == 0.0 for verdict in verdicts)
        (known,) = await shared.claim([question()], "e")
        assert known.verdict and known.verdict.kind == "equivalent"

    run_in_virtual_time(scenario())


def test_an_ungraded_answer_is_one_for_those_who_wait_and_none_for_those_who_ask_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        shared = SharedVerdicts(VerdictStore(tmp_path), now)
        await shared.claim([question()], "a")
        waiting = asyncio.create_task(shared.wait([question()], "b"))
        await until_all_wait()
        await shared.add([answer(question(), Verdict(kind="ungraded", error="refused"))])
        (claim,) = await waiting
        assert claim.verdict and claim.verdict.kind == "ungraded"
        (later,) = await shared.claim([question()], "c")
        assert (later.verdict, later.is_asked_by_another) == (None, False)

    run_in_virtual_time(scenario())


def test_what_the_dead_were_to_ask_one_of_those_who_wait_asks(tmp_path: Path) -> None:
    async def scenario() -> None:
        shared = SharedVerdicts(VerdictStore(tmp_path), now)
        asked = [question(), question(" other")]
        await shared.claim(asked, "dies")
        waiting = [asyncio.create_task(shared.wait(asked, holder)) for holder in "bc"]
        for _ in range(int(SILENCE_S)):
            await asyncio.sleep(1.5)
            for holder in "bc":
                await shared.still_here(holder)
        first, second = [task.result() for task in waiting]
        assert [claim.is_asked_by_another for claim in first] == [False, False]
        assert [claim.is_asked_by_another for claim in second] == [True, True]
        assert not any(claim.verdict for claim in (*first, *second))
        waiting_again = asyncio.create_task(shared.wait(asked, "c"))
        await until_all_wait()
        await shared.add([answer(each) for each in asked])
        assert all(claim.verdict for claim in await waiting_again)

    run_in_virtual_time(scenario())


def test_a_call_whose_caller_has_died_claims_nothing(tmp_path: Path) -> None:
    """It goes on in the store, and would hold the question for ever."""

    async def scenario() -> None:
        shared = SharedVerdicts(VerdictStore(tmp_path), now)
        await shared.claim([question()], "dies")
        of_the_dead = asyncio.create_task(shared.wait([question()], "dies"))
        of_the_living = asyncio.create_task(shared.wait([question()], "lives"))
        for _ in range(int(SILENCE_S)):
            await asyncio.sleep(1.5)
            await shared.still_here("lives")
        assert (await of_the_dead)[0].is_asked_by_another
        (claim,) = await of_the_living
        assert claim.verdict is None and not claim.is_asked_by_another

    run_in_virtual_time(scenario())


def test_a_claim_of_the_living_does_not_lapse_however_long_the_answer_takes(tmp_path: Path) -> None:
    async def scenario() -> None:
        shared = SharedVerdicts(VerdictStore(tmp_path), now)
        await shared.claim([question()], "slow")
        waiting = asyncio.create_task(shared.wait([question()], "b"))
        for _ in range(100):
            await asyncio.sleep(SILENCE_S / 3)
            await shared.still_here("slow")
            await shared.still_here("b")
        assert not waiting.done()
        await shared.add([answer(question())])
        (claim,) = await waiting
        assert claim.verdict is not None

    run_in_virtual_time(scenario())


def test_what_is_released_another_asks_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        shared = SharedVerdicts(VerdictStore(tmp_path), now)
        await shared.claim([question()], "a")
        waiting = asyncio.create_task(shared.wait([question()], "b"))
        await until_all_wait()
        await shared.release([question()])
        (claim,) = await waiting
        assert claim.verdict is None and not claim.is_asked_by_another
        (third,) = await shared.claim([question()], "c")
        assert third.is_asked_by_another

    run_in_virtual_time(scenario())


def test_verdicts_of_an_earlier_experiment_become_ones_of_this_job_and_cost_it_nothing(tmp_path: Path) -> None:
    earlier = VerdictStore(tmp_path / "earlier")
    earlier.add([answer(question())])
    earlier.close()

    async def scenario() -> None:
        store = VerdictStore(tmp_path / "now", list((tmp_path / "earlier").iterdir()))
        (claim,) = await SharedVerdicts(store, now).claim([question()], "a")
        assert claim.verdict and claim.verdict.api_calls == 0
        assert graded_keys(tmp_path / "now") == {question().key}

    run_in_virtual_time(scenario())


def test_answers_that_come_together_are_one_write(tmp_path: Path) -> None:
    class Counting(VerdictStore):
        num_writes = 0

        def add(self, answers: list[Answer]) -> None:  # type: ignore[override]
            self.num_writes += bool(answers)
            super().add(answers)

    async def scenario() -> None:
        store = Counting(tmp_path)
        shared = SharedVerdicts(store, now)
        asked = [question(f" {number}") for number in range(100)]
        await asyncio.gather(*(shared.add([answer(each)]) for each in asked))
        assert store.num_writes == 1
        assert graded_keys(tmp_path) == {each.key for each in asked}

    run_in_virtual_time(scenario())


def test_each_verdict_is_news_once_whoever_stores_it_and_however_often(tmp_path: Path) -> None:
    cached, asked, other = question(" cached"), question(" asked"), question(" other")
    earlier = VerdictStore(tmp_path / "earlier")
    earlier.add([answer(cached)])
    earlier.close()
    again = Verdict(kind="not_equivalent", api_calls=3)
    model = asked.grader.model

    async def scenario() -> None:
        store = VerdictStore(tmp_path / "now", list((tmp_path / "earlier").glob("*.parquet")))
        shared = SharedVerdicts(store, now)
        for holder in "ab":  # the second time it is one of this job's
            await shared.claim([cached, asked, other], holder)
        stored = answer(asked, again)
        for _ in range(3):  # Ray may repeat a call
            await shared.add([stored])
        await shared.add([answer(other, Verdict(kind="ungraded", api_calls=1))])
        assert shared.answered == {(model, "equivalent"): 1, (model, "not_equivalent"): 1, (model, "ungraded"): 1}
        assert shared.cached == {model: 1} and shared.asked_again == {model: 1}
        # Begun anew, as its actor would be: what is on disk is no news.
        anew = SharedVerdicts(VerdictStore(tmp_path / "now"), now)
        await anew.add([stored])
        assert anew.answered.total() == 0
        await anew.add([answer(other)])
        assert anew.answered == {(model, "equivalent"): 1}, "an ungraded question that is judged after all"

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("votes", ["ungraded", "equivalent"])
def test_votes_are_no_news_and_the_verdict_that_comes_of_them_is(votes: VerdictKind, tmp_path: Path) -> None:
    asked = question(num_votes=3)

    async def scenario() -> None:
        shared = SharedVerdicts(VerdictStore(tmp_path), now)
        await shared.claim([asked], "a")
        for _ in range(3):
            one = Answer(question=asked, verdict=Verdict(kind=votes, api_calls=2), is_vote=True)
            await shared.add([one])
            assert not shared.answered and not shared.told
            (other,) = await shared.claim([asked], "b")
            assert other.is_asked_by_another
        await shared.add([answer(asked, Verdict(kind=votes, votes=(votes,) * 3))])
        assert shared.answered == {(asked.grader.model, votes): 1} and shared.told == {votes: 1}
        assert shared.asked_again == {asked.grader.model: 3}

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "killed"])
def test_a_verdict_that_is_used_again_keeps_its_votes(tmp_path: Path, ended: bool) -> None:
    split = Verdict(kind="equivalent", votes=("equivalent", "not_equivalent", "equivalent"))
    earlier = VerdictStore(tmp_path / "earlier")
    earlier.add([answer(question(num_votes=3), split)])
    if ended:
        earlier.close()

    async def scenario() -> None:
        for directory in (tmp_path / "now", tmp_path / "again"):
            store = VerdictStore(directory, list((tmp_path / "earlier").iterdir()))
            for _ in range(2):  # from the other experiment, then from this one
                (claim,) = await SharedVerdicts(store, now).claim([question(num_votes=3)], "a")
                assert claim.verdict and claim.verdict.votes == split.votes
            store.close()
            (row,) = pq.read_table(directory / VERDICTS_FILE).to_pylist()
            assert tuple(row["votes"]) == split.votes and row["from_cache"]

    run_in_virtual_time(scenario())


def test_nobody_who_is_told_of_a_life_waits_for_one_that_does_not_listen() -> None:
    class Away:
        async def still_here(self, holder: str) -> None:
            await asyncio.sleep(10 * SILENCE_S)

    class Broken:
        num_told = 0

        async def still_here(self, holder: str) -> None:
            self.num_told += 1
            raise ConnectionError

    async def scenario() -> None:
        broken = Broken()
        heartbeat = asyncio.create_task(say_still_here("a", [Away(), broken]))
        await asyncio.sleep(SILENCE_S)
        assert broken.num_told >= SILENCE_S // HEARTBEAT_S
        heartbeat.cancel()

    run_in_virtual_time(scenario())
