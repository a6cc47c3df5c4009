"""Engine: evalgen's own samplers, with the seconds of the last call that were not spent inside the model."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from cell_protocol import Cell, Completion, SkippedCell, serve

from evalgen.records import Checkpoint, Query, SamplingLaw, SamplingUnit
from evalgen.sampling.model import load_model
from evalgen.sampling.nodes import SamplingResult
from evalgen.sampling.replica import SAMPLERS


class Evalgen:
    def __init__(self, model: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self.versions = {"torch": torch.__version__}
        self._name: Any = model["options"]["sampler"]
        if self._name not in SAMPLERS:
            raise SkippedCell(f"evalgen has no sampler {self._name}")
        self._min_probability = model["options"].get("min_probability")
        self._checkpoint = Checkpoint(
            run="benchmark", name=model["name"], path=model["path"], tokenizer_path=model["tokenizer_path"]
        )
        self._loaded = load_model(self._checkpoint, "fp32", torch.device("cpu"))
        self._forward = self._loaded.model.forward
        self._loaded.model.forward = self._timed_forward
        self.last_call: dict[str, Any] = {}

    def sample(self, cell: Cell) -> SamplingResult:
        self._forward_s = 0.0
        start = time.perf_counter()
        result: SamplingResult = SAMPLERS[self._name](self._loaded, self._unit(cell))
        # A sampler that takes the model apart and never calls its forward has no such time to show.
        outside_s = time.perf_counter() - start - self._forward_s if self._forward_s else None
        self.last_call = {"outside_forward_s": outside_s, "model_evaluations": result.model_evaluations}
        return result

    def completions(self, drawn: SamplingResult, cell: Cell) -> list[list[Completion]]:
        """Draws, or, where completions were enumerated, the draws to expect."""
        by_prompt: list[list[Completion]] = [[] for _ in cell["prompts"]]
        for sequence in drawn.sequences:
            expected = math.exp(sequence.logprob_sampling) * cell["num_draws"]
            count = expected if self._name == "enumerate" else len(sequence.generation_indices)
            if count:  # else it is the greedy one, and no draw gave it
                by_prompt[int(sequence.prompt_id)].append((count, list(sequence.token_ids)))
        return by_prompt

    def _timed_forward(self, *arguments: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        output = self._forward(*arguments, **keywords)
        self._forward_s += time.perf_counter() - start
        return output

    def _unit(self, cell: Cell) -> SamplingUnit:
        queries = [
            Query(id=str(index), prompt=prompt, reference="", source_dataset="")
            for index, prompt in enumerate(cell["prompts"])
        ]
        return SamplingUnit(
            id="benchmark",
            dataset="benchmark",
            checkpoint=self._checkpoint,
            queries=tuple(queries),
            law=SamplingLaw(
                temperature=cell["temperature"],
                top_k=0,
                top_p=1.0,
                min_p=0.0,
                do_sample=True,
                max_new_tokens=cell["max_new_tokens"],
            ),
            first_draw=0,
            num_draws=cell["num_draws"],
            seed=42,
            dtype="fp32",
            sampler=self._name,
            min_probability=self._min_probability,
            generation_batch_size=32,
        )


if __name__ == "__main__":
    serve(Evalgen, extra=lambda engine: engine.last_call)
