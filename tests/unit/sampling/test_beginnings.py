"""What prompts begin with in common is read once, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MistralConfig, Olmo2Config, PreTrainedTokenizerFast

from evalgen.sampling import beginnings
from evalgen.sampling.beginnings import LEAST_TOKENS_SAVED, Beginnings, of_prompts, shared_beginnings
from evalgen.sampling.independent import sample_independently
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.nodes import distinct_prefixes
from evalgen.sampling.tree import sample_tree
from evalgen.tokenization import encode_prompt
from tests.unit.tiny import EOS, MAYORS, draws_of, law, loaded, mayor_prompt, query, random_model, unit_of

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
EXAMPLES = "Q: Who is the mayor of Lisbon? A: Henry Walker\nQ: Who is the mayor of Oslo? A: Nora Bishop\n"
OTHER_EXAMPLES = "Laura Simmons died on May 19, 1968\nPeter Novak died on January 27, 1983\n"

# Few different tokens, so that many prompts begin alike.
PROMPTS = st.lists(st.lists(st.integers(5, 7), min_size=1, max_size=12), min_size=1, max_size=8)


@pytest.fixture
def all_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginnings, "LEAST_TOKENS_SAVED", 1)


def padded(prompts: list[list[int]]) -> np.ndarray[Any, Any]:
    longest = max(map(len, prompts))
    return np.array([[0] * (longest - len(prompt)) + prompt for prompt in prompts])


def tokens_saved(prompts: list[list[int]], found: Beginnings) -> int:
    return (len(prompts) - len(found.prompts)) * found.column


def fewest_heads(heads: list[list[int]]) -> int:
    """Of which each is the beginning of another or of none: those that are of none."""
    distinct = {tuple(head) for head in heads}
    return sum(not any(other[: len(head)] == head for other in distinct - {head}) for head in distinct)


@pytest.mark.usefixtures("all_are_shared")
@settings(max_examples=300, derandomize=True)
@given(prompts=PROMPTS)
def test_the_heads_are_those_of_all_prompts_and_no_column_saves_more(prompts: list[list[int]]) -> None:
    ids = padded(prompts)
    longest = ids.shape[1]
    before = {column: [[t for t in row[:column] if t] for row in ids.tolist()] for column in range(longest)}
    best = max((len(prompts) - fewest_heads(heads)) * column for column, heads in before.items())
    found = shared_beginnings(prompts)
    if found is None:
        assert best == 0
        return
    assert tokens_saved(prompts, found) == best > 0
    assert 0 < found.column < longest
    # As keys of one head, one number wide.
    kept = torch.from_numpy(ids[found.prompts, : found.column])[:, None, :, None]
    placed = of_prompts(kept, found.places(kept.device))[:, 0, :, 0].numpy()
    is_token = ids[:, : found.column] != 0
    assert (placed[is_token] == ids[:, : found.column][is_token]).all()


def test_two_kinds_of_few_shot_prompts_in_one_batch_have_two_heads() -> None:
    one, other = list(range(100, 400)), list(range(500, 800))
    prompts = [[*one, 1, 2], [*other, 3], [*one, 4, 5, 6], [*other, 7, 8], [*one, 9]]
    found = shared_beginnings(prompts)
    assert found is not None
    assert sorted(map(len, map(prompts.__getitem__, found.prompts))) == [302, 303]
    assert found.head_of[0] == found.head_of[2] == found.head_of[4] != found.head_of[1] == found.head_of[3]
    assert tokens_saved(prompts, found) >= 3 * 300


@pytest.mark.parametrize("num_alike", [LEAST_TOKENS_SAVED - 1, LEAST_TOKENS_SAVED])
def test_a_pass_is_made_for_many_tokens_and_not_for_few(num_alike: int) -> None:
    alike = list(range(num_alike))
    assert (shared_beginnings([[*alike, 1], [*alike, 2]]) is not None) == (num_alike == LEAST_TOKENS_SAVED)
    assert shared_beginnings([alike * 10]) is None


@pytest.fixture(scope="module", params=["all of the prompt", "a window"])
def diverse(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    if request.param == "a window":
        config: Any = MistralConfig(
            vocab_size=len(tokenizer), head_dim=8, num_key_value_heads=2, sliding_window=7, **SHAPE
        )
    else:
        config = Olmo2Config(vocab_size=len(tokenizer), **SHAPE)
    return loaded(random_model(config, seed=4), tokenizer, eos_ids=(EOS, 40, 41, 42))


@pytest.mark.usefixtures("all_are_shared")
@settings(max_examples=25, derandomize=True)
@given(
    chosen=st.lists(
        st.tuples(st.sampled_from(["", EXAMPLES, OTHER_EXAMPLES]), st.sampled_from([*MAYORS, "", "Rio de Janeiro"])),
        min_size=1,
        max_size=8,
    ),
    batch_size=st.integers(1, 8),
    budget_bytes=st.sampled_from([None, 100_000]),
)
def test_few_shot_prompts_are_drawn_as_one_by_one(
    diverse: LoadedModel, chosen: list[tuple[str, str]], batch_size: int, budget_bytes: int | None
) -> None:
    """The same prompt twice included, and one that is the beginning of another."""
    prompts = [examples + (mayor_prompt(city) if city else "Q:") for examples, city in chosen]
    queries = [query(prompt, id=str(number)) for number, prompt in enumerate(prompts)]
    unit = unit_of(queries, law=law(max_new_tokens=3), num_draws=5, generation_batch_size=batch_size)
    tree, one_by_one = sample_tree(diverse, unit, budget_bytes), sample_independently(diverse, unit)
    assert draws_of(tree) == draws_of(one_by_one)
    assert tree.model_evaluations == distinct_prefixes(tree.sequences)


@pytest.mark.usefixtures("all_are_shared")
def test_the_examples_of_few_shot_prompts_are_read_once(diverse: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    num_read = []
    forward = diverse.model.forward

    def counted(*arguments: Any, **options: Any) -> Any:
        num_read.append(options["input_ids"].numel())
        return forward(*arguments, **options)

    monkeypatch.setattr(diverse.model, "forward", counted)
    prompts = [EXAMPLES + mayor_prompt(city) for city in MAYORS]
    sample_tree(diverse, unit_of([query(p) for p in prompts], law=law(max_new_tokens=1), num_draws=5))
    tokens = [encode_prompt(diverse.tokenizer, prompt) for prompt in prompts]
    num_examples = len(encode_prompt(diverse.tokenizer, EXAMPLES))
    assert num_examples < sum(num_read) < num_examples + sum(map(len, tokens)) - len(tokens) * num_examples + 30
