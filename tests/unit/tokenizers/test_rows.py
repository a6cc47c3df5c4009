"""From a model's draws to rows, with every kind of tokenizer: all that is drawn and trimmed is kept whole or named."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, PreTrainedTokenizerBase

from evalgen.dataset_files import SPANS_BOUNDARY
from evalgen.records import Verdict
from evalgen.samples import Sample, samples_of, samples_table, text_ids
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.tree import sample_tree
from evalgen.tokenization import IGNORED_LABEL, decode, encode_prompt
from tests.unit.test_assembly import assembled, trimmed
from tests.unit.tiny import law, loaded, query, random_model, unit_of
from tests.unit.tokenizers.generated import PROMPTS, whole_text

QUERIES = [query(prompt, id=str(number)) for number, prompt in enumerate(PROMPTS)]
SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def any_model(any_tokenizer: PreTrainedTokenizerBase) -> LoadedModel:
    """Draws any ids: cut characters, special tokens, spaces where no text has them."""
    model = random_model(LlamaConfig(vocab_size=len(any_tokenizer), **SHAPE), seed=3)
    return loaded(model, any_tokenizer, eos_ids=(any_tokenizer.eos_token_id,))


@functools.lru_cache(maxsize=4)
def draws_of(it: LoadedModel, stop_strings: tuple[str, ...], temperature: float) -> Sequence[Sample]:
    chosen = law(temperature=temperature, max_new_tokens=7, stop_strings=stop_strings)
    unit = unit_of(QUERIES, law=chosen, num_draws=6)
    return samples_of(samples_table(unit, sample_tree(it, unit).sequences, it.tokenizer))


# Shrinking would take minutes, and what fails is as readable without.
@settings(max_examples=12, derandomize=True, phases=[Phase.generate])
@given(data=st.data(), stop_strings=st.sampled_from([(), (" ",), ("\n", "e"), ("\ufffd", "ace")]))
def test_every_draw_is_a_row_of_what_was_written_or_left_out_with_its_reason(
    any_model: LoadedModel, data: st.DataObject, stop_strings: tuple[str, ...]
) -> None:
    tokenizer = any_model.tokenizer
    samples = draws_of(any_model, stop_strings, 3.0)
    verdicts: dict[str, Verdict] = {}
    for text in sorted({sample.completion for sample in samples}):
        cut = text[: data.draw(st.integers(0, len(text)))]
        if cut.strip() and cut != text:
            verdicts[text] = trimmed(cut)
    _, dataset = assembled(tokenizer, samples, verdicts, QUERIES)
    assert {it["reason"] for it in dataset.left_out} <= {SPANS_BOUNDARY}
    counted = [it["sample_count"] for it in (*dataset.rows, *dataset.left_out)]
    assert sum(counted) == 6 * len(QUERIES)
    by_prompt = {of.id: [s for s in samples if s.prompt_id == of.id] for of in QUERIES}
    for row in dataset.rows:
        prompt_ids = encode_prompt(tokenizer, row["prompt"])
        ids = [label for label in row["labels"] if label != IGNORED_LABEL]
        assert row["input_ids"] == prompt_ids + ids and tokenizer.eos_token_id not in row["input_ids"]
        assert decode(tokenizer, ids) == row["completion"]
        before = whole_text(tokenizer, prompt_ids)
        assert whole_text(tokenizer, row["input_ids"]) == before + row["completion"]
        drawn = [text_ids(s.token_ids, s.finish_reason) for s in by_prompt[row["prompt_id"]]]
        assert any(whole_text(tokenizer, [*prompt_ids, *of]).startswith(before + row["completion"]) for of in drawn)
        if row["tokens_as_drawn"]:
            assert any(list(of[: len(ids)]) == ids for of in drawn)
        else:
            assert row["input_ids"] == encode_prompt(tokenizer, row["prompt"] + row["completion"])
