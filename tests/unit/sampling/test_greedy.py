"""`is_greedy`: every drawn token, EOS included, was the model's most probable one of those that can be drawn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, PreTrainedTokenizerFast

from evalgen.records import SampledSequence
from evalgen.sampling import law as sampling_law
from evalgen.sampling.enumeration import enumerate_completions
from evalgen.sampling.independent import sample_independently
from evalgen.sampling.law import Distributions, next_token
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.tree import sample_tree
from tests.unit.sampling.plain import plain_draws, plain_greedy
from tests.unit.tiny import EOS, draws_of, law, loaded, mayor_prompt, query, random_model, unit_of

QUERIES = [query(p) for p in (mayor_prompt("Tokyo"), "a", "Alice Chen died on")]
Greedy = dict[tuple[str, tuple[int, ...]], bool]


@pytest.fixture(scope="module")
def peaked(tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    """Some draws are greedy and some not; some ids cannot be drawn, and some draws end early."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = random_model(LlamaConfig(vocab_size=len(tokenizer) + 40, **shape), seed=9)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    return loaded(model, tokenizer, eos_ids=(EOS, 40, 41, 42, 43))


def greedy(sequences: Iterable[SampledSequence]) -> Greedy:
    return {(sequence.prompt_id, sequence.token_ids): sequence.is_greedy for sequence in sequences}


@settings(max_examples=25, derandomize=True)
@given(
    temperature=st.sampled_from([0.1, 0.6, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 3]),
    top_p=st.sampled_from([1.0, 0.7]),
    min_p=st.sampled_from([0.0, 1.0]),
    do_sample=st.booleans(),
    max_new_tokens=st.integers(1, 5),
    first_draw=st.sampled_from([0, 17]),
    seed=st.integers(0, 2**40),
    budget_bytes=st.sampled_from([None, 0]),
)
def test_both_samplers_say_what_the_definition_says_under_every_law(
    peaked: LoadedModel, first_draw: int, seed: int, budget_bytes: int | None, **changed: Any
) -> None:
    unit = unit_of(QUERIES, law=law(**changed), first_draw=first_draw, num_draws=6, seed=seed)
    tree = greedy(sample_tree(peaked, unit, budget_bytes).sequences)
    assert tree == greedy(sample_independently(peaked, unit).sequences)
    prompts = {q.id: q.prompt for q in QUERIES}
    assert tree == {(prompt, ids): plain_greedy(peaked, prompts[prompt], ids) for prompt, ids in tree}


def test_the_samplers_agree_with_plain_draws(peaked: LoadedModel, tiny: LoadedModel) -> None:
    """And draws are of both kinds, so that the tests here can fail. All that no draw gave is greedy."""
    for it in (peaked, tiny):
        unit = unit_of(QUERIES, law=law(temperature=0.5, max_new_tokens=4), num_draws=30)
        plain = plain_draws(it, unit)
        prompts = {q.id: q.prompt for q in QUERIES}
        expected = {(p, ids): plain_greedy(it, prompts[p], ids) for (p, _), (ids, _) in plain.items()}
        assert {True, False} == set(expected.values())
        for sampler in (sample_tree, sample_independently):
            result = sampler(it, unit)
            assert draws_of(result) == plain
            assert greedy(s for s in result.sequences if s.generation_indices) == expected
            assert all(s.is_greedy for s in result.sequences if not s.generation_indices)


@pytest.mark.parametrize("stop_strings", [(), ("e", "ce Mi")])
@pytest.mark.parametrize("max_new_tokens", [1, 3, 20])
@pytest.mark.parametrize("sampler", [sample_tree, sample_independently])
def test_it_is_the_one_completion_that_is_drawn_without_sampling_and_known_even_if_no_draw_gives_it(
    sampler: Any, peaked: LoadedModel, tiny: LoadedModel, stop_strings: tuple[str, ...], max_new_tokens: int
) -> None:
    num_draws_of_greedy = []
    for it, temperature in product((peaked, tiny), (0.15, 3.0)):
        sampling = law(temperature=temperature, max_new_tokens=max_new_tokens, stop_strings=stop_strings)
        unit = unit_of(QUERIES, law=sampling, num_draws=20, first_draw=7)
        unsampled = sampler(it, replace(unit, law=replace(sampling, do_sample=False))).sequences
        assert len(unsampled) == len(QUERIES) and all(sequence.is_greedy for sequence in unsampled)
        assert {len(sequence.generation_indices) for sequence in unsampled} == {20}
        found = [sequence for sequence in sampler(it, unit).sequences if sequence.is_greedy]
        assert [(s.prompt_id, s.token_ids, s.finish_reason) for s in found] == [
            (s.prompt_id, s.token_ids, s.finish_reason) for s in unsampled
        ]
        num_draws_of_greedy += [len(sequence.generation_indices) for sequence in found]
    assert 0 in num_draws_of_greedy and any(num_draws_of_greedy), "all or none were drawn: nothing is tested"


def test_the_enumerated_say_it_too(peaked: LoadedModel) -> None:
    sampling = law(temperature=0.7, max_new_tokens=3)
    unit = unit_of(QUERIES, law=sampling, sampler="enumerate", min_probability=0.003, num_draws=0)
    found = greedy(enumerate_completions(peaked, unit).sequences)
    unsampled = sample_tree(peaked, unit_of(QUERIES, law=replace(sampling, do_sample=False))).sequences
    assert {of for of, is_greedy in found.items() if is_greedy} == {(s.prompt_id, s.token_ids) for s in unsampled}
    assert len(found) > 3 * len(unsampled)


def test_of_equal_logits_the_lowest_id_that_can_be_drawn_is_greedy(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    model = random_model(config)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    it = replace(loaded(model, tokenizer, eos_ids=()), undrawable=torch.tensor([0, 1, 3]))
    unit = unit_of(QUERIES[:1], law=law(top_k=0, max_new_tokens=1), num_draws=3_000)
    for sampler in (sample_tree, sample_independently):
        of_ids = greedy(sampler(it, unit).sequences)
        assert [ids for (_, ids), is_greedy in of_ids.items() if is_greedy] == [(2,)] and len(of_ids) > 100
    unsampled = sample_tree(it, replace(unit, law=law(do_sample=False, max_new_tokens=4))).sequences
    assert greedy(unsampled) == {(QUERIES[0].id, (2, 2, 2, 2)): True}


@settings(max_examples=200, derandomize=True)
@given(
    logits=st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=6),
    undrawable=st.sets(st.integers(0, 4), max_size=4),
    asked=st.data(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    changed=st.sampled_from([{}, {"top_p": 0.3}, {"top_k": 1}, {"min_p": 1.0}, {"do_sample": False}]),
    chunk_logits=st.sampled_from([1, 10, 2**20]),
)
def test_the_greedy_draw_takes_the_most_probable_token_that_can_be_drawn_however_rows_are_cut(
    logits: list[list[int]],
    undrawable: set[int],
    asked: st.DataObject,
    dtype: torch.dtype,
    changed: dict[str, Any],
    chunk_logits: int,
) -> None:
    """Few values, so that many are equal: of these top-p and top-k may leave any one."""
    rows = np.array(asked.draw(st.lists(st.integers(0, len(logits) - 1)).map(sorted)), np.int64)
    is_greedy = np.array(asked.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), bool)
    scores, masked = torch.tensor(logits, dtype=dtype), torch.tensor(sorted(undrawable), dtype=torch.long)
    numbers = np.full(len(rows), 0.999)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sampling_law.CHUNK_LOGITS, "cpu", chunk_logits)
        distributions = Distributions(scores, law(**changed), masked)
        picks = distributions.pick(rows, numbers, np.flatnonzero(is_greedy))
        by_number = distributions.pick(rows, numbers)
    found, otherwise = (np.repeat(it.tokens.ids, it.num_draws)[np.argsort(it.order)] for it in (picks, by_number))
    can_be_drawn = next_token(scores, law(**changed), masked).law_weights.flatten(1)[:, :5] > 0
    for draw, row in enumerate(rows.tolist()):
        drawable = [token for token in range(5) if can_be_drawn[row, token]]
        most_probable = max(drawable, key=lambda token: logits[row][token])
        assert found[draw] == (most_probable if is_greedy[draw] else otherwise[draw])
        assert logits[row][most_probable] == max(logits[row][token] for token in range(5) if token not in undrawable)
    assert scores.tolist() == logits, "the logits stay as they were"
