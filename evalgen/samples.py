"""The `samples/*.parquet` rows: every distinct token sequence drawn, and the distinct completions they decode to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from evalgen.records import FinishReason, SampledSequence, SamplingUnit
from evalgen.tokenization import decode

SAMPLES_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("checkpoint", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),  # as decoded, untrimmed, special tokens skipped
        ("token_ids", pa.list_(pa.int32())),  # as drawn, EOS included
        ("token_logprobs", pa.list_(pa.float32())),  # nats, T=1
        ("logprob", pa.float64()),
        ("logprob_sampling", pa.float64()),
        ("sample_count", pa.int64()),
        ("generation_indices", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("token_logprobs_sampling", pa.list_(pa.float32())),  # nats, under the sampling law
    ]
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row of `samples/*.parquet`: a distinct token sequence, and the text it decodes to."""

    prompt_id: str
    completion: str
    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    logprob: float
    logprob_sampling: float
    token_logprobs_sampling: tuple[float, ...]
    generation_indices: tuple[int, ...]  # ascending
    finish_reason: FinishReason

    @property
    def sample_count(self) -> int:
        return len(self.generation_indices)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A distinct decoded text of one prompt, with the sequences that decode to it."""

    prompt_id: str
    text: str
    samples: tuple[Sample, ...]

    @property
    def sample_count(self) -> int:
        return sum(sample.sample_count for sample in self.samples)

    @property
    def generation_idx(self) -> int:
        """The smallest generation index that drew it."""
        return min(sample.generation_indices[0] for sample in self.samples)


def text_ids(token_ids: tuple[int, ...], finish_reason: FinishReason) -> tuple[int, ...]:
    """The drawn ids that are text: without the EOS that ended the draw."""
    return token_ids[:-1] if finish_reason == "eos" else token_ids


def samples_table(
    unit: SamplingUnit, sequences: Iterable[SampledSequence], tokenizer: PreTrainedTokenizerBase
) -> pa.Table:
    """A unit's sequences as rows of `samples/*.parquet`."""
    prompts = {query.id: query.prompt for query in unit.queries}
    rows = [
        {
            "run": unit.checkpoint.run,
            "checkpoint": unit.checkpoint.name,
            "prompt_id": sequence.prompt_id,
            "prompt": prompts[sequence.prompt_id],
            "completion": decode(tokenizer, text_ids(sequence.token_ids, sequence.finish_reason)),
            "token_ids": sequence.token_ids,
            "token_logprobs": sequence.token_logprobs,
            "logprob": sequence.logprob,
            "logprob_sampling": sequence.logprob_sampling,
            "token_logprobs_sampling": sequence.token_logprobs_sampling,
            "sample_count": len(sequence.generation_indices),
            "generation_indices": sequence.generation_indices,
            "finish_reason": sequence.finish_reason,
        }
        for sequence in sequences
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLES_SCHEMA)


def samples_of(table: pa.Table) -> list[Sample]:
    """The rows of a samples table as records."""
    return [
        Sample(
            prompt_id=row["prompt_id"],
            completion=row["completion"],
            token_ids=tuple(row["token_ids"]),
            token_logprobs=tuple(row["token_logprobs"]),
            logprob=row["logprob"],
            logprob_sampling=row["logprob_sampling"],
            token_logprobs_sampling=tuple(row["token_logprobs_sampling"]),
            generation_indices=tuple(row["generation_indices"]),
            finish_reason=row["finish_reason"],
        )
        for row in table.to_pylist()
    ]


def distinct_completions(samples: Iterable[Sample]) -> list[Completion]:
    """Samples with one text put together (from any number of units), by prompt of first appearance, then by first draw.

    Draw ranges of one prompt may have been sampled in several units: equal sequences from two of them are one sample,
    their draws together.
    """
    sequences: dict[tuple[str, tuple[int, ...]], list[Sample]] = defaultdict(list)
    for sample in samples:
        sequences[sample.prompt_id, sample.token_ids].append(sample)
    texts: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for equal in sequences.values():
        texts[equal[0].prompt_id, equal[0].completion].append(_united(equal))
    prompts = {prompt_id: order for order, (prompt_id, _) in reversed(list(enumerate(texts)))}
    completions = [Completion(prompt_id=p, text=text, samples=tuple(found)) for (p, text), found in texts.items()]
    return sorted(completions, key=lambda c: (prompts[c.prompt_id], c.generation_idx))


def _united(equal: list[Sample]) -> Sample:
    draws = sorted(g for sample in equal for g in sample.generation_indices)
    return replace(equal[0], generation_indices=tuple(draws))
