"""A question may be asked several times: the majority is its verdict, and how far votes agree is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalgen.grading.votes import Agreement, majority
from evalgen.records import Verdict, VerdictKind

KINDS: tuple[VerdictKind, ...] = ("equivalent", "not_equivalent", "ungraded")
E, N, U = KINDS


def vote(kind: VerdictKind, trimmed: str | None = None, reasoning: str = "") -> Verdict:
    return Verdict(kind=kind, trimmed_completion=trimmed, reasoning=reasoning, api_calls=1, cost_usd=0.5)


def test_the_majority_decides_with_its_own_reasons_and_its_most_frequent_trim() -> None:
    votes = [vote(N, reasoning="no"), vote(E, " a", "yes"), vote(E, " ab", "yes too"), vote(E, " ab"), vote(E)]
    verdict = majority(votes)
    assert (verdict.kind, verdict.trimmed_completion, verdict.reasoning) == (E, " ab", "yes")
    assert verdict.votes == (N, E, E, E, E)
    assert (verdict.api_calls, verdict.cost_usd) == (5, 2.5)


def test_without_a_majority_there_is_no_verdict() -> None:
    verdict = majority([vote(E), vote(N), Verdict(kind=U, error="refused", cost_usd=None)])
    assert (verdict.kind, verdict.trimmed_completion, verdict.cost_usd) == (U, None, None)
    assert verdict.error == "no majority among 3 votes: equivalent, not_equivalent, ungraded (refused)"


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=9))
def test_a_verdict_has_more_than_half_of_all_votes_or_is_none(kinds: list[VerdictKind]) -> None:
    verdict = majority([vote(kind) for kind in kinds])
    if verdict.kind == U:
        assert max(kinds.count(E), kinds.count(N)) * 2 <= len(kinds)
    else:
        assert kinds.count(verdict.kind) * 2 > len(kinds)


def alpha(*units: tuple[VerdictKind, ...]) -> float | None:
    agreement = Agreement()
    for unit in units:
        agreement.add(unit)
    return agreement.alpha


def test_alpha_is_that_of_krippendorffs_own_example_of_two_observers_and_binary_data() -> None:
    """Krippendorff (2011), section A: ten units, alpha 0.095."""
    first, second = "0100000010", "1110010000"
    code: dict[str, VerdictKind] = {"0": N, "1": E}
    assert alpha(*((code[a], code[b]) for a, b in zip(first, second, strict=True))) == pytest.approx(0.095, abs=5e-4)


def test_missing_votes_are_left_out() -> None:
    assert alpha((E, E, N), (N, N, N)) == alpha((E, E, U, N), (N, U, N, N), (E, U, U), ())


def test_perfect_agreement_is_one_and_votes_all_alike_say_nothing() -> None:
    assert alpha((E, E, E), (N, N, N)) == 1
    assert alpha((E, E, E), (E, E, E)) is None
    assert alpha() is None


@given(st.lists(st.lists(st.sampled_from(KINDS), max_size=7).map(tuple), max_size=30))
def test_alpha_is_at_most_one_and_does_not_depend_on_order_or_names(units: list[tuple[VerdictKind, ...]]) -> None:
    value = alpha(*units)
    swapped: dict[VerdictKind, VerdictKind] = {E: N, N: E, U: U}
    assert value is None or value <= 1 + 1e-12
    assert value == pytest.approx(alpha(*(tuple(swapped[vote] for vote in unit[::-1]) for unit in units[::-1])))
