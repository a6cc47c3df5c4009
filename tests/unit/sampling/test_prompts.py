"""Prompts of any length together, and tokenizers with and without the special tokens one expects."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, MistralConfig, PreTrainedTokenizerFast

from evalgen.sampling.independent import sample_independently
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.tree import sample_tree
from evalgen.tokenization import encode_prompt
from tests.unit.sampling.plain import plain_draws
from tests.unit.tiny import EOS, draws_of, law, loaded, query, random_model, unit_of

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def windowed(tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    """Sees the last 300 tokens: less than the longest prompts have."""
    config = MistralConfig(vocab_size=len(tokenizer), head_dim=8, num_key_value_heads=2, sliding_window=300, **SHAPE)
    return loaded(random_model(config, seed=4), tokenizer, eos_ids=(EOS, 40, 41, 42))


def prompt_of(num_tokens: int, tokenizer: PreTrainedTokenizerFast) -> str:
    """A few-shot prompt that takes exactly so many tokens, BOS included."""
    text = "Q: Who is the mayor of Tokyo? A: Grace Miller\n" * 200
    ids = tokenizer.encode(text, add_special_tokens=False)
    prompt = tokenizer.decode(ids[-(num_tokens - 1) :]) if num_tokens > 1 else ""
    assert len(encode_prompt(tokenizer, prompt)) == num_tokens
    return prompt


def test_prompts_from_one_token_to_two_thousand_go_in_one_batch(windowed: LoadedModel) -> None:
    queries = [query(prompt_of(n, windowed.tokenizer), id=str(n)) for n in (2000, 1, 2, 37, 300, 301, 999)]
    unit = unit_of(queries, law=law(temperature=0.8, max_new_tokens=3), num_draws=3)
    together = draws_of(sample_tree(windowed, unit))
    assert together == plain_draws(windowed, unit)
    for each in queries:
        alone = draws_of(sample_tree(windowed, unit_of([each], law=unit.law, num_draws=3)))
        assert alone == {key: value for key, value in together.items() if key[0] == each.id}


@settings(max_examples=15, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True),
    batch_size=st.integers(1, 6),
    budget_bytes=st.sampled_from([None, 30_000, 300_000]),
)
def test_draws_do_not_depend_on_lengths_and_batches(
    windowed: LoadedModel, lengths: list[int], batch_size: int, budget_bytes: int | None
) -> None:
    queries = [query(prompt_of(n, windowed.tokenizer), id=str(n)) for n in lengths]
    unit = unit_of(queries, law=law(max_new_tokens=4), num_draws=9, generation_batch_size=batch_size)
    assert draws_of(sample_tree(windowed, unit, budget_bytes)) == draws_of(sample_independently(windowed, unit))


@pytest.mark.parametrize("pad", [None, "<|endoftext|>", "<|pad|>"], ids=["absent", "is EOS and BOS", "its own"])
@pytest.mark.parametrize("bos", [None, "<|endoftext|>", "<|pad|>"], ids=["no BOS", "BOS is EOS", "BOS is the pad"])
def test_draws_do_not_depend_on_the_pad_token(
    tokenizer: PreTrainedTokenizerFast, pad: str | None, bos: str | None
) -> None:
    special = copy.deepcopy(tokenizer)
    special.pad_token = pad
    special.bos_token = bos
    model = random_model(LlamaConfig(vocab_size=len(tokenizer), **SHAPE), seed=6)
    it = loaded(model, special)
    assert (encode_prompt(special, "a")[:-1] != []) == (bos is not None)
    unit = unit_of([query(p) for p in ("a", "Q: Who is the mayor", "died on")], law=law(max_new_tokens=4), num_draws=4)
    assert draws_of(sample_tree(it, unit)) == draws_of(sample_independently(it, unit)) == plain_draws(it, unit)


def test_ids_missing_amid_the_vocabulary_are_never_drawn() -> None:
    """Added tokens may stand after a gap: the model has logits for it, the tokenizer nothing."""
    words = {word: index for index, word in enumerate(["<|endoftext|>", "a", "b", "c"])} | {"d": 9, "e": 12}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="a")), eos_token="<|endoftext|>"
    )
    it = loaded(random_model(LlamaConfig(vocab_size=16, **SHAPE), seed=7), tokenizer, eos_ids=())
    unit = unit_of([query("a"), query("d")], law=law(temperature=50.0, max_new_tokens=2), num_draws=300)
    drawn = {token for ids, _ in draws_of(sample_tree(it, unit)).values() for token in ids}
    assert drawn == set(words.values())
