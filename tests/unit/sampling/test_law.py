"""The sampling law against its definition, written again here from torch alone; and draws against exact enumeration."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from evalgen.errors import InputError
from evalgen.load_config import MIN_TEMPERATURE
from evalgen.randomness import uniforms
from evalgen.records import SamplingLaw
from evalgen.sampling.independent import sample_independently
from evalgen.sampling.law import Distributions, NextToken, next_token
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.tree import sample_tree
from tests.unit.tiny import EOS, draws_of, law, loaded, mayor_prompt, query, random_model, unit_of

LAWS = [
    law(),
    law(temperature=0.1),
    law(temperature=0.7, top_k=5),
    law(temperature=1.3, top_p=0.8),
    law(temperature=2.0, min_p=0.1),
    law(temperature=0.9, top_k=20, top_p=0.9, min_p=0.02),
    law(do_sample=False),
]


def probabilities(logits: Tensor, sampling: SamplingLaw, vocabulary_size: int) -> Tensor:
    """By definition, in float64: temperature, then the k best, then the smallest nucleus, then min-p."""
    scores = logits.double()[:vocabulary_size]
    if not sampling.do_sample:
        return torch.nn.functional.one_hot(scores.argmax(), vocabulary_size).double()
    p = torch.softmax(scores / sampling.temperature, -1)
    if sampling.top_k:
        p = torch.where(p >= p.sort(descending=True).values[: sampling.top_k][-1], p, 0.0)
        p = p / p.sum()
    if sampling.top_p < 1:
        order = p.argsort(descending=True)
        mass_before = p[order].cumsum(-1) - p[order]
        kept = order[mass_before < sampling.top_p]
        p = torch.zeros_like(p).scatter(0, kept, p[kept])
    return torch.where(p >= sampling.min_p * p.max(), p, 0.0) / torch.where(p >= sampling.min_p * p.max(), p, 0.0).sum()


@pytest.mark.parametrize("sampling", LAWS, ids=str)
def test_draws_and_log_probabilities_are_those_of_the_definition(tiny: LoadedModel, sampling: SamplingLaw) -> None:
    """One draw after the other with `model(...)` and torch; only the random numbers are the product's."""
    prompt = mayor_prompt("Tokyo")
    unit = unit_of([query(prompt, id="it")], law=sampling, num_draws=5, seed=11)
    result = sample_independently(tiny, unit)
    drawn = draws_of(result)
    for g in range(5):
        ids = [EOS, *tiny.tokenizer.encode(prompt, add_special_tokens=False)]
        tokens: list[int] = []
        logprobs, law_logprobs = [], []
        while len(tokens) < sampling.max_new_tokens and EOS not in tokens:
            with torch.no_grad():
                logits = tiny.model(torch.tensor([ids + tokens])).logits[0, -1]
            p = probabilities(logits, sampling, len(tiny.tokenizer))
            u = uniforms(11, ["it"], len(tokens), g, 1).item()
            token = int((p.cumsum(-1) > u).nonzero()[0])
            tokens.append(token)
            logprobs.append(float(logits.double().log_softmax(-1)[token]))
            law_logprobs.append(float(p[token].log()))
        assert drawn["it", g] == (tuple(tokens), "eos" if tokens[-1] == EOS else "length")
        sequence = next(s for s in result.sequences if g in s.generation_indices)
        assert sequence.token_logprobs == pytest.approx(logprobs, abs=1e-4)
        assert sequence.logprob == pytest.approx(sum(logprobs), abs=1e-4)
        assert sequence.token_logprobs_sampling == pytest.approx(law_logprobs, abs=1e-3)
        assert sequence.logprob_sampling == pytest.approx(sum(law_logprobs), abs=1e-3)


@pytest.mark.parametrize("sampling", [law(temperature=1.0, max_new_tokens=2), law(temperature=1.4, top_k=30)], ids=str)
def test_two_hundred_thousand_draws_follow_the_exact_distribution_of_two_tokens(
    tokenizer: PreTrainedTokenizerFast, sampling: SamplingLaw
) -> None:
    sampling = law(temperature=sampling.temperature, top_k=sampling.top_k, max_new_tokens=2)
    config = LlamaConfig(vocab_size=len(tokenizer) + 3, hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    it = loaded(random_model(config, seed=5), tokenizer, eos_ids=(EOS, 20, 21, 22))
    num_draws = 200_000
    drawn = Counter(
        ids for ids, _ in draws_of(sample_tree(it, unit_of([query("a")], law=sampling, num_draws=num_draws))).values()
    )
    expected = {ids: p * num_draws for ids, p in _enumerated(it, sampling).items()}
    assert sum(expected.values()) == pytest.approx(num_draws)
    assert set(drawn) <= set(expected)
    common = {ids for ids, count in expected.items() if count >= 5}
    rare = expected.keys() - common  # together one cell, unless a top-k leaves none
    cells = [(drawn[ids], expected[ids]) for ids in common]
    cells += [(sum(drawn[ids] for ids in rare), sum(expected[ids] for ids in rare))] if rare else []
    chi_square = sum((seen - due) ** 2 / due for seen, due in cells)
    degrees = len(cells) - 1
    assert degrees > 50
    assert abs(chi_square - degrees) < 4 * (2 * degrees) ** 0.5


def _enumerated(it: LoadedModel, sampling: SamplingLaw) -> dict[tuple[int, ...], float]:
    prompt = [EOS, *it.tokenizer.encode("a", add_special_tokens=False)]
    vocabulary = len(it.tokenizer)
    with torch.no_grad():
        first = probabilities(it.model(torch.tensor([prompt])).logits[0, -1], sampling, vocabulary)
        after = it.model(torch.tensor([[*prompt, token] for token in range(vocabulary)])).logits[:, -1]
    found: dict[tuple[int, ...], float] = {}
    for token in first.nonzero()[:, 0].tolist():
        if token in it.eos_ids:
            found[token,] = float(first[token])
            continue
        second = probabilities(after[token], sampling, vocabulary)
        found |= {(token, t): float(first[token] * second[t]) for t in second.nonzero()[:, 0].tolist()}
    return found


ALL_DRAWABLE = torch.zeros(0, dtype=torch.long)


def picks(distribution: NextToken, *uniforms: float) -> list[int]:
    """The tokens of some draws at the first row."""
    return distribution.pick(np.zeros(len(uniforms), np.int64), np.array(uniforms)).tolist()


@settings(max_examples=100, derandomize=True)
@given(
    logits=st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=12),
    u=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1 - 2**-53, 5e-324])),
    unused=st.integers(0, 14),
)
def test_a_token_of_probability_zero_is_never_picked(logits: list[float], u: float, unused: int) -> None:
    lacking = sorted({unused % (len(logits) + 2), len(logits), len(logits) + 1} - {0})  # the last two are the likeliest
    scores = torch.tensor([*logits, 70.0, 70.0])
    distribution = next_token(scores[None], law(), torch.tensor(lacking))
    (token,) = picks(distribution, u)
    assert 0 <= token < len(logits) and token not in lacking
    assert distribution.tokens(np.array([0]), np.array([token])).law_logprobs[0] > -np.inf
    for never in lacking:
        assert distribution.tokens(np.array([0]), np.array([never])).law_logprobs[0] == -np.inf


@settings(max_examples=100, derandomize=True)
@given(
    vocabulary=st.sampled_from([1, 2, 3, 16, 17, 300, 1011]),
    num_draws=st.lists(st.integers(0, 70), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.05, 1.0, 3.0]),
)
def test_a_pick_is_the_inverse_of_the_cumulative_distribution_whatever_else_is_picked(
    vocabulary: int, num_draws: list[int], seed: int, temperature: float
) -> None:
    """By definition: the first token whose cumulative probability lies above the random number."""
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(generator.normal(scale=3, size=(len(num_draws), vocabulary))).float()
    distribution = next_token(logits, law(temperature=temperature), ALL_DRAWABLE)
    rows = np.repeat(np.arange(len(num_draws)), num_draws)
    u = generator.random(len(rows))
    cdf = torch.softmax(logits.double() / temperature, -1).cumsum(-1).numpy()
    for row, number, token in zip(rows, u, distribution.pick(rows, u).tolist(), strict=True):
        below = cdf[row, token - 1] if token else 0.0
        assert below - 1e-6 < number < cdf[row, token] + 1e-6


def test_picks_rise_with_the_random_number_and_cut_at_the_cumulative_probabilities() -> None:
    distribution = next_token(torch.tensor([[0.25, 0.0, 0.5, 0.25]]).log(), law(), ALL_DRAWABLE)
    assert picks(distribution, 0.0, 0.2499, 0.2501, 0.7499, 0.7501, 0.999999) == [0, 0, 2, 2, 3, 3]


def test_log_probabilities_at_temperature_one_ignore_the_law() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 9.0]])
    for sampling in LAWS:
        distribution = next_token(logits, sampling, torch.tensor([3]))
        logprobs = distribution.tokens(np.zeros(4, np.int64), np.arange(4)).logprobs
        assert logprobs == pytest.approx(logits.double().log_softmax(-1)[0].numpy(), abs=1e-6)


@pytest.mark.parametrize("temperature", [MIN_TEMPERATURE, 10 * MIN_TEMPERATURE])
def test_the_smallest_temperatures_are_greedy(temperature: float) -> None:
    """What the configuration accepts does not overflow."""
    distribution = next_token(torch.tensor([[1.0, 30.0, 29.0]]), law(temperature=temperature), ALL_DRAWABLE)
    assert picks(distribution, 0.5) == [1]


NAN, INF = float("nan"), float("inf")
DIVERGED = {
    "NaN": [NAN] * 4,
    "infinite": [INF] * 4,
    "no token has a probability": [-INF] * 4,
    "one NaN": [1.0, NAN, 2.0, 3.0],
    "one infinite": [1.0, INF, 2.0, 3.0],
    "NaN where nothing is drawn": [1.0, 2.0, NAN, 3.0],
    "infinite where nothing is drawn": [1.0, 2.0, INF, 3.0],
}


@pytest.mark.parametrize("name", DIVERGED)
@pytest.mark.parametrize("sampling", LAWS, ids=str)
def test_logits_that_are_not_finite_are_refused(name: str, sampling: SamplingLaw) -> None:
    """A diverged checkpoint must not be drawn from, and not greedily or by enumeration either."""
    logits = torch.tensor([[1.0, 2.0, 3.0, 0.0], DIVERGED[name]])
    distributions = Distributions(logits, sampling, torch.tensor([2]))
    rows, uniforms = np.array([0, 1]), np.array([0.5, 0.5])
    for greedy in ([], [1], [0, 1]):
        with pytest.raises(InputError, match="not finite"):
            distributions.pick(rows, uniforms, np.array(greedy, np.int64))
    with pytest.raises(InputError, match="not finite"):
        distributions.at_least(np.array([0.1, 0.1]))
