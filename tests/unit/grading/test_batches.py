"""Message Batches: half price, nothing asked or paid twice whatever ends the job, and no question lost."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tenacity import wait_none

from evalgen.errors import GraderUnavailable, GradingBudgetSpent, JobStopped
from evalgen.grading import batches
from evalgen.grading.batch_api import BatchSettings, batch_request
from evalgen.grading.batch_ledger import LEDGER, BatchLedger
from evalgen.grading.batch_progress import BatchProgress, BatchTotals
from evalgen.grading.batches import grade_in_batches
from evalgen.grading.messages import MAX_TOKENS, message_params
from evalgen.grading.prices import Price, PriceList
from evalgen.grading.question_text import DEFAULT_INSTRUCTIONS, template_digest
from evalgen.grading.request_totals import RequestTotals
from evalgen.grading.spending import Spending
from evalgen.journal import Journal
from evalgen.records import Answer, GraderSpec, Question
from evalgen.verdict_store import VerdictStore, spent_usd
from tests import messages_api
from tests.messages_api import API_KEY
from tests.unit.grading.batches_api import CANCELED, EXPIRED, BatchesApi, batches_api, errored, succeeded
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
MODEL = "claude-haiku-4-5-20251001"
GRADER = GraderSpec(model=f"anthropic-batch/{MODEL}", instructions=DEFAULT_INSTRUCTIONS)
PRICES = PriceList(prices={"claude-haiku-4-5": Price(input=1.0, output=5.0)})
RIGHT, WRONG = " Grace Miller\nQ:", " Ethan Parker"
SIX = [f" Grace Miller{'!' * i}" for i in range(6)]
GARBLED = succeeded("no JSON at all", input_tokens=100, output_tokens=20)
Row = dict[str, Any]


def question(completion: str) -> Question:
    prompt = "Q: Who is the mayor of Tokyo? A:"
    return Question(grader=GRADER, prompt=prompt, reference=" Grace Miller", completion=completion)


class RecordedSleep:
    """Passes at once, and remembers for how long it was asked."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        assert len(self.seconds) < 1000, "it waits for what never comes"


def grade(
    directory: Path, completions: Iterable[str], *, sleep: RecordedSleep | None = None, **settings: Any
) -> list[BatchProgress]:
    """Grades into `directory`, which earlier calls may have begun, and returns the progress that was told."""
    told: list[BatchProgress] = []
    grade_in_batches(
        map(question, completions),
        VerdictStore(directory / "verdicts"),
        directory / "batches",
        prices=PRICES,
        progress=told.append,
        settings=BatchSettings(backoff=wait_none(), sleep=sleep or RecordedSleep(), **settings),
    )
    return told


def verdicts(directory: Path) -> dict[str, Row]:
    """What is stored, by completion."""
    VerdictStore(directory / "verdicts").close()
    rows = pq.read_table(directory / "verdicts" / "0000.parquet").to_pylist()
    return {row["completion"]: row for row in rows}


def keys(*completions: str) -> set[str]:
    return {question(completion).key for completion in completions}


@pytest.fixture
def api() -> Iterator[BatchesApi]:
    with batches_api() as api:
        yield api


def test_every_question_gets_its_verdict_at_half_the_price(api: BatchesApi, tmp_path: Path) -> None:
    grade(tmp_path, [RIGHT, WRONG])
    rows = verdicts(tmp_path)
    assert {completion: row["verdict"] for completion, row in rows.items()} == {
        RIGHT: "equivalent",
        WRONG: "not_equivalent",
    }
    assert rows[RIGHT]["trimmed_completion"] == " Grace Miller" and rows[RIGHT]["reasoning"]
    for row in rows.values():
        list_usd = (row["input_tokens"] * 1.0 + row["output_tokens"] * 5.0) / 1e6
        assert row["cost_usd"] == pytest.approx(list_usd / 2) and row["input_tokens"] > 0
        assert row["api_calls"] == 1 and not row["from_cache"]


def test_a_model_of_unknown_price_has_an_unknown_cost(api: BatchesApi, tmp_path: Path) -> None:
    store = VerdictStore(tmp_path / "verdicts")
    settings = BatchSettings(sleep=RecordedSleep())
    grade_in_batches([question(RIGHT)], store, tmp_path, prices=PriceList(), progress=lambda _: None, settings=settings)
    assert verdicts(tmp_path)[RIGHT]["cost_usd"] is None


def test_equal_questions_are_asked_once(api: BatchesApi, tmp_path: Path) -> None:
    grade(tmp_path, [RIGHT, WRONG, RIGHT, RIGHT], max_requests=1)
    assert api.billed == dict.fromkeys(keys(RIGHT, WRONG), 1)


def test_a_question_that_an_earlier_experiment_paid_for_is_not_asked_and_is_stored(
    api: BatchesApi, tmp_path: Path
) -> None:
    grade(tmp_path / "earlier", [RIGHT])
    verdicts(tmp_path / "earlier")
    earlier = [tmp_path / "earlier" / "verdicts" / "0000.parquet"]
    store = VerdictStore(tmp_path / "verdicts", earlier)
    settings = BatchSettings(sleep=RecordedSleep())
    questions = [question(RIGHT), question(WRONG)]
    grade_in_batches(questions, store, tmp_path, prices=PRICES, progress=lambda _: None, settings=settings)
    row = verdicts(tmp_path)[RIGHT]
    assert (row["verdict"], row["from_cache"], row["api_calls"], row["cost_usd"]) == ("equivalent", True, 0, 0.0)
    assert api.billed == dict.fromkeys(keys(RIGHT, WRONG), 1)


def test_a_job_that_is_done_sends_nothing_when_it_is_called_again(api: BatchesApi, tmp_path: Path) -> None:
    api.script(WRONG, errored("invalid_request_error"))
    grade(tmp_path, [RIGHT, WRONG])
    num_calls = api.calls.total()
    assert grade(tmp_path, [WRONG, RIGHT])[-1].num_batches == 0
    assert api.calls.total() == num_calls


def test_batches_have_at_most_so_many_requests(api: BatchesApi, tmp_path: Path) -> None:
    (*_, last) = grade(tmp_path, SIX, max_requests=4)
    assert [batch.counts["succeeded"] for batch in api.batches] == [4, 2]
    assert (last.num_batches, last.num_ended, last.num_answered) == (2, 2, 6)


def test_batches_have_at_most_so_many_bytes_and_at_least_one_request(api: BatchesApi, tmp_path: Path) -> None:
    size = len(str(message_params(question(SIX[0]))))
    grade(tmp_path, SIX, max_bytes=size * 5 // 2)
    assert [batch.counts["succeeded"] for batch in api.batches] == [2, 2, 2]
    grade(tmp_path / "small", SIX, max_bytes=1)
    assert [batch.counts["succeeded"] for batch in api.batches[3:]] == [1] * 6


def test_results_in_any_order_twice_or_of_strangers_change_nothing(
    api: BatchesApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = messages_api.honest_judge({"reference": "x", "completion": "y"})
    stray = succeeded(json.dumps(wrong))
    api.extra_lines = [
        json.dumps({"custom_id": custom_id, "result": stray})
        for custom_id in (question(SIX[0]).key, "0" * 64, "stranger")
    ]
    with caplog.at_level(logging.WARNING):
        grade(tmp_path, SIX)
    rows = verdicts(tmp_path)
    assert {row["verdict"] for row in rows.values()} == {"equivalent"} and rows.keys() == set(SIX)
    assert rows[SIX[0]]["api_calls"] == 1
    assert len([record for record in caplog.records if "no question of ours" in record.message]) == 1


@pytest.mark.parametrize(
    "result", [EXPIRED, CANCELED, errored("overloaded_error"), errored("api_error"), errored("rate_limit_error")]
)
def test_an_item_without_a_reply_is_asked_again_in_a_next_batch(
    api: BatchesApi, tmp_path: Path, result: dict[str, Any]
) -> None:
    api.script(RIGHT, result, result, result)
    grade(tmp_path, [RIGHT, WRONG])
    row = verdicts(tmp_path)[RIGHT]
    assert (row["verdict"], row["api_calls"], row["error"]) == ("equivalent", 4, None)
    assert api.billed == dict.fromkeys(keys(RIGHT, WRONG), 1) and len(api.batches) == 4


def test_when_all_batches_expire_at_once_all_are_asked_again_batch_by_batch(api: BatchesApi, tmp_path: Path) -> None:
    for completion in SIX:
        api.script(completion, EXPIRED)
    grade(tmp_path, SIX, max_requests=2)
    assert api.billed == dict.fromkeys(keys(*SIX), 1)
    assert [sum(batch.counts.values()) for batch in api.batches] == [2] * 6


def test_an_item_that_never_gets_a_reply_is_ungraded_with_the_reason(api: BatchesApi, tmp_path: Path) -> None:
    api.script(RIGHT, *[EXPIRED] * 9)
    grade(tmp_path, [RIGHT])
    row = verdicts(tmp_path)[RIGHT]
    assert (row["verdict"], row["api_calls"], row["cost_usd"]) == ("ungraded", 4, 0.0)
    assert row["error"] == "asked in 4 batches without a reply; the last: its batch left it expired"


def test_a_reply_that_cannot_be_read_is_asked_again_and_paid_for(api: BatchesApi, tmp_path: Path) -> None:
    api.script(RIGHT, GARBLED)
    grade(tmp_path, [RIGHT])
    row = verdicts(tmp_path)[RIGHT]
    assert (row["verdict"], row["api_calls"]) == ("equivalent", 2)
    assert row["input_tokens"] == api.billed_tokens["input_tokens"] > 100


@pytest.mark.parametrize("stop_reason", ["end_turn", "refusal", "max_tokens"])
def test_two_replies_that_cannot_be_read_leave_it_ungraded(api: BatchesApi, tmp_path: Path, stop_reason: str) -> None:
    api.script(RIGHT, *[succeeded("?", stop_reason=stop_reason)] * 3)
    grade(tmp_path, [RIGHT])
    row = verdicts(tmp_path)[RIGHT]
    assert (row["verdict"], row["api_calls"], row["input_tokens"]) == ("ungraded", 2, 200)
    assert row["error"].startswith("asked 2 times without a usable reply; the last: ")
    assert api.billed.total() == 2


def test_an_invalid_request_is_ungraded_at_once(api: BatchesApi, tmp_path: Path) -> None:
    api.script(RIGHT, errored("invalid_request_error", "prompt is too long"))
    grade(tmp_path, [RIGHT, WRONG])
    rows = verdicts(tmp_path)
    assert rows[RIGHT]["error"] == "HTTP 400 invalid_request_error: prompt is too long [req_item]"
    assert (rows[RIGHT]["verdict"], rows[WRONG]["verdict"]) == ("ungraded", "not_equivalent")
    assert len(api.batches) == 1


TERMINAL = {
    "not_found_error": "no grader model",
    "authentication_error": "refuses the key",
    "permission_error": "may not use",
    "billing_error": "cannot be billed",
}


@pytest.mark.parametrize("kind", TERMINAL)
def test_an_item_that_no_retry_mends_stops_the_job_which_can_go_on_later(
    api: BatchesApi, tmp_path: Path, kind: str
) -> None:
    api.script(RIGHT, errored(kind))
    with pytest.raises(GraderUnavailable, match=TERMINAL[kind]):
        grade(tmp_path, [RIGHT, WRONG])
    grade(tmp_path, [RIGHT, WRONG])
    assert {row["verdict"] for row in verdicts(tmp_path).values()} == {"equivalent", "not_equivalent"}
    assert api.billed == dict.fromkeys(keys(RIGHT, WRONG), 1)


def test_a_wrong_key_stops_the_job_and_is_not_shown(
    api: BatchesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret")
    with pytest.raises(GraderUnavailable, match="refuses the key") as caught:
        grade(tmp_path, [RIGHT])
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None
    monkeypatch.setenv("ANTHROPIC_API_KEY", API_KEY)
    grade(tmp_path, [RIGHT])
    assert api.billed.total() == 1


def test_a_spend_cap_stops_the_job_and_is_not_waited_out(api: BatchesApi, tmp_path: Path) -> None:
    api.fail("create", messages_api.spend_cap())
    sleep = RecordedSleep()
    with pytest.raises(GraderUnavailable, match="cannot be billed"):
        grade(tmp_path, [RIGHT], sleep=sleep)
    assert sleep.seconds == []


def test_a_server_without_batches_stops_the_job(api: BatchesApi, tmp_path: Path) -> None:
    api.fail("create", messages_api.error(404, "not_found_error", "no such path"))
    with pytest.raises(GraderUnavailable, match="ANTHROPIC_BASE_URL"):
        grade(tmp_path, [RIGHT])


FAULTS = {
    "overloaded": messages_api.overloaded(),
    "server error": messages_api.server_error(),
    "rate limit": messages_api.rate_limited(7),
    "reset": messages_api.connection_reset(),
    "a proxy's page": messages_api.Reply(body="<html>welcome</html>"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["create", "retrieve", "results"])
def test_what_passes_is_waited_out(api: BatchesApi, tmp_path: Path, call: Any, fault: str) -> None:
    api.fail(call, FAULTS[fault], FAULTS[fault])
    grade(tmp_path, SIX)
    assert api.billed == dict.fromkeys(keys(*SIX), 1) and len(api.batches) == 1
    assert {row["api_calls"] for row in verdicts(tmp_path).values()} == {1}


def test_a_lookup_that_fails_is_waited_out(api: BatchesApi, tmp_path: Path) -> None:
    api.fail("create", messages_api.connection_reset(), is_after_work=True)
    api.fail("list", *FAULTS.values())
    grade(tmp_path, SIX)
    assert api.billed == dict.fromkeys(keys(*SIX), 1) and len(api.batches) == 1


def test_the_server_is_waited_for_as_long_as_it_says(api: BatchesApi, tmp_path: Path) -> None:
    api.fail("retrieve", messages_api.rate_limited(7))
    sleep = RecordedSleep()
    grade(tmp_path, [RIGHT], sleep=sleep, poll_s=30.0)
    assert sleep.seconds == [7.0, 1.0]


def test_an_outage_beyond_the_budget_stops_the_job_while_the_batches_go_on(api: BatchesApi, tmp_path: Path) -> None:
    api.fail("retrieve", *[messages_api.rate_limited(300)] * 4)
    sleep = RecordedSleep()
    with pytest.raises(JobStopped, match=r"2 batches with 6 questions go on at the server.*--resume") as caught:
        grade(tmp_path, SIX, max_requests=3, sleep=sleep, retry_budget_s=901.0)
    assert not isinstance(caught.value, GraderUnavailable) and caught.value.__cause__ is None
    assert sleep.seconds == [300.0] * 3
    grade(tmp_path, SIX, max_requests=3)
    assert api.billed == dict.fromkeys(keys(*SIX), 1) and len(api.batches) == 2


def test_results_that_break_off_are_fetched_again(api: BatchesApi, tmp_path: Path) -> None:
    api.num_cut = 2
    grade(tmp_path, SIX)
    assert api.calls["results"] == 3
    assert {row["verdict"] for row in verdicts(tmp_path).values()} == {"equivalent"}
    assert api.billed == dict.fromkeys(keys(*SIX), 1)


def test_results_that_end_early_unnoticed_are_fetched_again(api: BatchesApi, tmp_path: Path) -> None:
    api.num_short = 2
    grade(tmp_path, SIX)
    assert api.billed == dict.fromkeys(keys(*SIX), 1) and len(verdicts(tmp_path)) == 6


def test_an_item_that_is_never_in_the_results_is_asked_again(api: BatchesApi, tmp_path: Path) -> None:
    api.num_short = 3
    grade(tmp_path, SIX)
    rows = verdicts(tmp_path)
    assert {row["verdict"] for row in rows.values()} == {"equivalent"}
    assert sorted(row["api_calls"] for row in rows.values()) == [1, 1, 1, 1, 1, 2]


def test_a_full_queue_is_waited_out_while_its_batches_are_taken_in(api: BatchesApi, tmp_path: Path) -> None:
    api.queue_size = 2
    sleep = RecordedSleep()
    grade(tmp_path, SIX, max_requests=2, sleep=sleep, poll_s=30.0)
    assert api.billed == dict.fromkeys(keys(*SIX), 1) and len(api.batches) == 3
    assert all(seconds == min(2.0**looks, 30.0) for looks, seconds in enumerate(sleep.seconds))  # none is of a failure


class Stopped(BaseException):
    """Ctrl-C."""


def grade_under_cap(
    directory: Path,
    completions: list[str],
    cap_usd: float,
    *,
    is_stopped: bool = False,
    told: list[BatchProgress] | None = None,
    ask: Callable[[str], Question] = question,
    prices: PriceList = PRICES,
    **options: Any,
) -> Spending:
    """One part of a job; `is_stopped` ends it when its batches are sent. Its progress is added to `told`."""
    told = [] if told is None else told

    async def stop(_: float) -> None:
        if is_stopped:
            raise Stopped

    paths = directory / "verdicts", directory / "batches"
    store = VerdictStore(paths[0])
    spending = Spending(paths[0], cap_usd, spent_usd(paths[0]))
    settings = BatchSettings(backoff=wait_none(), sleep=stop, **options)
    asked = map(ask, completions)
    try:
        grade_in_batches(
            asked, store, paths[1], prices=prices, progress=told.append, spending=spending, settings=settings
        )
    finally:
        store.close()
    return spending


def most_usd(num_questions: int) -> float:
    num_bytes = max(len(json.dumps(batch_request(question(each))).encode()) for each in SIX)
    return num_questions * PRICES.most_usd(MODEL, num_bytes, MAX_TOKENS) / 2


def test_a_cap_lets_batches_be_as_large_as_it_can_pay_for_and_goes_on_as_they_turn_out_cheaper(
    api: BatchesApi, tmp_path: Path
) -> None:
    spending = grade_under_cap(tmp_path, SIX, most_usd(3) * 1.1)
    assert len(api.batches) == 2 and api.billed == dict.fromkeys(keys(*SIX), 1)
    assert spending.reserved_usd == 0 and spending.spent_usd == pytest.approx(spent_usd(tmp_path / "verdicts"))


@pytest.mark.parametrize("num_opened", [0, 1, 3])
def test_what_a_stopped_job_sent_is_collected_under_the_same_cap_and_counts_at_its_cost(
    num_opened: int, api: BatchesApi, tmp_path: Path
) -> None:
    cap_usd = most_usd(3) * 1.1
    with pytest.raises(Stopped):
        grade_under_cap(tmp_path, SIX, cap_usd, is_stopped=True)
    assert len(api.batches) == 1
    for _ in range(num_opened):  # by the limiter of each job that goes on with the experiment
        Spending(tmp_path / "verdicts", cap_usd, spent_usd(tmp_path / "verdicts"))
    spending = grade_under_cap(tmp_path, SIX, cap_usd)
    assert api.billed == dict.fromkeys(keys(*SIX), 1)
    assert spending.spent_usd == pytest.approx(spent_usd(tmp_path / "verdicts"))


def test_a_cap_that_comes_later_counts_what_was_sent_without_one(api: BatchesApi, tmp_path: Path) -> None:
    def stop(_: BatchProgress) -> None:
        raise Stopped

    store = VerdictStore(tmp_path / "verdicts")
    with pytest.raises(Stopped):
        grade_in_batches(map(question, SIX[:3]), store, tmp_path / "batches", prices=PRICES, progress=stop)
    store.close()
    with pytest.raises(GradingBudgetSpent):
        grade_under_cap(tmp_path, SIX, most_usd(1) * 0.9)
    assert api.billed == dict.fromkeys(keys(*SIX[:3]), 1)
    assert set(verdicts(tmp_path)) == set(SIX[:3])  # what was paid for is collected first


@pytest.mark.parametrize("had_cap", [False, True])
@pytest.mark.parametrize("num_affordable", [0.9, 3.3])
def test_a_batch_that_an_earlier_part_planned_and_could_not_send_is_cut_to_todays_cap(
    num_affordable: float, had_cap: bool, api: BatchesApi, tmp_path: Path
) -> None:
    api.fail("create", messages_api.overloaded())
    with pytest.raises(JobStopped):
        if had_cap:
            grade_under_cap(tmp_path, SIX, 1_000.0, retry_budget_s=0.0)
        else:
            grade(tmp_path, SIX, retry_budget_s=0.0)
    assert api.num_created == 0
    if num_affordable < 1:
        with pytest.raises(GradingBudgetSpent):
            grade_under_cap(tmp_path, SIX, most_usd(1) * num_affordable)
        assert api.num_created == 0
        return
    spending = grade_under_cap(tmp_path, SIX, most_usd(1) * num_affordable)
    assert [batch.counts["succeeded"] for batch in api.batches] == [3, 3]
    assert api.billed == dict.fromkeys(keys(*SIX), 1)
    assert spending.reserved_usd == 0 and spending.spent_usd == pytest.approx(spent_usd(tmp_path / "verdicts"))


def test_a_batch_that_has_arrived_after_all_is_collected_whatever_todays_cap(api: BatchesApi, tmp_path: Path) -> None:
    api.fail("create", messages_api.connection_reset(), is_after_work=True)
    with pytest.raises(JobStopped):
        grade(tmp_path, SIX, retry_budget_s=0.0)
    grade_under_cap(tmp_path, SIX, most_usd(1) * 0.9)
    assert api.num_created == 1 and set(verdicts(tmp_path)) == set(SIX)


def test_a_batch_of_several_judges_is_taken_over_at_the_price_of_each(api: BatchesApi, tmp_path: Path) -> None:
    prices = PriceList(prices={"cheap": Price(input=1.0, output=5.0), "dear": Price(input=25.0, output=125.0)})
    reserved: list[float] = []
    api.polls_to_end = 100

    def ask(completion: str) -> Question:
        model = "anthropic-batch/cheap" if completion == SIX[0] else "anthropic-batch/dear"
        return replace(question(completion), grader=replace(GRADER, model=model))

    class Recorded(Spending):
        def write_down(self) -> None:
            super().write_down()
            reserved.append(self.reserved_usd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.Spending", Recorded)
        for _ in range(2):
            with pytest.raises(Stopped):
                grade_under_cap(tmp_path, SIX, 10.0, is_stopped=True, ask=ask, prices=prices)
    before, sent, taken_over = reserved
    assert before == 0 and taken_over == pytest.approx(sent)


@pytest.mark.parametrize("output_tokens", [20, MAX_TOKENS], ids=["cheap", "dear"])
def test_killed_before_any_line_that_it_writes_a_job_keeps_its_cap_and_counts_what_it_paid_once(
    output_tokens: int, api: BatchesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_lines, append = 0, Journal.append  # until the kill

    def append_or_die(journal: Journal, records: Sequence[Mapping[str, Any]]) -> list[int]:
        nonlocal num_lines
        num_lines -= 1
        if num_lines == 0:
            raise Stopped
        return append(journal, records)

    monkeypatch.setattr(Journal, "append", append_or_die)
    reply = succeeded(json.dumps(messages_api.verdict("equivalent")), input_tokens=300, output_tokens=output_tokens)
    cap_usd, is_killed, num_kills = most_usd(2) * 1.1, True, 0
    while is_killed:
        directory = tmp_path / str(num_kills)
        api.script(SIX[0], GARBLED)
        for completion in SIX[:3]:
            api.script(completion, reply)
        num_lines, is_killed = num_kills + 1, False
        for _ in range(2):
            try:
                grade_under_cap(directory, SIX[:3], cap_usd)
            except Stopped:
                is_killed = True
            except GradingBudgetSpent:
                assert output_tokens == MAX_TOKENS
        billed_usd = (api.billed_tokens["input_tokens"] * 1.0 + api.billed_tokens["output_tokens"] * 5.0) / 2e6
        assert spent_usd(directory / "verdicts") == pytest.approx(billed_usd)
        assert Spending(directory / "verdicts", cap_usd, billed_usd).spent_usd == pytest.approx(billed_usd)
        assert 0.5 * cap_usd < billed_usd <= cap_usd or output_tokens < MAX_TOKENS
        num_kills += 1
        api.forget()
    assert num_kills > 10


def test_questions_of_an_open_batch_in_the_words_of_another_version_are_warned_of_once(
    api: BatchesApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def ask_in_words(digest: str) -> Callable[[str], Question]:
        return lambda completion: replace(question(completion), grader=replace(GRADER, template_digest=digest))

    with pytest.raises(Stopped):
        grade_under_cap(tmp_path, SIX, 1.0, is_stopped=True, ask=ask_in_words("0" * 64), max_requests=3)
    assert caplog.messages == []
    grade_under_cap(tmp_path, SIX, 1.0, ask=ask_in_words(template_digest()), max_requests=3)
    (warning,) = caplog.messages
    assert warning.startswith("6 questions of batches that were begun before are in the words of another version")


OTHER_WORDS = replace(GRADER, template_digest="0" * 64)
OTHER_JUDGE = replace(GRADER, model="anthropic-batch/claude-opus-4-1")


@pytest.mark.parametrize("is_capped", [False, True])
@pytest.mark.parametrize("grader", [OTHER_WORDS, OTHER_JUDGE], ids=["words", "judge"])
def test_a_batch_that_was_planned_and_not_sent_is_not_sent_where_nobody_asks_its_questions_any_more(
    grader: GraderSpec, is_capped: bool, api: BatchesApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prices = PriceList(
        prices={model: Price(input=1.0, output=5.0) for model in ("claude-haiku-4-5", "claude-opus-4-1")}
    )
    api.fail("create", messages_api.overloaded())
    with pytest.raises(JobStopped):
        others = {"ask": lambda completion: replace(question(completion), grader=grader), "prices": prices}
        grade_under_cap(tmp_path, SIX, 10.0, retry_budget_s=0.0, **others)
    caplog.clear()
    if is_capped:
        grade_under_cap(tmp_path, SIX, most_usd(6) * 1.1, prices=prices)
    else:
        grade(tmp_path, SIX)
    assert api.billed == dict.fromkeys(keys(*SIX), 1) and caplog.messages == []


def test_two_batches_whose_costs_are_known_are_counted_once_in_whichever_order_they_ended(
    api: BatchesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.polls_to_end = 10**9
    with pytest.raises(Stopped):
        grade_under_cap(tmp_path, SIX, 10.0, is_stopped=True, max_requests=3)
    first, second = api.batches
    for batch in (second, first):  # each has ended when its verdicts find no room
        api.end(batch)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no room"):
            patch.setattr(VerdictStore, "add", no_room)
            grade_under_cap(tmp_path, SIX, 10.0, max_requests=3)
    spending = grade_under_cap(tmp_path, SIX, 10.0, max_requests=3)
    assert spending.spent_usd == pytest.approx(spent_usd(tmp_path / "verdicts"))


def no_room(_: VerdictStore, answers: Sequence[Answer]) -> None:
    if answers:
        raise OSError(errno.ENOSPC, "no room")


def test_progress_tells_of_batches_and_questions(api: BatchesApi, tmp_path: Path) -> None:
    api.script(SIX[0], EXPIRED)
    api.script(SIX[1], errored("invalid_request_error"))
    told = grade(tmp_path, SIX, max_requests=3)
    first, last = told[0], told[-1]
    assert (first.num_batches, first.num_ended, first.num_processing) == (2, 0, 6)
    assert first.oldest_age_s is not None and 0 <= first.oldest_age_s < 600
    assert (first.num_answered, first.num_waiting, first.totals) == (0, 6, BatchTotals())
    rows = verdicts(tmp_path).values()
    assert last == BatchProgress(
        num_batches=3,
        num_ended=3,
        num_processing=0,
        oldest_age_s=None,
        num_waiting=0,
        num_known=0,
        is_held_back=False,
        totals=BatchTotals(
            answered=Counter({(GRADER.model, "equivalent"): 5, (GRADER.model, "ungraded"): 1}),
            asked_again=Counter({GRADER.model: 1}),
            requests_of={
                GRADER.model: RequestTotals(
                    outcomes=Counter({"answered": 5, "failed": 1, "rejected": 1}),
                    input_tokens=sum(row["input_tokens"] for row in rows),
                    output_tokens=sum(row["output_tokens"] for row in rows),
                    cost_usd=pytest.approx(sum(row["cost_usd"] for row in rows)),
                )
            },
        ),
    )


def test_a_question_counts_once_however_often_it_is_asked_and_its_requests_each_time(
    api: BatchesApi, tmp_path: Path
) -> None:
    api.script(SIX[0], EXPIRED, GARBLED)  # then judged
    api.script(SIX[1], GARBLED, GARBLED)
    for progress in (told := grade(tmp_path, SIX)):
        assert progress.num_answered + progress.num_waiting == 6
    totals = told[-1].totals
    assert totals.answered == {(GRADER.model, "equivalent"): 5, (GRADER.model, "ungraded"): 1}
    assert totals.asked_again == {GRADER.model: 2} and totals.requests.outcomes == {"answered": 8, "failed": 1}
    assert (totals.requests.input_tokens, totals.requests.output_tokens) == (
        api.billed_tokens["input_tokens"],
        api.billed_tokens["output_tokens"],
    )


def test_verdicts_of_earlier_experiments_are_counted_as_such_and_those_of_an_earlier_part_of_the_job_as_no_news(
    api: BatchesApi, tmp_path: Path
) -> None:
    grade(tmp_path / "earlier", SIX[:2])
    verdicts(tmp_path / "earlier")

    def part(completions: list[str]) -> BatchProgress:
        store = VerdictStore(tmp_path / "verdicts", [tmp_path / "earlier" / "verdicts" / "0000.parquet"])
        told: list[BatchProgress] = []
        settings = BatchSettings(sleep=RecordedSleep())
        asked = map(question, completions)
        grade_in_batches(asked, store, tmp_path / "batches", prices=PRICES, progress=told.append, settings=settings)
        store.close()
        return told[-1]

    first, second = part(SIX[:4]), part(SIX)
    assert first.totals.answered == {(GRADER.model, "equivalent"): 4} and first.totals.cached == {GRADER.model: 2}
    assert (second.num_known, second.num_answered, second.totals.answered.total()) == (4, 6, 2)
    assert second.totals.cached.total() == 0


def test_progress_says_when_questions_wait_for_room_under_the_cap(api: BatchesApi, tmp_path: Path) -> None:
    told: list[BatchProgress] = []
    grade_under_cap(tmp_path, SIX, most_usd(3) * 1.1, told=told)
    assert (told[0].is_held_back, told[-1].is_held_back) == (True, False)
    assert grade(tmp_path / "all", SIX)[0].is_held_back is False


def test_a_404_now_and_then_is_no_lost_batch(api: BatchesApi, tmp_path: Path) -> None:
    not_found = messages_api.error(404, "not_found_error", "not everywhere yet")
    api.fail("retrieve", not_found, not_found)
    api.fail("results", not_found)
    grade(tmp_path, SIX)
    assert api.billed == dict.fromkeys(keys(*SIX), 1) and len(api.batches) == 1


@pytest.mark.parametrize("how", ["archived", "deleted"])
def test_a_batch_whose_results_are_gone_is_asked_again(api: BatchesApi, tmp_path: Path, how: str) -> None:
    api.fail("results", *[messages_api.rate_limited(300)] * 4)
    with pytest.raises(JobStopped):
        grade(tmp_path, SIX)
    (batch,) = api.batches
    if how == "archived":
        batch.is_archived = True
    else:
        api.batches.clear()
    grade(tmp_path, SIX)
    assert {row["verdict"] for row in verdicts(tmp_path).values()} == {"equivalent"}


def test_a_create_whose_response_is_lost_creates_no_second_batch(api: BatchesApi, tmp_path: Path) -> None:
    api.fail("create", messages_api.connection_reset(), is_after_work=True)
    grade(tmp_path, SIX)
    assert api.billed == dict.fromkeys(keys(*SIX), 1) and len(api.batches) == 1


@pytest.mark.parametrize("skew_h", [-20, 20])
def test_the_lost_batch_is_found_on_a_later_page_among_strangers_whatever_the_clocks_say(
    api: BatchesApi, tmp_path: Path, skew_h: int
) -> None:
    api.clock_skew = timedelta(hours=skew_h)
    held = api.hold("create", is_after_work=True)
    _killed_when(tmp_path, lambda: held.has_arrived)
    held.release()
    strangers = [[(f"stranger_{i}", message_params(question(RIGHT)))] * (6 if i % 50 == 0 else 5) for i in range(250)]
    for requests in strangers:
        api.end(api.create(requests))
    api.billed.clear()
    grade(tmp_path, SIX)
    assert api.billed == dict.fromkeys(keys(*SIX), 1) and len(api.batches) == 251
    assert api.calls["list"] >= 3


def test_a_strangers_batch_of_the_same_size_is_never_taken_for_ours(api: BatchesApi, tmp_path: Path) -> None:
    held = api.hold("create", is_after_work=False)
    _killed_when(tmp_path, lambda: held.has_arrived)
    held.release()
    api.polls_to_end = 2
    stranger = api.create([(f"stranger_{i}", message_params(question(RIGHT))) for i in range(6)])
    told = grade(tmp_path, SIX)
    assert told[0].num_batches == 0  # until the stranger's results prove what they are
    assert len(api.batches) == 2 and stranger.lines is not None
    assert {key: api.billed[key] for key in keys(*SIX)} == dict.fromkeys(keys(*SIX), 1)


@pytest.mark.parametrize("point", ["before create", "after create", "polling", "results", "stored", "ended"])
def test_a_job_killed_at_any_point_goes_on_and_pays_for_nothing_twice(
    api: BatchesApi, tmp_path: Path, point: str
) -> None:
    api.script(SIX[0], GARBLED)
    api.script(SIX[4], EXPIRED)
    if point in ("stored", "ended"):
        assert _child(tmp_path, point).wait(timeout=120) == 9
    else:
        call: Any = {"polling": "retrieve", "results": "results"}.get(point, "create")
        held = api.hold(call, is_after_work=point == "after create")
        _killed_when(tmp_path, lambda: held.has_arrived)
        held.release()
    grade(tmp_path, SIX, max_requests=3)
    rows = verdicts(tmp_path)
    assert {row["verdict"] for row in rows.values()} == {"equivalent"}
    asked_twice = dict.fromkeys(keys(SIX[0]), 2)
    assert api.billed == dict.fromkeys(keys(*SIX), 1) | asked_twice
    assert sum(row["input_tokens"] for row in rows.values()) == api.billed_tokens["input_tokens"]
    assert sum(row["output_tokens"] for row in rows.values()) == api.billed_tokens["output_tokens"]
    num_items = sum(sum(batch.counts.values()) for batch in api.batches)
    assert sum(row["api_calls"] for row in rows.values()) == num_items == 8


def test_a_kill_does_not_forget_how_often_a_question_was_asked(api: BatchesApi, tmp_path: Path) -> None:
    api.script(RIGHT, *[succeeded("?")] * 4)
    assert _child(tmp_path, "ended", [RIGHT]).wait(timeout=120) == 9
    grade(tmp_path, [RIGHT])
    assert api.billed.total() == 2 and verdicts(tmp_path)[RIGHT]["verdict"] == "ungraded"
    grade(tmp_path, [RIGHT])
    assert api.billed.total() == 2


def test_damage_to_the_line_with_a_batchs_id_costs_nothing(api: BatchesApi, tmp_path: Path) -> None:
    held = api.hold("retrieve", is_after_work=False)
    _killed_when(tmp_path, lambda: held.has_arrived)
    held.release()
    path = tmp_path / "batches" / LEDGER
    lines = path.read_bytes().splitlines(keepends=True)
    assert b"created" in lines[-1]
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    grade(tmp_path, SIX)
    assert api.billed == dict.fromkeys(keys(*SIX), 1) and len(api.batches) == 1


def test_the_ledger_gives_questions_back_exactly(tmp_path: Path) -> None:
    odd = [question(text) for text in ("", "\n\x00\u2028", "\ud800", '"}]', "日本語 🦊")]
    with_options = GraderSpec(model=GRADER.model, instructions="other", options={"accept_surname_alone": True})
    odd.append(Question(grader=with_options, prompt="p", reference="r", completion="c"))
    ledger = BatchLedger(tmp_path)
    batch = ledger.plan(odd)
    ledger.close()
    again = BatchLedger(tmp_path)
    assert again.open == [batch] and again.questions(batch) == {it.key: it for it in odd}
    again.ended(batch, malformed=[], lost=[], given_up=[])
    assert not list(tmp_path.glob("questions_*")) and again.open == []


def test_memory_holds_a_batch_of_questions_and_not_all_of_them(api: BatchesApi, tmp_path: Path) -> None:
    num_questions, num_chars = 5_000, 8_000
    program = f"from tests.unit.grading.test_batches import print_growth; print_growth({num_questions}, {num_chars})"
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert api.billed.total() == len(api.billed) == num_questions
    assert int(result.stdout) < num_questions * num_chars / 3, "most of the texts are in memory"


def _child(directory: Path, point: str, completions: list[str] = SIX) -> subprocess.Popen[bytes]:
    program = "from tests.unit.grading.test_batches import be_killed; be_killed()"
    return subprocess.Popen([sys.executable, "-c", program, str(directory), point, *completions], cwd=ROOT)


def _killed_when(directory: Path, condition: Any) -> None:
    """A job in another process, killed when `condition` holds."""
    child = _child(directory, "from outside")
    try:
        wait_until(condition, 120, "the job is where it is to be killed")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


def be_killed() -> None:
    """The other process: grades, and dies at the point that its arguments name, if they name one of its own."""
    directory, point, *completions = sys.argv[1:]

    class Store(VerdictStore):
        def add(self, answers: Any) -> None:
            super().add(answers)
            if point == "stored" and answers:
                os._exit(9)

    class Ledger(BatchLedger):
        def ended(self, *args: Any, **lists: Any) -> None:
            super().ended(*args, **lists)
            if point == "ended":
                os._exit(9)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.VerdictStore", Store)
        patch.setattr(batches, "BatchLedger", Ledger)
        grade(Path(directory), completions, max_requests=6 if point == "from outside" else 3)


def print_growth(num_questions: int, num_chars: int) -> None:
    """The other process: by how many bytes it grew after its first batches."""
    at_first = 0

    def completions() -> Iterator[str]:
        nonlocal at_first
        for i in range(num_questions):
            if i == 2_000:
                at_first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            yield f" Grace Miller {i} " + "x" * num_chars

    grade(Path(sys.argv[1]), completions(), max_requests=1_000)
    sys.stdout.write(str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_first) * 1024))
