"""The random numbers of draws: pinned for ever, uniform, and the same however they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgen.randomness import uniforms

PINNED_FIRST = [0.9798936810567299, 0.45523814689155795, 0.19497910818536124, 0.750966260497465, 0.021416317937434703]
PINNED_LATER = [0.8321723981876431, 0.8242944655801199]
PINNED_UNICODE = [0.6506545779337857]


def test_the_numbers_never_change() -> None:
    """A release that changes them makes every stored sample impossible to extend."""
    assert uniforms(42, ["prompt"], 0, 0, 5).tolist() == [PINNED_FIRST]
    assert uniforms(42, ["prompt"], 3, 7, 2).tolist() == [PINNED_LATER]
    assert uniforms(0, ["São Paulo é"], 0, 1000, 1).tolist() == [PINNED_UNICODE]


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**80),
    prompt_ids=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=3),
    depth=st.integers(0, 2000),
    first=st.integers(0, 3000),
    count=st.integers(1, 70),
)
def test_a_range_equals_its_numbers_one_at_a_time(
    seed: int, prompt_ids: list[str], depth: int, first: int, count: int
) -> None:
    together = uniforms(seed, prompt_ids, depth, first, count)
    assert together.shape == (len(prompt_ids), count) and together.dtype == np.float64
    assert ((together >= 0) & (together < 1)).all()
    draws = range(first, first + count)
    alone = [[uniforms(seed, [prompt_id], depth, draw, 1).item() for draw in draws] for prompt_id in prompt_ids]
    assert together.tolist() == alone


@pytest.mark.parametrize("changed", [(43, "p", 5), (42, "q", 5), (42, "p", 6), (42, "p\0", 5), (4, "2\0p", 5)])
def test_seed_prompt_and_depth_each_give_other_numbers(changed: tuple[int, str, int]) -> None:
    seed, prompt_id, depth = changed
    ours, theirs = uniforms(42, ["p"], 5, 0, 1000)[0], uniforms(seed, [prompt_id], depth, 0, 1000)[0]
    assert not np.isin(ours, theirs).any()
    assert abs(np.corrcoef(ours, theirs)[0, 1]) < 0.15


def test_draws_of_one_depth_are_not_those_of_the_next_depth_shifted() -> None:
    ours, next_depth = uniforms(42, ["p"], 0, 0, 4000), uniforms(42, ["p"], 1, 0, 4000)
    assert not np.isin(ours, next_depth).any()


@pytest.mark.parametrize("over", ["draws", "depths", "prompts", "seeds"])
def test_the_numbers_are_uniform(over: str) -> None:
    u = {
        "draws": lambda: uniforms(1, ["p"], 0, 0, 20_000),
        "depths": lambda: np.concatenate([uniforms(1, ["p"], depth, 0, 20) for depth in range(1000)]),
        "prompts": lambda: uniforms(1, [str(p) for p in range(1000)], 0, 0, 20),
        "seeds": lambda: np.concatenate([uniforms(seed, ["p"], 0, 0, 20) for seed in range(1000)]),
    }[over]().reshape(-1)
    counts = np.histogram(u, bins=100, range=(0, 1))[0]
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert chi_square < 99 + 4 * (2 * 99) ** 0.5
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.03
