"""Enumeration against brute force: all completions that are probable enough, no other, and how probable they are."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log

import pytest
import torch
from transformers import LlamaConfig, PreTrainedTokenizerFast

from evalgen.records import SamplingLaw, SamplingUnit
from evalgen.sampling.enumeration import enumerate_completions
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.nodes import distinct_prefixes
from evalgen.sampling.tree import sample_tree
from evalgen.tokenization import decode, encode_prompt
from tests.unit.tiny import EOS, law, loaded, mayor_prompt, query, random_model, unit_of

QUERIES = [query("a"), query(mayor_prompt("Tokyo")), query("Alice Chen died on")]
LAWS = {
    "plain": law(max_new_tokens=4),
    "cold": law(temperature=0.3, max_new_tokens=6),
    "top-k and top-p": law(temperature=1.2, top_k=6, top_p=0.9, max_new_tokens=4),
    "min-p": law(min_p=0.2, max_new_tokens=5),
    "stop strings": law(temperature=0.8, max_new_tokens=5, stop_strings=("e", "on")),
}


@pytest.fixture(scope="module")
def peaked(tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = random_model(LlamaConfig(vocab_size=len(tokenizer) + 5, **shape), seed=9)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.5)
    return loaded(model, tokenizer, eos_ids=(EOS, 40, 41, 42, 43))


def enumeration_of(sampling: SamplingLaw, least: float, **changed: object) -> SamplingUnit:
    return unit_of(QUERIES, law=sampling, sampler="enumerate", min_probability=least, num_draws=0, **changed)


def brute_force(
    it: LoadedModel, unit: SamplingUnit, prompt: list[int], tokens: tuple[int, ...] = (), mass: float = 0.0
) -> Iterator[tuple[tuple[int, ...], str, float]]:
    """Token ids, finish reason and log-probability of each completion that is probable enough, depth first."""
    with torch.no_grad():
        logits = it.model(torch.tensor([[*prompt, *tokens]])).logits[0, -1].double()
    logits[it.undrawable] = -torch.inf
    p = torch.softmax(logits / unit.law.temperature, -1)
    if unit.law.top_k:
        p = torch.where(p >= p.sort(descending=True).values[unit.law.top_k - 1], p, 0.0)
        p = p / p.sum()
    if unit.law.top_p < 1:
        order = p.argsort(descending=True)
        p[order[p[order].cumsum(-1) - p[order] >= unit.law.top_p]] = 0.0
        p = p / p.sum()
    p = torch.where(p >= unit.law.min_p * p.max(), p, 0.0)
    p = p / p.sum()
    for token in p.nonzero()[:, 0].tolist():
        total = mass + log(float(p[token]))
        path = (*tokens, token)
        assert unit.min_probability is not None
        if exp(total) < unit.min_probability:
            continue
        if token in it.eos_ids:
            yield path, "eos", total
        elif any(stop in decode(it.tokenizer, path) for stop in unit.law.stop_strings):
            yield path, "stop", total
        elif len(path) == unit.law.max_new_tokens:
            yield path, "length", total
        else:
            yield from brute_force(it, unit, prompt, path, total)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("budget_bytes", [None, 100_000])
def test_exactly_the_completions_that_are_probable_enough_are_found(
    peaked: LoadedModel, name: str, budget_bytes: int | None
) -> None:
    unit = enumeration_of(LAWS[name], 0.002)
    found = enumerate_completions(peaked, unit, budget_bytes).sequences
    for asked in QUERIES:
        prompt = encode_prompt(peaked.tokenizer, asked.prompt)
        expected = {ids: (reason, mass) for ids, reason, mass in brute_force(peaked, unit, prompt)}
        ours = {s.token_ids: (s.finish_reason, s.logprob_sampling) for s in found if s.prompt_id == asked.id}
        assert {ids: reason for ids, (reason, _) in ours.items()} == {ids: r for ids, (r, _) in expected.items()}
        assert len(ours) >= 3
        for ids, (_, mass) in ours.items():
            assert mass == pytest.approx(expected[ids][1], abs=1e-4)


def test_the_probabilities_are_those_with_which_completions_are_drawn(peaked: LoadedModel) -> None:
    unit = enumeration_of(law(temperature=0.6, max_new_tokens=3), 0.01)
    num_draws = 20_000
    drawn = sample_tree(peaked, unit_of(QUERIES, law=unit.law, num_draws=num_draws))
    counts = {(s.prompt_id, s.token_ids): len(s.generation_indices) for s in drawn.sequences}
    for sequence in enumerate_completions(peaked, unit).sequences:
        p = exp(sequence.logprob_sampling)
        deviation = (num_draws * p * (1 - p)) ** 0.5
        assert abs(counts[sequence.prompt_id, sequence.token_ids] - num_draws * p) < 5 * deviation


def test_rows_stand_by_prompt_and_then_by_falling_probability(peaked: LoadedModel) -> None:
    sequences = enumerate_completions(peaked, enumeration_of(law(max_new_tokens=3), 0.001)).sequences
    order = [([q.id for q in QUERIES].index(s.prompt_id), -s.logprob_sampling) for s in sequences]
    assert order == sorted(order)
    assert all(s.generation_indices == () for s in sequences)


@pytest.mark.parametrize("least", [1e-4, 0.003, 0.1, 0.5])
def test_there_are_at_most_as_many_as_the_bound_says(peaked: LoadedModel, least: float) -> None:
    result = enumerate_completions(peaked, enumeration_of(law(max_new_tokens=5), least))
    for asked in QUERIES:
        masses = [exp(s.logprob_sampling) for s in result.sequences if s.prompt_id == asked.id]
        assert len(masses) <= 1 / least
        assert sum(masses) <= 1 + 1e-6 and all(mass >= least * (1 - 1e-6) for mass in masses)


def test_a_certain_completion_is_found_at_probability_one(peaked: LoadedModel) -> None:
    unit = enumeration_of(law(temperature=0.001, max_new_tokens=3), 1.0)
    assert {s.prompt_id for s in enumerate_completions(peaked, unit).sequences} == {q.id for q in QUERIES}


def test_the_model_sees_every_prefix_that_is_probable_enough_once(peaked: LoadedModel) -> None:
    """Those of which all continuations are too improbable are among them, though no completion begins with them."""
    found = [enumerate_completions(peaked, enumeration_of(law(max_new_tokens=length), 0.01)) for length in (1, 2, 3, 4)]
    prefixes = [sum(s.finish_reason == "length" for s in result.sequences) for result in found[:-1]]
    assert found[-1].model_evaluations == len(QUERIES) + sum(prefixes)
    assert found[-1].model_evaluations > distinct_prefixes(found[-1].sequences)
