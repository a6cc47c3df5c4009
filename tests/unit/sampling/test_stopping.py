"""Where a draw ends: the first token after which its text has a stop string, an EOS, or the greatest length."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, PreTrainedTokenizerFast

from evalgen.sampling.independent import sample_independently
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.nodes import distinct_prefixes
from evalgen.sampling.tree import sample_tree
from evalgen.tokenization import before_stop, decode
from tests.unit.tiny import EOS, draws_of, law, loaded, mayor_prompt, query, random_model, unit_of

QUERIES = [query(mayor_prompt("Tokyo")), query(mayor_prompt("São Paulo")), query("Alice Chen died on")]


@pytest.fixture(scope="module")
def diverse(tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return loaded(random_model(LlamaConfig(vocab_size=len(tokenizer), **shape), seed=8), tokenizer, eos_ids=(EOS, 99))


@settings(max_examples=25, derandomize=True)
@given(
    stop_strings=st.lists(
        st.sampled_from(["e", "Mi", "ler", "\n", "ace Mill", " ", "É", "\ufffd", "never there"]),
        max_size=3,
        unique=True,
    ),
    temperature=st.sampled_from([0.2, 0.7, 2.0]),
    trained=st.booleans(),
)
def test_a_draw_ends_with_the_token_that_completes_a_stop_string(
    tiny: LoadedModel, diverse: LoadedModel, stop_strings: list[str], temperature: float, trained: bool
) -> None:
    """Random numbers go by depth, so that with stop strings the draws are those without, cut."""
    it = tiny if trained else diverse
    unit = unit_of(QUERIES, law=law(temperature=temperature, max_new_tokens=8), num_draws=12)
    stopping = replace(unit, law=replace(unit.law, stop_strings=tuple(stop_strings)))
    tree = sample_tree(it, stopping)
    expected = {}
    for key, (ids, reason) in draws_of(sample_tree(it, unit)).items():
        texts = [decode(it.tokenizer, ids[:length]) for length in range(len(ids) + 1)]
        ends = [n for n, text in enumerate(texts) if any(stop in text for stop in stop_strings)]
        # At an EOS nothing is added to the text, so that a stop string would have ended the draw before.
        expected[key] = (ids[: ends[0]], "stop") if ends else (ids, reason)
    assert draws_of(tree) == draws_of(sample_independently(it, stopping)) == expected
    assert tree.model_evaluations == distinct_prefixes(tree.sequences)


def test_a_stop_string_may_span_tokens(tiny: LoadedModel) -> None:
    unit = unit_of(QUERIES[:1], law=law(temperature=0.01, max_new_tokens=12, stop_strings=("ce Mil",)), num_draws=3)
    (sequence,) = sample_tree(tiny, unit).sequences
    assert sequence.finish_reason == "stop"
    assert not any("ce Mil" in decode(tiny.tokenizer, [token]) for token in sequence.token_ids)
    assert before_stop(decode(tiny.tokenizer, sequence.token_ids), ("ce Mil",)) == " Gra"


@pytest.mark.parametrize(
    ("text", "stops", "before"),
    [
        ("a\nb", ("\n",), "a"),
        ("abc", ("c", "b"), "a"),
        ("abab", ("ab",), ""),
        ("abc", (), None),
        ("abc", ("d",), None),
        ("aaa", ("aa", "a"), ""),
    ],
)
def test_text_ends_before_the_first_stop_string(text: str, stops: tuple[str, ...], before: str | None) -> None:
    assert before_stop(text, stops) == before
