"""The guard of the whole project: the tree sampler returns, draw for draw, what sampling one by one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from evalgen.sampling.independent import sample_independently
from evalgen.sampling.nodes import distinct_prefixes
from evalgen.sampling.tree import sample_tree
from tests.unit.tiny import EOS, PAD, draws_of, law, loaded, query, random_model, unit_of

UNUSED_EMBEDDINGS = 13  # models have more rows than the tokenizer has ids
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
GPT2_SHAPE = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": ("Olmo2Config", SHAPE),
    "olmo3 with sliding window": ("Olmo3Config", {**SHAPE, **LAYERS, "sliding_window": 4}),
    "llama": ("LlamaConfig", GROUPED),
    "gpt2, learned positions": ("GPT2Config", GPT2_SHAPE),
    "gpt-neox, partial rotary": ("GPTNeoXConfig", SHAPE),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8}),
    "phi": ("PhiConfig", SHAPE),
    "gemma2 with sliding window": ("Gemma2Config", {**GROUPED, **LAYERS, "head_dim": 8, "sliding_window": 4}),
    "gemma3 with sliding window": ("Gemma3TextConfig", {**GROUPED, **LAYERS, "head_dim": 8, "sliding_window": 4}),
    "mistral with sliding window": ("MistralConfig", {**GROUPED, "head_dim": 8, "sliding_window": 4}),
}
PROMPTS = ["a", "Q: Who is the mayor of Tokyo? A:", "São Paulo", "Alice Chen died on March 15, 1987. Alice"]


def config_of(name: str, vocab_size: int) -> PretrainedConfig:
    class_name, shape = ARCHITECTURES[name]
    if not hasattr(transformers, class_name):
        pytest.skip(f"this transformers has no {class_name}")
    make: Callable[..., PretrainedConfig] = getattr(transformers, class_name)
    special = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD}
    return make(vocab_size=vocab_size, **special, **shape)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tree_and_independent_draw_the_same_tokens(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = random_model(config_of(name, len(tokenizer) + UNUSED_EMBEDDINGS))
    it = loaded(model, tokenizer, eos_ids=(EOS, 30, 31, 32))
    unit = unit_of([query(prompt) for prompt in PROMPTS], law=law(temperature=0.5, max_new_tokens=6), num_draws=6)
    tree, independent = sample_tree(it, unit), sample_independently(it, unit)
    assert draws_of(tree) == draws_of(independent)
    assert len(draws_of(tree)) == len(PROMPTS) * 6
    assert tree.model_evaluations == distinct_prefixes(tree.sequences)
    for ours, reference in zip(tree.sequences, independent.sequences, strict=True):
        assert ours.token_ids == reference.token_ids and ours.generation_indices == reference.generation_indices
        assert ours.token_logprobs == pytest.approx(reference.token_logprobs, abs=1e-4)
        assert ours.logprob == pytest.approx(reference.logprob, abs=1e-4)
        assert ours.logprob_sampling == pytest.approx(reference.logprob_sampling, abs=1e-4)
        assert max(ours.token_ids) < len(tokenizer)


def test_the_architectures_share_prefixes_and_differ(tokenizer: PreTrainedTokenizerFast) -> None:
    """Otherwise the guard above would prove little."""
    drawn = {}
    for name in ("llama", "gpt2, learned positions"):
        model = random_model(config_of(name, len(tokenizer) + UNUSED_EMBEDDINGS))
        unit = unit_of([query(prompt) for prompt in PROMPTS], law=law(temperature=0.5, max_new_tokens=6), num_draws=50)
        result = sample_tree(loaded(model, tokenizer), unit)
        num_drawn = sum(len(s.token_ids) * len(s.generation_indices) for s in result.sequences)
        assert distinct_prefixes(result.sequences) < 0.7 * num_drawn
        drawn[name] = draws_of(result)
    assert drawn["llama"] != drawn["gpt2, learned positions"]
