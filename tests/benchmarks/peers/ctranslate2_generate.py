"""Engine: CTranslate2's `Generator.generate_batch(num_hypotheses=n)`, sampling from the whole vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctranslate2
import transformers
from cell_protocol import Cell, Completion, SkippedCell, serve
from ctranslate2.converters import TransformersConverter


class CTranslate2:
    def __init__(self, model: dict[str, Any], threads: int) -> None:
        self.versions = {"ctranslate2": ctranslate2.__version__, "transformers": transformers.__version__}
        tokenizer = transformers.AutoTokenizer.from_pretrained(model["tokenizer_path"])
        self._tokens_of = tokenizer.convert_ids_to_tokens
        converted = Path(model["work_dir"]) / "ctranslate2"
        if not (converted / "model.bin").exists():
            _convert(model["path"], converted)
        self._generator = ctranslate2.Generator(
            str(converted), device="cpu", compute_type="float32", intra_threads=threads, inter_threads=1
        )

    def sample(self, cell: Cell) -> list[Any]:
        return self._generator.generate_batch(
            [self._tokens_of(ids) for ids in cell["prompt_ids"]],
            num_hypotheses=cell["num_draws"],
            sampling_topk=0,
            sampling_temperature=cell["temperature"],
            max_length=cell["max_new_tokens"],
            end_token=cell["eos_ids"],
            include_prompt_in_result=False,
        )

    def completions(self, drawn: list[Any], cell: Cell) -> list[list[Completion]]:
        return [[(1, ids) for ids in result.sequences_ids] for result in drawn]


def _convert(path: str, converted: Path) -> None:
    try:
        TransformersConverter(path).convert(str(converted), quantization="float32", force=True)
    except ValueError as error:
        raise SkippedCell(f"not supported: {str(error).split(' (')[0]}") from error


if __name__ == "__main__":
    serve(CTranslate2)
