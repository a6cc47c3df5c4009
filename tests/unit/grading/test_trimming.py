"""A trim is a prefix of what the model wrote, or it is nothing."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalgen.grading.trimming import valid_trim

SEED = " Grace Miller\nQ:"


@pytest.mark.parametrize(
    ("completion", "proposed", "kept"),
    [
        (SEED, " Grace Miller", " Grace Miller"),
        (SEED, "Grace Miller", " Grace Miller"),
        (SEED, " Grace Miller\n", " Grace Miller\n"),
        (" March 15, 1987, at the", "March 15, 1987", " March 15, 1987"),
        ("Miller.", "Miller", "Miller"),
        (" São Paulo 東京 x", "São Paulo 東京", " São Paulo 東京"),
    ],
)
def test_a_prefix_is_kept_and_one_missing_space_put_back(completion: str, proposed: str, kept: str) -> None:
    assert valid_trim(completion, proposed) == kept


@pytest.mark.parametrize("proposed", [None, "", " ", "\n\t ", SEED, SEED[1:]])
def test_nothing_blank_or_whole_is_no_trim_and_no_cause_for_warning(
    proposed: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert valid_trim(SEED, proposed) is None
    assert not caplog.records


@pytest.mark.parametrize(
    "proposed",
    [
        "Miller",
        "grace miller",
        " Grace Miller.",
        " Grace  Miller",
        " Grace Miller\nQ: Who",
        "  Grace Miller",
        "\nGrace Miller",
        " Gra\u0441e",  # a Cyrillic letter that looks the same
    ],
)
def test_anything_else_is_ignored_with_a_warning(proposed: str, caplog: pytest.LogCaptureFixture) -> None:
    assert valid_trim(SEED, proposed) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_only_one_missing_space_is_put_back() -> None:
    assert valid_trim("  Grace Miller\nQ:", "Grace Miller") is None
    assert valid_trim("\tGrace Miller\nQ:", "Grace Miller") is None


@given(completion=st.text(), proposed=st.one_of(st.none(), st.text()))
def test_a_trim_is_always_a_shorter_prefix_with_text_in_it(completion: str, proposed: str | None) -> None:
    kept = valid_trim(completion, proposed)
    if kept is not None:
        assert completion.startswith(kept)
        assert len(kept) < len(completion)
        assert kept.strip()
        assert kept in (proposed, f" {proposed}")


@given(completion=st.text(min_size=1), data=st.data())
def test_every_proper_prefix_with_text_in_it_is_accepted(completion: str, data: st.DataObject) -> None:
    prefix = completion[: data.draw(st.integers(0, len(completion) - 1))]
    assert valid_trim(completion, prefix) == (prefix if prefix.strip() else None)
