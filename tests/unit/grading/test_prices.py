"""Costs come from a file with a date; what is not in it is unknown and never zero."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalgen.errors import ConfigError
from evalgen.grading.messages import MAX_TOKENS, message_params
from evalgen.grading.prices import PriceList, load_prices
from tests.claude_calls import question


def test_the_shipped_prices_have_a_date_and_the_default_judge() -> None:
    prices = load_prices()
    assert prices.as_of >= "2026-01-01"
    assert prices.cost_usd("claude-haiku-4-5-20251001", 1_000_000, 1_000_000) == pytest.approx(6.0)
    assert prices.of("claude-haiku-4-5") == prices.of("claude-haiku-4-5-20251001")


@pytest.mark.parametrize("model", ["claude-haiku-9", "", "claude-haiku-4-5-2025", "claude-haiku-4-5-20251001-x"])
def test_a_model_that_is_not_listed_has_no_price(model: str) -> None:
    assert load_prices().cost_usd(model, 10, 10) is None
    assert PriceList().cost_usd("claude-haiku-4-5", 10, 10) is None


@given(st.text(max_size=200), st.integers(0, MAX_TOKENS))
def test_no_request_costs_more_than_is_set_aside_for_it(completion: str, output_tokens: int) -> None:
    """A token is at least a byte, whatever the tokenizer."""
    params = message_params(question(completion))
    num_bytes = len(str(params).encode("utf-8", "surrogatepass"))
    prices = load_prices()
    most = prices.most_usd("claude-haiku-4-5", num_bytes, MAX_TOKENS)
    assert prices.cost_usd("claude-haiku-4-5", num_bytes, output_tokens) < most  # type: ignore[operator]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("as_of: 2026-01-01", "usd_per_million_tokens"),
        ("usd_per_million_tokens: {}", "as_of"),
        ("as_of: soon\nusd_per_million_tokens: {}", "as_of"),
        ("as_of: 2026-01-01\nusd_per_million_tokens: {m: {input: -1, output: 1}}", "input"),
        ("as_of: 2026-01-01\nusd_per_million_tokens: {m: {input: 1}}", "output"),
        ("as_of: 2026-01-01\nusd_per_million_tokens: {m: 3}", "usd_per_million_tokens.m"),
        ("as_of: 2026-01-01\nusd_per_million_tokens: {}\nextra: 1", "extra"),
        ("- a list", "prices_path"),
        ("{", "not valid YAML"),
        ("", "prices_path"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=problem) as error:
        load_prices(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_prices(tmp_path / "none.yaml")
