"""What the rows of a prompt weigh and which contain each other, against definitions that are slow and plain."""

from __future__ import annotations

import math
import random
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgen.weights import (
    UnweighedRow,
    first_extensions,
    normalized,
    prefix_free,
    shortest_starts,
    weighed,
)

Ids = tuple[int, ...]
SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=5).map(tuple), max_size=12)


def is_longer_start(longer: Ids, start: Ids) -> bool:
    return len(longer) > len(start) and longer[: len(start)] == start


def rows_of(
    sequences: list[Ids], log_masses: list[float], counts: list[int | None] | None = None
) -> list[UnweighedRow]:
    counts = counts or [1] * len(sequences)
    return [
        UnweighedRow(
            columns={"id": f"gen_{n}", "sample_count": count, "generation_idx": n, "completion": f"text {n}"},
            mass_ids=ids,
            is_drawn=True,
            log_mass=mass,
        )
        for n, (ids, mass, count) in enumerate(zip(sequences, log_masses, counts, strict=True))
    ]


@settings(max_examples=300, derandomize=True)
@given(sequences=SEQUENCES)
def test_an_extension_is_the_first_longer_row_that_begins_with_a_row(sequences: list[Ids]) -> None:
    """Also of rows with equal ids, as rows of equal draws are."""
    expected = [
        next((place for place, other in enumerate(sequences) if is_longer_start(other, ids)), None) for ids in sequences
    ]
    assert first_extensions(sequences) == expected


@settings(max_examples=300, derandomize=True)
@given(sequences=SEQUENCES)
def test_the_shortest_start_is_the_shortest_of_all_that_a_sequence_begins_with(sequences: list[Ids]) -> None:
    distinct = list(dict.fromkeys(sequences))
    for ids, place in zip(distinct, shortest_starts(distinct), strict=True):
        starts = [other for other in distinct if other == ids or is_longer_start(ids, other)]
        assert distinct[place] == min(starts, key=len)


def test_a_sequence_that_stands_twice_has_no_place_of_its_own() -> None:
    with pytest.raises(AssertionError, match="stands twice"):
        shortest_starts([(1,), (1,)])


@settings(max_examples=300, derandomize=True)
@given(sequences=SEQUENCES, data=st.data())
def test_an_exclusive_set_is_prefix_free_and_loses_no_draw(sequences: list[Ids], data: st.DataObject) -> None:
    distinct = list(dict.fromkeys(sequences))
    counts: list[int | None] = [data.draw(st.integers(1, 1000)) for _ in distinct]
    kept = prefix_free(rows_of(distinct, [0.0] * len(distinct), counts))
    ids = [row.mass_ids for row in kept]
    assert not any(is_longer_start(longer, start) for longer in ids for start in ids)
    assert all(any(of == start or is_longer_start(of, start) for start in ids) for of in distinct), "all are covered"
    order = [row.columns["generation_idx"] for row in kept]
    assert order == sorted(order)
    for row in kept:
        covered = [count for of, count in zip(distinct, counts, strict=True) if of[: len(row.mass_ids)] == row.mass_ids]
        assert row.columns["sample_count"] == sum(count for count in covered if count is not None)
    assert prefix_free(kept) == kept


def test_enumerated_rows_have_no_counts_to_add_up() -> None:
    kept = prefix_free(rows_of([(1,), (1, 2)], [0.0, 0.0], [None, None]))
    assert [(row.columns["id"], row.columns["sample_count"]) for row in kept] == [("gen_0", None)]


def test_rows_whose_text_ends_inside_one_token_have_one_probability_which_counts_once() -> None:
    """ " Jacob Turner" as drawn, and two cuts inside its last token, which were encoded again."""
    drawn, cut, shorter, other = (
        UnweighedRow(
            columns={"id": text, "sample_count": 10, "completion": text}, mass_ids=ids, is_drawn=is_drawn, log_mass=mass
        )
        for text, ids, is_drawn, mass in (
            (" Jacob Turner", (1, 2), True, -1.0),
            (" Jacob Turn", (1, 2), False, -1.0),
            (" Jacob Tur", (1, 2), False, -1.0),
            (" J. Turner", (3,), True, -2.0),
        )
    )
    rows = weighed([other, shorter, cut, drawn], exclusive=False)
    assert [row["is_prefix_of"] for row in rows] == [None, " Jacob Turn", " Jacob Turner", None]
    kept = weighed([other, shorter, cut, drawn], exclusive=True)
    assert [(row["id"], row["sample_count"]) for row in kept] == [(" J. Turner", 10), (" Jacob Turner", 30)]
    assert [row["weight"] for row in kept] == pytest.approx(normalized([-2.0, -1.0]))
    without_drawn = prefix_free([other, cut, shorter])
    assert [row.columns["id"] for row in without_drawn] == [" J. Turner", " Jacob Tur"]


@settings(max_examples=300, derandomize=True)
@given(log_masses=st.lists(st.floats(-30, 0), min_size=1, max_size=20), shift=st.sampled_from([0.0, -700.0, -1e6]))
def test_weights_are_shares_of_the_probability_however_small_it_is(log_masses: list[float], shift: float) -> None:
    shifted = [mass + shift for mass in log_masses]
    exact = [Fraction(math.exp(mass - shift)) for mass in shifted]  # of what is left of the digits after the shift
    weights = normalized(shifted)
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12)
    assert weights == pytest.approx([float(mass / sum(exact)) for mass in exact], rel=1e-12)


def test_no_rows_weigh_nothing() -> None:
    assert normalized([]) == [] and weighed([], exclusive=False) == weighed([], exclusive=True) == []


def test_rows_name_the_row_that_goes_on_where_they_end() -> None:
    sequences = [(5, 6, 7), (5,), (8,), (5, 6)]
    rows = weighed(rows_of(sequences, [-1.0, -0.25, -2.0, -0.5]), exclusive=False)
    assert [row["is_prefix_of"] for row in rows] == [None, "gen_0", None, "gen_0"]
    assert [row["id"] for row in rows] == ["gen_0", "gen_1", "gen_2", "gen_3"]
    whole = math.exp(-1) + math.exp(-0.25) + math.exp(-2) + math.exp(-0.5)
    assert [row["weight"] for row in rows] == pytest.approx([math.exp(it) / whole for it in (-1, -0.25, -2, -0.5)])


def test_an_exclusive_set_has_its_weights_among_itself() -> None:
    sequences = [(5, 6, 7), (5,), (8,), (5, 6)]
    rows = weighed(rows_of(sequences, [-1.0, -0.25, -2.0, -0.5], [10, 3, 2, 1]), exclusive=True)
    assert [(row["id"], row["sample_count"], row["is_prefix_of"]) for row in rows] == [
        ("gen_1", 14, None),
        ("gen_2", 2, None),
    ]
    whole = math.exp(-0.25) + math.exp(-2)
    assert [row["weight"] for row in rows] == pytest.approx([math.exp(-0.25) / whole, math.exp(-2) / whole])


def test_an_empty_completion_is_the_start_of_all_others() -> None:
    rows = weighed(rows_of([(1, 2), ()], [-1.0, 0.0]), exclusive=False)
    assert [row["is_prefix_of"] for row in rows] == [None, "gen_0"]
    assert [row["id"] for row in weighed(rows_of([(1, 2), ()], [-1.0, 0.0]), exclusive=True)] == ["gen_1"]


def test_a_prompt_with_a_hundred_thousand_rows_takes_seconds_and_its_weights_sum_to_one() -> None:
    """Quadratic, it would take an hour."""
    chance = random.Random(0)
    sequences = list({tuple(chance.choices(range(30), k=chance.randint(1, 10))) for _ in range(130_000)})
    rows = rows_of(sequences, [chance.uniform(-2000, -100) for _ in sequences])
    start = time.perf_counter()
    kept = weighed(rows, exclusive=False)
    few = weighed(rows, exclusive=True)
    assert time.perf_counter() - start < 20
    assert len(kept) == len(sequences) > 100_000 and len(few) < len(kept)
    for some in (kept, few):
        assert math.fsum(row["weight"] for row in some) == pytest.approx(1, abs=1e-12)
        assert sum(row["sample_count"] for row in some) == len(sequences)
