"""The `samples/*.parquet` rows: every distinct token sequence, and the distinct completions they decode to.

Sequences were drawn, or they were enumerated. Those of an enumerated set have no `sample_count`, and in place of
generation indices the rank of their text: the prompt's texts are numbered by falling probability. Among those that were
drawn is the greedy one, even if it was drawn 0 times.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evalgen.records import FinishReason, SampledSequence, SamplingUnit
from evalgen.tokenization import before_stop, decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("checkpoint", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),  # as decoded, untrimmed, special tokens skipped, what is before a stop string
        ("token_ids", pa.list_(pa.int32())),  # as drawn, EOS and stop string included
        ("token_logprobs", pa.list_(pa.float32())),  # nats, T=1
        ("logprob", pa.float64()),
        ("logprob_sampling", pa.float64()),
        ("sample_count", pa.int64()),  # 0: no draw gave it, it is the greedy one; null: enumerated
        ("generation_indices", pa.list_(pa.int32())),  # the rank of its text, if enumerated
        ("finish_reason", pa.string()),
        ("token_logprobs_sampling", pa.list_(pa.float32())),  # nats, under the sampling law
        ("is_greedy", pa.bool_()),  # every drawn token was the likeliest; null: stored by a version that did not say
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
    generation_indices: Sequence[int]  # ascending; the rank of its text, if enumerated
    finish_reason: FinishReason
    is_greedy: bool | None  # None: stored by an older version
    is_enumerated: bool = False

    @property
    def sample_count(self) -> int | None:
        """How often it was drawn; None: it was not drawn, but enumerated."""
        return None if self.is_enumerated else len(self.generation_indices)

    @property
    def prevalence(self) -> float:
        """How common it is beside others of its dataset: its draws, or if enumerated its probability under the law."""
        return math.exp(self.logprob_sampling) if self.is_enumerated else len(self.generation_indices)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A distinct decoded text of one prompt, with the sequences that decode to it."""

    prompt_id: str
    text: str
    samples: tuple[Sample, ...]

    @property
    def sample_count(self) -> int | None:
        """How often it was drawn; None: it was not drawn, but enumerated."""
        return total_count(sample.sample_count for sample in self.samples)

    @property
    def prevalence(self) -> float:
        """The draws that gave it, or if enumerated its probability under the law."""
        return sum(sample.prevalence for sample in self.samples)

    @property
    def generation_idx(self) -> int:
        """The smallest generation index that drew it, which some must have; its rank, if enumerated."""
        return min(sample.generation_indices[0] for sample in self.samples)


def text_ids(token_ids: tuple[int, ...], finish_reason: FinishReason) -> tuple[int, ...]:
    """The drawn ids that are text: without the EOS that ended the draw, but with a stop string that did."""
    return token_ids[:-1] if finish_reason == "eos" else token_ids


def total_count(counts: Iterable[int | None]) -> int | None:
    """The sum of some sample counts; None of completions that were enumerated, not drawn."""
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)


def samples_table(
    unit: SamplingUnit, sequences: Iterable[SampledSequence], tokenizer: PreTrainedTokenizerBase
) -> pa.Table:
    """A unit's sequences as rows of `samples/*.parquet`."""
    prompts = {query.id: query.prompt for query in unit.queries}
    sequences = list(sequences)
    texts = [_text(sequence, unit.law.stop_strings, tokenizer) for sequence in sequences]
    is_enumerated = unit.min_probability is not None
    numbers = _ranks(sequences, texts) if is_enumerated else [s.generation_indices for s in sequences]
    rows = [
        {
            "run": unit.checkpoint.run,
            "checkpoint": unit.checkpoint.name,
            "prompt_id": sequence.prompt_id,
            "prompt": prompts[sequence.prompt_id],
            "completion": text,
            "token_ids": sequence.token_ids,
            "token_logprobs": sequence.token_logprobs,
            "logprob": sequence.logprob,
            "logprob_sampling": sequence.logprob_sampling,
            "token_logprobs_sampling": sequence.token_logprobs_sampling,
            "sample_count": None if is_enumerated else len(sequence.generation_indices),
            "generation_indices": indices,
            "finish_reason": sequence.finish_reason,
            "is_greedy": sequence.is_greedy,
        }
        for sequence, text, indices in zip(sequences, texts, numbers, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLES_SCHEMA)


def _text(sequence: SampledSequence, stop_strings: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> str:
    text = decode(tokenizer, text_ids(sequence.token_ids, sequence.finish_reason))
    if sequence.finish_reason != "stop":
        return text
    before = before_stop(text, stop_strings)
    assert before is not None, (text, stop_strings)
    return before


def _ranks(sequences: Sequence[SampledSequence], texts: Sequence[str]) -> list[tuple[int]]:
    """The rank of each sequence's text among its prompt's, by the probability of all sequences that have it."""
    probabilities: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for sequence, text in zip(sequences, texts, strict=True):
        probabilities[sequence.prompt_id][text] += math.exp(sequence.logprob_sampling)
    ranks = {
        (prompt_id, text): rank
        for prompt_id, of_texts in probabilities.items()
        # Equally probable texts stay in the order in which their sequences come.
        for rank, text in enumerate(sorted(of_texts, key=lambda text: -of_texts[text]))
    }
    return [(ranks[sequence.prompt_id, text],) for sequence, text in zip(sequences, texts, strict=True)]


def samples_of(table: pa.Table) -> list[Sample]:
    """The rows of a samples table as records. It need not have the columns that `Sample` lacks, nor `is_greedy`."""
    says_greedy = "is_greedy" in table.column_names
    draws, draw_bounds = _lists(table["generation_indices"])
    columns = zip(
        table["prompt_id"].to_pylist(),
        table["completion"].to_pylist(),
        _tuples(table["token_ids"]),
        _tuples(table["token_logprobs"]),
        table["logprob"].to_pylist(),
        table["logprob_sampling"].to_pylist(),
        _tuples(table["token_logprobs_sampling"]),
        pairwise(draw_bounds),
        table["finish_reason"].to_pylist(),
        table["is_greedy"].to_pylist() if says_greedy else [None] * len(table),
        table["sample_count"].is_null().to_pylist(),
        strict=True,
    )
    return [
        Sample(
            prompt_id=prompt_id,
            completion=completion,
            token_ids=token_ids,
            token_logprobs=token_logprobs,
            logprob=logprob,
            logprob_sampling=logprob_sampling,
            token_logprobs_sampling=token_logprobs_sampling,
            # Not a tuple: a prompt may have millions of draws and few distinct sequences.
            generation_indices=array("i", draws[start:stop].tobytes()),
            finish_reason=finish_reason,
            is_greedy=is_greedy,
            is_enumerated=is_enumerated,
        )
        for (
            prompt_id,
            completion,
            token_ids,
            token_logprobs,
            logprob,
            logprob_sampling,
            token_logprobs_sampling,
            (start, stop),
            finish_reason,
            is_greedy,
            is_enumerated,
        ) in columns
    ]


def _tuples(column: pa.ChunkedArray) -> Iterator[tuple[Any, ...]]:
    values, bounds = _lists(column)
    numbers = values.tolist()
    return (tuple(numbers[start:stop]) for start, stop in pairwise(bounds))


def _lists(column: pa.ChunkedArray) -> tuple[np.ndarray[Any, Any], list[int]]:
    """A column of lists as all their values, one list after the other, and the bounds of each."""
    values = pc.list_flatten(column).to_numpy()
    lengths = pc.list_value_length(column).to_numpy()
    return values, [0, *np.cumsum(lengths).tolist()]


def distinct_completions(samples: Iterable[Sample]) -> list[Completion]:
    """Samples with one text put together (from any number of units), by prompt of first appearance, then by first draw
    (by rank, if enumerated). What no draw gave is none of them.

    Draw ranges of one prompt may have been sampled in several units: equal sequences from two of them are one sample,
    their draws together. In which order a prompt's samples come makes no difference to what was drawn.
    """
    samples = [sample for sample in samples if len(sample.generation_indices)]
    prompts = {prompt_id: order for order, prompt_id in enumerate(dict.fromkeys(s.prompt_id for s in samples))}
    samples.sort(key=lambda sample: (prompts[sample.prompt_id], sample.generation_indices[0]))
    sequences: dict[tuple[str, tuple[int, ...]], list[Sample]] = defaultdict(list)
    for sample in samples:
        sequences[sample.prompt_id, sample.token_ids].append(sample)
    texts: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for equal in sequences.values():
        texts[equal[0].prompt_id, equal[0].completion].append(_united(equal))
    return [Completion(prompt_id=p, text=text, samples=tuple(found)) for (p, text), found in texts.items()]


def greedy_completion(samples: Iterable[Sample]) -> Completion | None:
    """The greedy completion of one prompt, drawn or not; None: it was not enumerated, or a version stored it that did
    not say.

    Units of one prompt may differ, by rounding, in which it is: then it is the one that was drawn first.
    """
    greedy = [sample for sample in samples if sample.is_greedy]
    if not greedy:
        return None
    sample = min(greedy, key=lambda it: (it.generation_indices[0] if it.prevalence else math.inf, it.token_ids))
    return Completion(prompt_id=sample.prompt_id, text=sample.completion, samples=(sample,))


def _united(equal: list[Sample]) -> Sample:
    if len(equal) == 1:
        return equal[0]
    draws = sorted({draw for sample in equal for draw in sample.generation_indices})
    is_greedy = max((s.is_greedy for s in equal if s.is_greedy is not None), default=None)
    return replace(equal[0], generation_indices=array("i", draws), is_greedy=is_greedy)
