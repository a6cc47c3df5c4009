"""One row of a dataset or of its rejects: which ids it stores, and its columns.

A row shows one draw (ids, finish reason, untrimmed text, reasoning) and counts all that were merged into it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from evalgen.job import DatasetPlan
from evalgen.judged import Judged
from evalgen.provenance import Provenance
from evalgen.records import Query
from evalgen.samples import Sample, text_ids
from evalgen.tokenization import IGNORED_LABEL, covering_ids, cut_drawn_ids, encode_completion, encode_prompt


@dataclass(frozen=True, kw_only=True)
class RowTokens:
    """The completion ids that a row stores, and the draw that it shows."""

    ids: tuple[int, ...] | None  # None: a token would span the boundary to the prompt
    as_drawn: bool
    logprob: float | None  # nats, T=1, sum over ids; None where the ids were not drawn
    logprob_sampling: float | None  # likewise under the sampling law
    mass_ids: tuple[int, ...]  # the shortest start of the draw that has the row's text; `ids` where they are as drawn
    log_mass: float  # its log-probability in nats, T=1
    judged: Judged  # the completion that was drawn
    sample: Sample  # of it, that the ids are of; the most prevalent one where they are not as drawn


@dataclass(frozen=True, kw_only=True)
class RowMaker:
    """Makes the rows of one query."""

    plan: DatasetPlan
    query: Query
    provenance: Provenance
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def prompt_ids(self) -> list[int]:
        return encode_prompt(self.tokenizer, self.query.prompt)

    def tokens(self, text: str, merged: Sequence[Judged]) -> RowTokens:
        """Ids for `text`, with which all of `merged` begin.

        Those of the most often drawn (or most probable) sequence that has it; of equally frequent ones the first drawn.
        Else those of the text, encoded.
        """
        by_ids: dict[tuple[int, ...], list[tuple[Judged, Sample]]] = defaultdict(list)
        drawn = [(judged, sample) for judged in merged for sample in judged.completion.samples]
        for judged, sample in drawn:
            ids = self._cut(sample, text)
            if ids is not None:
                by_ids[ids].append((judged, sample))
        if not by_ids:
            return self._encoded(text, *min(drawn, key=lambda it: (-it[1].prevalence, it[1].generation_indices[0])))
        ids, of_ids = min(
            by_ids.items(),
            key=lambda item: (
                -sum(sample.prevalence for _, sample in item[1]),
                min(sample.generation_indices[0] for _, sample in item[1]),
            ),
        )
        judged, sample = of_ids[0]
        logprob = sum(sample.token_logprobs[: len(ids)])
        return RowTokens(
            ids=ids,
            as_drawn=True,
            logprob=logprob,
            logprob_sampling=sum(sample.token_logprobs_sampling[: len(ids)]),
            mass_ids=ids,
            log_mass=logprob,
            judged=judged,
            sample=sample,
        )

    def row(self, text: str, tokens: RowTokens, generation_idx: int, sample_count: int | None) -> dict[str, Any]:
        """The columns of `evalgen.eval_dataset.FEATURES`, but for the two that depend on the prompt's other rows."""
        plan, query, sample = self.plan, self.query, tokens.sample
        return {
            "id": f"{query.id}_gen_{generation_idx}",
            "prompt_id": query.id,
            "prompt": query.prompt,
            "completion": text,
            "generation_idx": generation_idx,
            "metadata": {"source_dataset": query.source_dataset},
            **self._token_columns(tokens.ids),
            "reference_completion": query.reference,
            "raw_completion": sample.completion,
            "sample_count": sample_count,
            "num_samples": None if plan.settings.enumerates else plan.settings.num_generations,
            "logprob": tokens.logprob,
            "logprob_sampling": tokens.logprob_sampling,
            "token_ids": list(sample.token_ids),
            "token_logprobs": list(sample.token_logprobs),
            "tokens_as_drawn": tokens.as_drawn,
            "finish_reason": sample.finish_reason,
            "grader_model": plan.grader.model,
            "grader_reasoning": tokens.judged.verdict.reasoning,
            "run": plan.checkpoint.run,
            "checkpoint": plan.checkpoint.name,
            "weights_digest": self.provenance.weights_digest,
            "tokenizer_digest": self.provenance.tokenizer_digest,
            "grader_digest": self.provenance.grader_digest,
            "metadata_json": self._metadata_json,
        }

    def reject(self, judged: Judged) -> dict[str, Any]:
        """A completion that is not equivalent, whole, in all columns of the dataset."""
        text, completion = judged.completion.text, judged.completion
        columns = self.row(text, self.tokens(text, [judged]), completion.generation_idx, completion.sample_count)
        return columns | {"weight": None, "is_prefix_of": None}

    def _cut(self, sample: Sample, text: str) -> tuple[int, ...] | None:
        """The drawn ids that decode to `text`; None where it ends inside a token."""
        drawn_ids = text_ids(sample.token_ids, sample.finish_reason)
        if sample.completion == text and sample.finish_reason != "stop":
            return drawn_ids
        return cut_drawn_ids(self.tokenizer, drawn_ids, text)

    def _encoded(self, text: str, judged: Judged, sample: Sample) -> RowTokens:
        covering = covering_ids(self.tokenizer, text_ids(sample.token_ids, sample.finish_reason), text)
        return RowTokens(
            ids=encode_completion(self.tokenizer, self.prompt_ids, self.query.prompt, text),
            as_drawn=False,
            logprob=None,
            logprob_sampling=None,
            mass_ids=covering,
            log_mass=sum(sample.token_logprobs[: len(covering)]),
            judged=judged,
            sample=sample,
        )

    def _token_columns(self, ids: tuple[int, ...] | None) -> dict[str, Any]:
        if ids is None:
            return dict.fromkeys(("input_ids", "labels", "attention_mask", "num_completion_tokens"))
        return {
            "input_ids": [*self.prompt_ids, *ids],
            "labels": [IGNORED_LABEL] * len(self.prompt_ids) + list(ids),
            "attention_mask": [1] * (len(self.prompt_ids) + len(ids)),
            "num_completion_tokens": len(ids),
        }

    @cached_property
    def _metadata_json(self) -> str:
        return json.dumps(dict(self.query.metadata), ensure_ascii=False, sort_keys=True)
