"""The attention over shared prompts: in grids that are not mostly empty, and equal to attention by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgen.sampling.shared_prompts import (
    NEGLIGIBLE_TOKENS,
    SMALL_GROUP,
    Grids,
    _attended,
    _joined,
    _Prompts,
    _scores,
)

HEADS_WITH_KEYS, SHARED, WIDTH = 2, 3, 4


def prompts_of(num_prompts: int, length: int) -> _Prompts:
    generator = torch.Generator().manual_seed(num_prompts)
    keys, values = torch.randn(2, num_prompts, HEADS_WITH_KEYS, length, WIDTH, generator=generator, dtype=torch.float64)
    mask = torch.ones(num_prompts, length, dtype=torch.long)
    return _Prompts(keys=(keys,), values=(values,), mask=mask)


@settings(max_examples=60, derandomize=True)
@given(counts=st.lists(st.integers(0, 300), min_size=1, max_size=8).filter(any), length=st.sampled_from([1, 2000]))
def test_less_than_half_of_the_grids_is_empty_if_that_is_much(counts: list[int], length: int) -> None:
    prompt_rows = np.repeat(np.arange(len(counts)), counts)
    grids = Grids(prompts_of(len(counts), length), prompt_rows)
    num_places = sum(grid.num_groups * grid.num_places for grid in grids.grids)
    num_empty = num_places - sum(counts)
    assert num_empty >= 0
    assert num_empty * length <= NEGLIGIBLE_TOKENS["cpu"] or num_empty < sum(counts) + 2 * SMALL_GROUP * len(counts)
    assert len(grids.grids) == 1 or length > 1


@settings(max_examples=40, derandomize=True)
@given(
    counts=st.lists(st.sampled_from([0, 1, 2, 15, 16, 31, 33, 70]), min_size=1, max_size=6).filter(any),
    length=st.sampled_from([1, 2, 5, 9, 4000]),  # the last is long enough for several grids
    num_drawn=st.integers(1, 3),
    window=st.sampled_from([1, 2, 5, 12, 3999, 5000]),
    softcap=st.sampled_from([None, 2.0]),
    seed=st.integers(0, 99),
)
def test_attention_in_two_parts_is_attention_by_definition(
    counts: list[int], length: int, num_drawn: int, window: int, softcap: float | None, seed: int
) -> None:
    """A window may leave all of the prompt behind; the last drawn token is always seen."""
    generator = torch.Generator().manual_seed(seed)
    prompt_rows = np.repeat(np.arange(len(counts)), counts)
    rows, prompts = torch.from_numpy(prompt_rows), prompts_of(len(counts), length)
    shape = (len(rows), HEADS_WITH_KEYS, num_drawn, WIDTH)
    keys, values = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    query = torch.randn(len(rows), HEADS_WITH_KEYS, SHARED, WIDTH, generator=generator, dtype=torch.float64)
    seen = torch.arange(length + num_drawn) >= length + num_drawn - window
    mask = seen.expand(len(rows), 1, 1, -1)
    bias = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    over_prompt = Grids(prompts, prompt_rows).attend(0, query, bias[..., :length], 0.5, softcap)
    over_drawn = _attended(_scores(query, keys, 0.5, softcap), bias[..., length:], values)
    all_keys = torch.cat([prompts.keys[0][rows], keys], 2)
    scores = query @ all_keys.transpose(-1, -2) * 0.5
    scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    expected = weights @ torch.cat([prompts.values[0][rows], values], 2)
    assert _joined(over_prompt, over_drawn) == pytest.approx(expected, abs=1e-12)
