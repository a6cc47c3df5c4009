"""Engine: transformers' `generate(num_return_sequences=n)`, a row for every draw, some prompts at a time."""

from __future__ import annotations

from typing import Any

import psutil
import torch
import transformers
from cell_protocol import Cell, Completion, SkippedCell, serve
from transformers import AutoModelForCausalLM, AutoTokenizer

SHARE_OF_FREE_MEMORY = 0.8
COPIES_OF_LOGITS = 5  # logits, scores, sorted or softmaxed copies while a token is drawn


class Generate:
    def __init__(self, model: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self.versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        self._prompts_at_a_time = model["options"]["prompts_at_a_time"]
        self._tokenizer = AutoTokenizer.from_pretrained(model["tokenizer_path"], padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(model["path"], dtype=torch.float32).eval()

    @torch.inference_mode()
    def sample(self, cell: Cell) -> list[list[list[int]]]:
        n = cell["num_draws"]
        order = sorted(range(len(cell["prompt_ids"])), key=lambda index: len(cell["prompt_ids"][index]))
        drawn: list[list[list[int]]] = [[] for _ in order]
        for start in range(0, len(order), self._prompts_at_a_time):
            indices = order[start : start + self._prompts_at_a_time]
            prompts = [cell["prompt_ids"][index] for index in indices]
            self._check_memory(n * len(prompts), len(prompts[-1]), cell["max_new_tokens"])
            batch = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
            rows = self._model.generate(
                **batch,
                do_sample=True,
                temperature=cell["temperature"],
                top_k=0,
                top_p=1.0,
                max_new_tokens=cell["max_new_tokens"],
                num_return_sequences=n,
                pad_token_id=self._tokenizer.pad_token_id,
            )
            new = rows[:, batch["input_ids"].shape[1] :].tolist()
            for place, index in enumerate(indices):
                drawn[index] = new[place * n : (place + 1) * n]
        return drawn

    def completions(self, drawn: list[list[list[int]]], cell: Cell) -> list[list[Completion]]:
        return [[(1, ids) for ids in rows] for rows in drawn]

    def _check_memory(self, num_rows: int, prompt_length: int, max_new_tokens: int) -> None:
        """A row's keys and values, its logits, and the widest activation of the prefill, all in float32."""
        config = self._model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cache = (prompt_length + max_new_tokens) * config.num_hidden_layers * 2 * config.num_key_value_heads * head_dim
        activations = prompt_length * (2 * config.intermediate_size + 4 * config.hidden_size)
        needed = 4 * num_rows * (cache + activations + COPIES_OF_LOGITS * config.vocab_size)
        free = psutil.virtual_memory().available
        if needed > SHARE_OF_FREE_MEMORY * free:
            raise SkippedCell(f"{num_rows:,} rows need about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free")


if __name__ == "__main__":
    serve(Generate)
