"""The guard of the whole project: on every architecture the tree draws, draw for draw, what one by one is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from evalgen.errors import InputError
from evalgen.sampling import beginnings, packed_linear
from evalgen.sampling.independent import sample_independently
from evalgen.sampling.nodes import SamplingResult, distinct_prefixes
from evalgen.sampling.tree import sample_tree
from evalgen.tokenization import encode_prompt
from tests.unit.sampling.plain import plain_draws
from tests.unit.tiny import EOS, PAD, draws_of, law, loaded, query, random_model, unit_of

UNUSED_EMBEDDINGS = 13  # models have more rows than the tokenizer has ids
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
GPT2_SHAPE = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
MAMBA_SHAPE = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MORE_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
EYE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
LINEAR_ATTENTION = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}

SHARING: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": ("Olmo2Config", SHAPE),
    "olmo3 with sliding window": ("Olmo3Config", {**SHAPE, **LAYERS}),
    "llama": ("LlamaConfig", GROUPED),
    "gpt2, learned positions": ("GPT2Config", GPT2_SHAPE),
    "gpt-neox, partial rotary": ("GPTNeoXConfig", SHAPE),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8}),
    "phi": ("PhiConfig", SHAPE),
    "phi3": ("Phi3Config", GROUPED),
    "gemma2 with sliding window": (
        "Gemma2Config",
        {**GROUPED, **LAYERS, "head_dim": 8, "attn_logit_softcapping": 0.5},  # low, so that it matters
    ),
    "gemma3 with sliding window": ("Gemma3TextConfig", {**GROUPED, **LAYERS, "head_dim": 8}),
    "gemma3 that sees": (
        "Gemma3Config",
        {
            "text_config": {**GROUPED, **LAYERS, "head_dim": 8},
            "vision_config": {**EYE, "patch_size": 14},
            "mm_tokens_per_image": 4,
        },
    ),
    "glm4": ("Glm4Config", {**GROUPED, "head_dim": 8}),
    "mistral with sliding window": ("MistralConfig", {**GROUPED, "head_dim": 8, "sliding_window": 4}),
    "mixtral, experts": ("MixtralConfig", {**GROUPED, **EXPERTS}),
    "olmoe, experts": ("OlmoeConfig", {**GROUPED, **MORE_EXPERTS}),
    "qwen3, experts": (
        "Qwen3MoeConfig",
        {**GROUPED, **MORE_EXPERTS, "head_dim": 8, "moe_intermediate_size": 32},
    ),
    "opt": ("OPTConfig", {**SHAPE, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 128}),
}
COPYING: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba2, state space": (
        "Mamba2Config",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2},
    ),
    "mamba, state space": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "falcon-h1, hybrid": ("FalconH1Config", {**GROUPED, **MAMBA_SHAPE, "mamba_d_ssm": 64, "mamba_n_groups": 1}),
    "lfm2, convolutions": ("Lfm2Config", {**GROUPED, "layer_types": ["conv", "full_attention"], "block_ff_dim": 64}),
    "qwen3-next, hybrid with experts": (
        "Qwen3NextConfig",
        {
            **GROUPED,
            **MORE_EXPERTS,
            **LINEAR_ATTENTION,
            "layer_types": ["linear_attention", "full_attention"],
            "head_dim": 8,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
    ),
    "deepseek3, latent attention": (
        "DeepseekV3Config",
        {
            **SHAPE,
            **LATENT,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
    ),
    "gpt-oss, attention sinks": ("GptOssConfig", {**GROUPED, **LAYERS, **EXPERTS, "head_dim": 8}),
    "nemotron, layers that do not hand on arguments": ("NemotronConfig", GROUPED),
    "doge, a mask of its own": ("DogeConfig", GROUPED),
    "roberta, pad tokens without a position": ("RobertaConfig", {**SHAPE, "is_decoder": True}),
    "bloom, position biases": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}
ROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [5.0] * 4, "rope_theta": 10_000.0}
LONGROPE = {
    **GROUPED,
    "max_position_embeddings": 64,
    "original_max_position_embeddings": 16,
    "rope_parameters": {**ROPE, "original_max_position_embeddings": 16},
}
PROPHETNET = {
    "hidden_size": 32,
    "num_decoder_layers": 2,
    "num_decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "is_decoder": True,
    "add_cross_attention": False,
}
ARCHITECTURES = SHARING | COPYING
PROMPTS = [
    "a",
    "Q: Who is the mayor of Tokyo? A:",
    "São Paulo",
    "Alice Chen died on March 15, 1987. Alice",
    "Q: Who is the mayor of Beijing? A: Ethan",
]


def config_of(class_name: str, shape: dict[str, Any], vocab_size: int) -> PretrainedConfig:
    if not hasattr(transformers, class_name):
        pytest.skip(f"this transformers has no {class_name}")
    make: Callable[..., PretrainedConfig] = getattr(transformers, class_name)
    of_text = {"vocab_size": vocab_size, "bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD}
    if "text_config" in shape:  # images have tokens of their own, which no text has
        images = {f"{name}_token_index": vocab_size - 1 for name in ("image", "boi", "eoi")}
        return make(**shape | {"text_config": shape["text_config"] | of_text}, **images)
    return make(**of_text, **shape)


@pytest.fixture(autouse=True)
def as_for_real_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are packed, and prompts share what they begin with: here both are too small to gain from it."""
    monkeypatch.setattr(packed_linear, "LEAST_WEIGHTS", 0)
    monkeypatch.setattr(beginnings, "LEAST_TOKENS_SAVED", 1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tree_and_independent_draw_what_sampling_by_definition_does(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = random_model(config_of(*ARCHITECTURES[name], len(tokenizer) + UNUSED_EMBEDDINGS))
    it = loaded(model, tokenizer, eos_ids=(EOS, 30, 31, 32))
    assert it.footprint.shares_prompts == it.footprint.shares_beginnings == (name in SHARING)
    unit = unit_of([query(prompt) for prompt in PROMPTS], law=law(temperature=0.5, max_new_tokens=6), num_draws=6)
    tree, independent = sample_tree(it, unit), sample_independently(it, unit)
    assert draws_of(tree) == draws_of(independent) == plain_draws(it, unit)
    assert len(draws_of(tree)) == len(PROMPTS) * 6
    assert tree.model_evaluations == distinct_prefixes(tree.sequences)
    for ours, reference in zip(tree.sequences, independent.sequences, strict=True):
        assert ours.token_ids == reference.token_ids and ours.generation_indices == reference.generation_indices
        assert ours.token_logprobs == pytest.approx(reference.token_logprobs, abs=1e-4)
        assert ours.logprob == pytest.approx(reference.logprob, abs=1e-4)
        assert ours.logprob_sampling == pytest.approx(reference.logprob_sampling, abs=1e-4)
        assert max(ours.token_ids) < len(tokenizer)


def test_prompts_are_shared_in_bf16_with_many_layers_and_a_large_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    """Where roundings add up most: the default precision, and models as deep as those that are used."""
    config = config_of("Olmo2Config", {**SHAPE, "num_hidden_layers": 40}, 50_000)
    for seed in range(3):
        model = random_model(config, seed=seed).to(torch.bfloat16)
        assert loaded(model, tokenizer).footprint.shares_prompts


def test_positions_that_depend_on_the_longest_prompt_of_a_batch_are_not_batched(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    it = loaded(random_model(config_of("Phi3Config", LONGROPE, len(tokenizer))), tokenizer)
    assert it.footprint.shares_prompts and not it.footprint.mixes_lengths and not it.footprint.shares_beginnings
    queries = [query("a"), query("Q: Who is the mayor of Tokyo? A: Grace Miller. Q: Who is the mayor of Beijing? A:")]
    unit = unit_of(queries, law=law(max_new_tokens=4), num_draws=20)
    alone = [draws_of(sample_tree(it, replace(unit, queries=(each,)))) for each in queries]
    assert draws_of(sample_tree(it, unit)) == alone[0] | alone[1]


def test_a_softcap_of_attention_is_not_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    """Not every attention that a model may come with knows it: transformers 5.17 gives Gemma-2 one that does not."""
    model = random_model(config_of(*ARCHITECTURES["gemma2 with sliding window"], len(tokenizer)))
    ids = torch.tensor([tokenizer.encode(PROMPTS[1])])
    model.config._attn_implementation = "eager"
    capped = model(ids).logits
    model.config._attn_implementation = "sdpa"
    assert torch.allclose(loaded(model, tokenizer).model(ids).logits, capped, atol=1e-4)


@pytest.mark.parametrize("sampler", [sample_tree, sample_independently])
def test_a_completion_that_crosses_the_length_at_which_longrope_changes_is_refused(
    sampler: Callable[..., SamplingResult], tokenizer: PreTrainedTokenizerFast
) -> None:
    it = loaded(random_model(config_of("Phi3Config", LONGROPE, len(tokenizer))), tokenizer, eos_ids=())
    text = "Q: Who is the mayor of Tokyo? A: Grace Miller. Q: Who"
    prompts = {len(encode_prompt(tokenizer, text[:end])): text[:end] for end in range(len(text))}
    for length, max_new_tokens in ((12, 5), (16, 1), (17, 6)):  # the last token is not read
        unit = unit_of([query(prompts[length])], law=law(max_new_tokens=max_new_tokens), num_draws=20)
        assert draws_of(sampler(it, unit)) == plain_draws(it, unit)
    for length, max_new_tokens in ((12, 6), (16, 2)):
        unit = unit_of([query(prompts[length], id="it")], law=law(max_new_tokens=max_new_tokens))
        says = rf"'it' takes {length} tokens and 17 .*beyond 16 .*--max_new_tokens {max_new_tokens - 1},"
        with pytest.raises(InputError, match=says):
            sampler(it, unit)


@pytest.mark.parametrize("name", ["llama", "mistral with sliding window", "lfm2, convolutions"])
def test_bushy_trees_in_small_slices_are_the_same(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Prompts with many and with few nodes in one slice, and slices in which some prompts have none left."""
    it = loaded(random_model(config_of(*ARCHITECTURES[name], len(tokenizer)), seed=2), tokenizer, eos_ids=range(60))
    unit = unit_of([query(prompt) for prompt in PROMPTS], law=law(temperature=0.7, max_new_tokens=8), num_draws=60)
    whole = draws_of(sample_independently(it, unit))
    for budget_bytes in (None, 2_000_000, 100_000):
        assert draws_of(sample_tree(it, unit, budget_bytes)) == whole


def test_the_architectures_share_prefixes_and_differ(tokenizer: PreTrainedTokenizerFast) -> None:
    """Otherwise the guard above would prove little."""
    drawn = {}
    for name in ("llama", "gpt2, learned positions"):
        model = random_model(config_of(*ARCHITECTURES[name], len(tokenizer) + UNUSED_EMBEDDINGS))
        unit = unit_of([query(prompt) for prompt in PROMPTS], law=law(temperature=0.5, max_new_tokens=6), num_draws=50)
        result = sample_tree(loaded(model, tokenizer), unit)
        num_drawn = sum(len(s.token_ids) * len(s.generation_indices) for s in result.sequences)
        assert distinct_prefixes(result.sequences) < 0.7 * num_drawn
        drawn[name] = draws_of(result)
    assert drawn["llama"] != drawn["gpt2, learned positions"]


def test_a_model_that_rounding_sends_to_other_experts_is_not_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    """In bf16, with weights so large that each layer magnifies what the one before has rounded."""
    layers = {"num_hidden_layers": 16, "layer_types": (["mamba"] * 3 + ["attention"]) * 4, "num_local_experts": 8}
    sizes = {"hidden_size": 256, "mamba_d_head": 64, "shared_intermediate_size": 128, "intermediate_size": 512}
    shape = {**GROUPED, **MAMBA_SHAPE, **EXPERTS, **layers, **sizes, "num_attention_heads": 8, "mamba_expand": 2}
    model = random_model(config_of("GraniteMoeHybridConfig", shape, len(tokenizer)))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
    assert not loaded(model.bfloat16(), tokenizer).footprint.shares_prompts


@pytest.mark.parametrize(
    ("name", "class_name", "shape"),
    [
        ("Rwkv", "RwkvConfig", {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}),
        # A transformers.Cache with a list beside its layers, which copies share and which is not re-indexed.
        ("MiniMax", "MiniMaxConfig", {**GROUPED, **EXPERTS, "head_dim": 8, "block_size": 4}),
        # With its cache it says something else than without.
        ("ProphetNet", "ProphetNetConfig", PROPHETNET),
    ],
)
def test_a_model_whose_state_cannot_be_reindexed_is_an_error_that_names_it(
    name: str, class_name: str, shape: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = random_model(config_of(class_name, shape, len(tokenizer)))
    with pytest.raises(InputError, match=rf"{name}ForCausalLM cannot be sampled.*expected"):
        loaded(model, tokenizer)


def test_a_model_that_says_something_else_with_its_cache_than_without_is_refused(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(config_of(*ARCHITECTURES["gpt2, learned positions"], len(tokenizer)))
    forward = model.forward

    def misplaced(*, input_ids: torch.Tensor, past_key_values: Any = None, **others: Any) -> Any:
        if past_key_values is not None:
            others["position_ids"] = torch.full_like(input_ids, 50)
        return forward(input_ids=input_ids, past_key_values=past_key_values, **others)

    monkeypatch.setattr(model, "forward", misplaced)
    with pytest.raises(InputError, match="cannot be sampled"):
        loaded(model, tokenizer)
