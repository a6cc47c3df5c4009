"""Writes a checkpoint of transformers (Llama or OLMo-2 architecture) as a GGUF file with float32 weights.

    python write_gguf.py <checkpoint> <file>

There is no vocabulary in it: the benchmark hands llama.cpp token ids.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray
from safetensors import safe_open

ARCHITECTURES = {"llama": "llama", "olmo2": "olmo2"}  # transformers' model_type: GGUF's name
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
# The one name that stands before the feed-forward layer in Llama and after attention in OLMo-2.
POST_ATTENTION = {"llama": "ffn_norm", "olmo2": "post_attention_norm"}


def write_gguf(checkpoint: Path, path: Path) -> None:
    """Raises ValueError for another architecture."""
    config = json.loads((checkpoint / "config.json").read_text())
    if config["model_type"] not in ARCHITECTURES:
        raise ValueError(f"no GGUF exporter for {config['model_type']}")
    architecture = ARCHITECTURES[config["model_type"]]
    writer = GGUFWriter(path, architecture)
    _add_shape(writer, config)
    with safe_open(checkpoint / "model.safetensors", "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a mapping
            array = tensors.get_tensor(name).float().numpy()
            writer.add_tensor(_gguf_name(name, architecture), _in_gguf_order(name, array, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: GGUFWriter, config: dict[str, object]) -> None:
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])  # type: ignore[call-overload]
    head_dim = config.get("head_dim") or hidden // heads
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])  # type: ignore[index]
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(0)  # all float32
    writer.add_tokenizer_model("no_vocab")


def _gguf_name(name: str, architecture: str) -> str:
    stem, suffix = name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.{suffix}"
    _, _, layer, part = stem.split(".", 3)
    part_name = POST_ATTENTION[architecture] if part == "post_attention_layernorm" else NAMES[part]
    return f"blk.{layer}.{part_name}.{suffix}"


def _in_gguf_order(name: str, array: NDArray[np.float32], config: dict[str, int]) -> NDArray[np.float32]:
    """llama.cpp rotates neighbouring pairs in the Llama architecture, transformers the two halves of a head."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    projection = name.split(".")[-2]
    if config["model_type"] != "llama" or projection not in heads:
        return np.ascontiguousarray(array)
    by_half = array.reshape(heads[projection], 2, -1, *array.shape[1:])  # (heads, half, head_dim / 2, ...)
    return np.ascontiguousarray(by_half.swapaxes(1, 2).reshape(array.shape))


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
