"""The cap on what grading costs holds, whatever becomes of a request or of the process that counts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgen.errors import GradingBudgetSpent
from evalgen.grading import spending as module
from evalgen.grading.breaker import Breaker
from evalgen.grading.limiter_records import Demand, Outcome
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.grading.spending import Spending
from evalgen.records import Answer, Verdict
from evalgen.verdict_store import VerdictStore, spent_usd
from tests.claude_calls import question


def test_what_is_in_flight_counts_in_full_and_what_is_settled_at_its_cost(tmp_path: Path) -> None:
    spending = Spending(tmp_path, cap_usd=1.0, paid_usd=0.0)
    assert spending.fits(1.0)
    spending.reserve(1, 0.6)
    assert not spending.fits(0.5)
    spending.settle(1, 0.1)
    assert spending.fits(0.9) and spending.spent_usd == pytest.approx(0.1)


def test_a_request_whose_cost_nobody_knows_counts_as_all_that_was_set_aside(tmp_path: Path) -> None:
    spending = Spending(tmp_path, cap_usd=1.0, paid_usd=0.0)
    spending.reserve(1, 0.6)
    spending.settle(1, None)
    assert spending.spent_usd == pytest.approx(0.6)


def test_with_nothing_in_flight_a_request_that_does_not_fit_ends_the_job_with_the_figures(tmp_path: Path) -> None:
    spending = Spending(tmp_path, cap_usd=1.0, paid_usd=0.99)
    with pytest.raises(GradingBudgetSpent, match=r"\$0\.9900 of --max_grading_cost_usd 1, .* up to \$0\.0200"):
        spending.fits(0.02)


def test_a_process_that_was_killed_with_requests_in_flight_has_paid_for_them(tmp_path: Path) -> None:
    first = Spending(tmp_path, cap_usd=1.0, paid_usd=0.0)
    first.reserve(1, 0.3)
    first.settle(1, 0.2)
    first.reserve(2, 0.5)
    first.write_down()
    # killed here
    second = Spending(tmp_path, cap_usd=1.0, paid_usd=0.2)
    assert second.spent_usd == pytest.approx(0.7)
    said = r"has cost \$0\.2000 of .* earlier parts of the job had in flight may cost \$0\.5000 more, and the next"
    with pytest.raises(GradingBudgetSpent, match=said):
        second.fits(0.4)
    assert not Spending(tmp_path, cap_usd=1.0, paid_usd=5.0).reserved_usd
    with pytest.raises(GradingBudgetSpent):
        Spending(tmp_path, cap_usd=1.0, paid_usd=5.0).fits(0.01)


def test_a_job_that_has_ended_has_nothing_in_flight(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = RateLimiter(
            max_connections=5, spending=Spending(tmp_path, cap_usd=1.0, paid_usd=0.0), breaker=Breaker(900)
        )
        for _ in range(3):
            leases = await gate.acquire([Demand(topic="", num_bytes=1, most_usd=0.1)] * 5, "")
            await gate.settle([Outcome(lease=lease, kind="answered", cost_usd=0.01) for lease in leases])

    asyncio.run(scenario())
    assert Spending(tmp_path, cap_usd=1.0, paid_usd=0.0).spent_usd == pytest.approx(0.11)


def test_verdicts_of_a_part_without_a_cap_count(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.add([Answer(question=question("a"), verdict=Verdict(kind="equivalent", cost_usd=0.25))])
    store.add([Answer(question=question("b"), verdict=Verdict(kind="ungraded", cost_usd=0.5))])
    store.add([Answer(question=question("c"), verdict=Verdict(kind="ungraded", cost_usd=None))])
    assert spent_usd(tmp_path) == pytest.approx(0.75)
    store.close()
    assert spent_usd(tmp_path) == pytest.approx(0.75)
    again = VerdictStore(tmp_path)
    again.add([Answer(question=question("d"), verdict=Verdict(kind="equivalent", cost_usd=0.25))])
    assert spent_usd(tmp_path) == pytest.approx(1.0)


def test_the_ledger_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 10)
    spending = Spending(tmp_path, cap_usd=100.0, paid_usd=0.0)
    for lease in range(100):
        spending.reserve(lease, 0.01)
        spending.write_down()
        spending.settle(lease, 0.01)
    spending.close()
    assert len((tmp_path / module.LEDGER).read_text().splitlines()) <= 11
    assert Spending(tmp_path, cap_usd=100.0, paid_usd=0.0).spent_usd == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(
    cap=st.floats(0, 2),
    requests=st.lists(st.tuples(st.floats(0.001, 0.5), st.floats(0, 1), st.booleans()), max_size=40),
    connections=st.integers(1, 8),
)
def test_what_is_charged_never_exceeds_the_cap(
    cap: float, requests: list[tuple[float, float, bool]], connections: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each request is charged some share of what it may cost at most; of some, nobody learns how much."""
    charged = 0.0

    async def scenario() -> None:
        spending = Spending(tmp_path_factory.mktemp("verdicts"), cap, 0.0)
        gate = RateLimiter(max_connections=connections, spending=spending, breaker=Breaker(900))

        async def one(most_usd: float, share: float, is_known: bool) -> None:
            nonlocal charged
            demand = Demand(topic="", num_bytes=1, most_usd=most_usd)
            (lease,) = await gate.acquire([demand], "")
            charged += share * most_usd
            await asyncio.sleep(0)
            cost = share * most_usd if is_known else None
            await gate.settle([Outcome(lease=lease, kind="answered", cost_usd=cost)])

        await asyncio.gather(*(one(*request) for request in requests), return_exceptions=True)

    asyncio.run(scenario())
    assert charged <= cap + 1e-6
