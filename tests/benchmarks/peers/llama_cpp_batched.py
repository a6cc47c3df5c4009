"""Engine: llama.cpp, the prompt decoded once, its keys and values shared by the sequences of a group.

All sequences of a group take one step in one `llama_decode`; each token is drawn by llama.cpp's samplers. Weights,
keys and values are float32, as in the other engines.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as api
import numpy as np
from cell_protocol import Cell, Completion, SkippedCell, serve

GGML_TYPE_F32 = 0


class LlamaCpp:
    def __init__(self, model: dict[str, Any], threads: int) -> None:
        self.versions = {"llama-cpp-python": api.__version__}
        self._threads = threads
        self._options = {"sequences": 128, "flash_attention": True} | model.get("options", {})
        api.llama_backend_init()
        self._silence = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self._silence, ctypes.c_void_p(0))
        self._model = api.llama_model_load_from_file(model["gguf_path"].encode(), api.llama_model_default_params())
        if not self._model:
            raise SkippedCell("llama.cpp cannot load the GGUF file")
        self._context: Any = None
        self._context_size = 0

    def sample(self, cell: Cell) -> list[list[list[int]]]:
        longest = max(len(ids) for ids in cell["prompt_ids"])
        self._make_context(longest, cell["max_new_tokens"])
        sampler = self._sampler(cell["temperature"])
        drawn: list[list[list[int]]] = []
        for ids in cell["prompt_ids"]:
            rows: list[list[int]] = []
            while len(rows) < cell["num_draws"]:
                count = min(self._options["sequences"], cell["num_draws"] - len(rows))
                rows += self._sample_group(ids, count, cell, sampler)
            drawn.append(rows)
        api.llama_sampler_free(sampler)
        return drawn

    def completions(self, drawn: list[list[list[int]]], cell: Cell) -> list[list[Completion]]:
        return [[(1, ids) for ids in rows] for rows in drawn]

    def _make_context(self, prompt_length: int, max_new_tokens: int) -> None:
        size = prompt_length + self._options["sequences"] * (max_new_tokens + 1)
        if size <= self._context_size:
            return
        if self._context:
            api.llama_free(self._context)
        params = api.llama_context_default_params()
        params.n_ctx = self._context_size = size
        params.n_batch = params.n_ubatch = max(512, self._options["sequences"])
        params.n_seq_max = self._options["sequences"]
        params.n_threads = params.n_threads_batch = self._threads
        params.kv_unified = True
        params.flash_attn_type = int(self._options["flash_attention"])
        params.type_k = params.type_v = GGML_TYPE_F32
        params.no_perf = True
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise SkippedCell(f"llama.cpp cannot make a context of {size:,} cells")
        self._batch = api.llama_batch_init(params.n_batch, 0, 1)

    def _sampler(self, temperature: float) -> Any:
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        if temperature == 0:
            api.llama_sampler_chain_add(chain, api.llama_sampler_init_greedy())
        else:
            api.llama_sampler_chain_add(chain, api.llama_sampler_init_temp(temperature))
            api.llama_sampler_chain_add(chain, api.llama_sampler_init_dist(42))
        return chain

    def _sample_group(self, prompt: list[int], count: int, cell: Cell, sampler: Any) -> list[list[int]]:
        memory = api.llama_get_memory(self._context)
        api.llama_memory_clear(memory, False)
        for start in range(0, len(prompt), self._batch_size):
            part = prompt[start : start + self._batch_size]
            self._decode([(token, start + i, 0) for i, token in enumerate(part)], last_only=True)
        for sequence in range(1, count):
            api.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        rows: list[list[int]] = [[] for _ in range(count)]
        live = list(range(count))
        places = [-1] * count  # every sequence draws its first token from the prompt's last logits
        for depth in range(cell["max_new_tokens"]):
            tokens = [api.llama_sampler_sample(sampler, self._context, place) for place in places]
            for sequence, token in zip(live, tokens, strict=True):
                rows[sequence].append(token)
            live = [sequence for sequence in live if rows[sequence][-1] not in cell["eos_ids"]]
            if not live or depth + 1 == cell["max_new_tokens"]:
                break
            self._decode([(rows[s][-1], len(prompt) + depth, s) for s in live], last_only=False)
            places = list(range(len(live)))
        return rows

    @property
    def _batch_size(self) -> int:
        return max(512, self._options["sequences"])

    def _decode(self, tokens: list[tuple[int, int, int]], last_only: bool) -> None:
        """Evaluates (token, position, sequence) triples in one batch."""
        batch, count = self._batch, len(tokens)
        batch.n_tokens = count
        as_array = np.ctypeslib.as_array
        as_array(batch.token, (count,))[:] = [token for token, _, _ in tokens]
        as_array(batch.pos, (count,))[:] = [position for _, position, _ in tokens]
        as_array(batch.n_seq_id, (count,))[:] = 1
        logits = as_array(batch.logits, (count,))
        logits[:] = 0 if last_only else 1
        logits[-1] = 1
        for i, (_, _, sequence) in enumerate(tokens):
            batch.seq_id[i][0] = sequence
        code = api.llama_decode(self._context, batch)
        if code != 0:
            raise SkippedCell(f"llama_decode answered {code}")


if __name__ == "__main__":
    serve(LlamaCpp)
