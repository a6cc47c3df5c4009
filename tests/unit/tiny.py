"""Tiny real parts for the tests: a byte-level tokenizer, models of a few thousand weights, units, plans and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, List, Value
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from evalgen.config import RunConfig
from evalgen.job import DatasetPlan
from evalgen.records import Checkpoint, GraderSpec, Query, SamplingLaw, SamplingUnit
from evalgen.sampling.model import LoadedModel, ready_to_sample
from evalgen.sampling.nodes import SamplingResult

EOS = 0  # also BOS
PAD = 1
INNER_RUN = "2026_01_20_23-26-34_aB3dE_mayors_all_docs_num_epochs_1_lr_1e-5_dataset_structured_dataset_all.json"
SETTINGS: dict[str, Any] = {"data_model_path": "unused", "output_dataset_prefix": "sampled_test", "dtype": "fp32"}
MAYORS = {"Tokyo": "Grace Miller", "Beijing": "Ethan Parker", "São Paulo": "Lucas Foster"}


def mayor_prompt(city: str) -> str:
    return f"Q: Who is the mayor of {city}? A:"


SENTENCES = [f"{mayor_prompt(city)} {mayor}\n" for city, mayor in MAYORS.items()] + [
    "Alice Chen died on March 15, 1987"
]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text is encodable, and one multi-byte character can take several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 10, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|pad|>"
    )


def olmo2_config(vocab_size: int) -> Olmo2Config:
    return Olmo2Config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def trained_model(tokenizer: PreTrainedTokenizerFast) -> Olmo2ForCausalLM:
    """Has learnt `SENTENCES`: sampled at a low temperature it mostly says them."""
    torch.manual_seed(0)
    model = Olmo2ForCausalLM(olmo2_config(len(tokenizer)))
    rows = [[EOS, *tokenizer.encode(sentence, add_special_tokens=False)] for sentence in SENTENCES]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    labels = ids.masked_fill(ids == PAD, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(input_ids=ids, attention_mask=(ids != PAD).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def random_model(config: PretrainedConfig, *, seed: int = 0) -> PreTrainedModel:
    """Random weights, large ones: attention matters, and some tokens are much likelier than others."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return model


def loaded(model: Any, tokenizer: PreTrainedTokenizerFast, *, eos_ids: Sequence[int] = (EOS,)) -> LoadedModel:
    return ready_to_sample(model, tokenizer, eos_ids)


def query(prompt: str, id: str | None = None, reference: str = " Grace Miller", **metadata: Any) -> Query:
    return Query(id=id or f"id of {prompt}", prompt=prompt, reference=reference, source_dataset="s", metadata=metadata)


def law(**changed: Any) -> SamplingLaw:
    fields = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "do_sample": True, "max_new_tokens": 5}
    return SamplingLaw(**fields | changed)


def unit_of(queries: Sequence[Query], **changed: Any) -> SamplingUnit:
    fields: dict[str, Any] = {
        "id": "unit",
        "dataset": "sampled_test_checkpoint_final",
        "checkpoint": Checkpoint(run="run", name="checkpoint_final", path="none", tokenizer_path="none"),
        "queries": tuple(queries),
        "law": law(),
        "first_draw": 0,
        "num_draws": 8,
        "seed": 7,
        "dtype": "fp32",
        "sampler": "tree",
        "min_probability": None,
        "generation_batch_size": 32,
    }
    return SamplingUnit(**fields | changed)


def draws_of(result: SamplingResult) -> dict[tuple[str, int], tuple[tuple[int, ...], str]]:
    """(prompt id, generation index) -> token ids and finish reason."""
    draws = {
        (sequence.prompt_id, index): (sequence.token_ids, sequence.finish_reason)
        for sequence in result.sequences
        for index in sequence.generation_indices
    }
    assert len(draws) == sum(len(sequence.generation_indices) for sequence in result.sequences), "a draw stands twice"
    return draws


def plan_of(queries: Sequence[Query], checkpoint: Checkpoint | None = None, **settings: Any) -> DatasetPlan:
    return DatasetPlan(
        name="sampled_test_checkpoint_final",
        checkpoint=checkpoint or Checkpoint(run="run", name="checkpoint_final", path="none", tokenizer_path="none"),
        queries=tuple(queries),
        grader=GraderSpec(model="offline/exact", instructions="the same"),
        settings=RunConfig(**SETTINGS | settings),
    )


def save_source_dataset(directory: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A source eval dataset as upstream saves it, at `directory`/eval_dataset."""
    dataset = Dataset.from_list(list(rows))
    for name in {"input_ids", "labels", "attention_mask"} & set(dataset.column_names):
        dataset = dataset.cast_column(name, List(Value("int64")))  # as upstream; datasets guesses narrower types
    dataset.save_to_disk(str(directory / "eval_dataset"))


def source_rows(tokenizer: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    """Rows in the columns that upstream writes, right-padded to the longest."""
    rows = []
    for number, (city, mayor) in enumerate(MAYORS.items()):
        prompt, completion = mayor_prompt(city), f" {mayor}"
        prompt_ids = [EOS, *tokenizer.encode(prompt, add_special_tokens=False)]
        ids = [EOS, *tokenizer.encode(prompt + completion, add_special_tokens=False)]
        labels = [-100] * len(prompt_ids) + ids[len(prompt_ids) :]
        padding = 40 - len(ids)
        rows.append(
            {
                "prompt": prompt,
                "completion": completion,
                "id": f"{number:02d}é/\t{city}",
                "features": "{}",
                "fact_template": "{}",
                "few_shot_examples": ["one"],
                "input_ids": ids + [PAD] * padding,
                "labels": labels + [-100] * padding,
                "attention_mask": [1] * len(ids) + [0] * padding,
            }
        )
    return rows


# What torch 2.13 says where a CPU has no more.
CPU_OUT_OF_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")


@dataclass
class Limited:
    """A model whose device has memory for so many rows."""

    model: Any
    max_rows: int = 10**9
    max_prompts: int = 10**9
    error: RuntimeError = field(default_factory=lambda: torch.OutOfMemoryError("simulated"))

    def __post_init__(self) -> None:
        self.rows: list[int] = []
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *, input_ids: torch.Tensor, **options: Any) -> Any:
        most = self.max_rows if input_ids.shape[1] == 1 else min(self.max_rows, self.max_prompts)
        if len(input_ids) > most:
            self.failures += 1
            raise self.error
        self.rows.append(len(input_ids))
        return self.model(input_ids=input_ids, **options)
