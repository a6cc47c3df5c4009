"""One BOS, no EOS, whatever the tokenizer adds by itself; and the sampler reads what the rows say."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from transformers import LlamaConfig, PreTrainedTokenizerBase

from evalgen.sampling.independent import sample_independently
from evalgen.tokenization import encode_prompt
from tests.unit.tiny import law, loaded, query, random_model, unit_of
from tests.unit.tokenizers.generated import PROMPTS, texts

SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@settings(max_examples=60, derandomize=True)
@given(prompt=texts.filter(lambda text: "</s>" not in text))
def test_a_prompt_has_one_bos_and_no_eos_and_is_else_what_the_tokenizer_makes_of_it(
    any_tokenizer: PreTrainedTokenizerBase, prompt: str
) -> None:
    ids = encode_prompt(any_tokenizer, prompt)
    assert ids[0] == any_tokenizer.bos_token_id and any_tokenizer.bos_token_id not in ids[1:]
    assert any_tokenizer.eos_token_id not in ids
    own = any_tokenizer(prompt)["input_ids"]
    added = {any_tokenizer.bos_token_id, any_tokenizer.eos_token_id}
    assert ids[1:] == [id for id in own if id not in added]


def test_the_model_reads_the_ids_that_rows_begin_with(any_tokenizer: PreTrainedTokenizerBase) -> None:
    model = random_model(LlamaConfig(vocab_size=len(any_tokenizer), **SHAPE))
    it = loaded(model, any_tokenizer, eos_ids=(any_tokenizer.eos_token_id,))
    read: list[list[int]] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        read.extend(ids.tolist())

    model.register_forward_pre_hook(note, with_kwargs=True)
    for prompt in PROMPTS:
        read.clear()
        sample_independently(it, unit_of([query(prompt)], law=law(max_new_tokens=1), num_draws=1))
        assert read == [encode_prompt(any_tokenizer, prompt)]
