"""Writes an OLMo-2 checkpoint again with attention heads of 64 dimensions, the added ones zero: the same function.

    python pad_heads.py <checkpoint> <directory>

vLLM's attention on CPUs knows no heads of 40 dimensions, which the demo's checkpoint has. Rotary frequencies stay what
they were when the base is raised to the power of the ratio of the sizes; norms and the softmax's scale are made up for.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

HEAD_DIM = 64
LARGEST_LOGIT_ERROR = 1e-3  # measured: 1e-5


def padded(model: PreTrainedModel) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(model.config._name_or_path)
    head_dim = config.hidden_size // config.num_attention_heads
    config.head_dim = HEAD_DIM
    config.rope_parameters["rope_theta"] **= HEAD_DIM / head_dim
    # A head's first and second half are rotated as pairs, so each half is padded by itself.
    half = torch.arange(head_dim // 2)
    places = torch.cat([half, half + HEAD_DIM // 2])
    rows = torch.cat([places + HEAD_DIM * head for head in range(config.num_attention_heads)])
    # Zeros shrink a mean of squares, so what is normalised grows before and shrinks after; queries need not shrink,
    # for the softmax divides by the root of the head's size.
    growth = (HEAD_DIM / head_dim) ** 0.5
    factors = {"q_proj": growth, "k_proj": growth, "k_norm": 1 / growth}
    other = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        new = torch.zeros_like(other.state_dict()[name])
        part = name.split(".")[-2]
        if part in ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm"):
            new[rows] = tensor * factors.get(part, 1.0)
        elif part == "o_proj":
            new[:, rows] = tensor
        else:
            new = tensor
        state[name] = new
    other.load_state_dict(state)
    return other.eval()


def main() -> None:
    checkpoint, directory = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    other = padded(model)
    ids = torch.arange(40)[None] * 23 % model.config.vocab_size
    with torch.inference_mode():
        error = float((model(ids).logits - other(ids).logits).abs().max())
    if error > LARGEST_LOGIT_ERROR:
        raise ValueError(f"padding the heads moves a logit by {error}")
    other.generation_config = model.generation_config
    other.save_pretrained(directory)


if __name__ == "__main__":
    main()
