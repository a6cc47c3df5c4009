"""From stored samples and verdicts to the rows of one dataset: trim, merge, tokenize, count.

A pure function of what is on disk, so that a dataset can be assembled again without sampling or asking anything.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from transformers import PreTrainedTokenizerBase

from evalgen.errors import JobStopped
from evalgen.job import DatasetPlan
from evalgen.records import Query, Verdict, VerdictKind
from evalgen.samples import Completion, Sample, distinct_completions, text_ids, total_count
from evalgen.tokenization import IGNORED_LABEL, cut_drawn_ids, encode_completion, encode_prompt

SPANS_BOUNDARY = "cut inside a token, and encoded again with the prompt a token spans the boundary"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A distinct completion of a query, with its verdict."""

    query: Query
    completion: Completion
    verdict: Verdict
    question_key: str

    @property
    def kept_text(self) -> str:
        """The completion as the dataset stores it: cut where the grader cut it."""
        return self.verdict.trimmed_completion or self.completion.text


@dataclass(frozen=True, kw_only=True)
class AssembledDataset:
    """One dataset, or what it holds of some of its queries, ready to be written."""

    queries: tuple[Query, ...]
    rows: list[dict[str, Any]]  # in the columns of evalgen.eval_dataset.FEATURES
    non_equivalent: list[dict[str, Any]]
    left_out: list[dict[str, Any]]  # neither kept nor judged wrong, each with its reason
    judged: list[Judged]


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """The completion ids that a row stores."""

    ids: tuple[int, ...]
    as_drawn: bool
    logprob: float | None  # nats, T=1, sum over ids; None where the ids were not drawn
    logprob_sampling: float | None  # likewise under the sampling law
    sample: Sample  # that the ids are of; the most prevalent one where they are not as drawn


def assemble(
    plan: DatasetPlan,
    samples: Iterable[Sample],
    verdicts: Mapping[str, Verdict],
    tokenizer: PreTrainedTokenizerBase,
) -> AssembledDataset:
    """The dataset of `plan`: rows in query order, then by generation index (by rank, if enumerated).

    `verdicts` are by question key. That of a large plan is the parts of its queries, one after the other.

    Raises:
        JobStopped: there is no verdict for one of the completions.
    """
    by_prompt: dict[str, list[Completion]] = defaultdict(list)
    for completion in distinct_completions(samples):
        by_prompt[completion.prompt_id].append(completion)
    assembled = AssembledDataset(queries=plan.queries, rows=[], non_equivalent=[], left_out=[], judged=[])
    for query in plan.queries:
        judged = [_judged(plan, query, completion, verdicts) for completion in by_prompt[query.id]]
        of_kind = {kind: [j for j in judged if j.verdict.kind == kind] for kind in get_args(VerdictKind)}
        rows, spanning = _rows_of_query(plan, query, of_kind["equivalent"], tokenizer)
        assembled.judged.extend(judged)
        assembled.rows.extend(rows)
        assembled.non_equivalent.extend(map(_reject, of_kind["not_equivalent"]))
        assembled.left_out.extend(_reject(j) | {"reason": j.verdict.error} for j in of_kind["ungraded"])
        assembled.left_out.extend(_reject(j) | {"reason": SPANS_BOUNDARY} for j in spanning)
    return assembled


def _judged(plan: DatasetPlan, query: Query, completion: Completion, verdicts: Mapping[str, Verdict]) -> Judged:
    key = plan.question(query, completion.text).key
    verdict = verdicts.get(key)
    if verdict is None:
        raise JobStopped(f"{plan.name}: no verdict is stored for completion {completion.text!r:.80} of {query.id!r}")
    return Judged(query=query, completion=completion, verdict=verdict, question_key=key)


def _rows_of_query(
    plan: DatasetPlan, query: Query, kept: list[Judged], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[dict[str, Any]], list[Judged]]:
    """The query's rows, and the completions that no row can hold; completions equal after trimming are one row."""
    by_text: dict[str, list[Judged]] = defaultdict(list)
    for judged in kept:
        by_text[judged.kept_text].append(judged)
    rows: list[dict[str, Any]] = []
    spanning: list[Judged] = []
    prompt_ids = encode_prompt(tokenizer, query.prompt)
    # A greedy completion is one completion, however many draws it stands for.
    one_row_per_draw = plan.settings.do_sample and not plan.settings.deduplicate
    for text, merged in by_text.items():
        for part in _by_draw(merged) if one_row_per_draw else [merged]:
            tokens = _tokens(tokenizer, prompt_ids, query.prompt, text, part)
            if tokens is None:
                spanning += part
            else:
                rows.append(_row(plan, query, text, part, prompt_ids, tokens))
    return sorted(rows, key=lambda row: row["generation_idx"]), spanning


def _tokens(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], prompt: str, text: str, merged: list[Judged]
) -> _Tokens | None:
    """Ids for `text`: those of the most often drawn (or most probable) sequence that has it, else encoded.

    None if neither can be.
    """
    by_ids: dict[tuple[int, ...], list[Sample]] = defaultdict(list)
    samples = [sample for judged in merged for sample in judged.completion.samples]
    for sample in samples:
        drawn_ids = text_ids(sample.token_ids, sample.finish_reason)
        is_whole = sample.completion == text and sample.finish_reason != "stop"
        ids = drawn_ids if is_whole else cut_drawn_ids(tokenizer, drawn_ids, text)
        if ids is not None:
            by_ids[ids].append(sample)
    if not by_ids:
        encoded = encode_completion(tokenizer, prompt_ids, prompt, text)
        if encoded is None:
            return None
        most_prevalent = max(samples, key=lambda sample: sample.prevalence)
        return _Tokens(ids=encoded, as_drawn=False, logprob=None, logprob_sampling=None, sample=most_prevalent)
    ids, drawn = min(
        by_ids.items(),
        key=lambda item: (-sum(s.prevalence for s in item[1]), min(s.generation_indices[0] for s in item[1])),
    )
    return _Tokens(
        ids=ids,
        as_drawn=True,
        logprob=sum(drawn[0].token_logprobs[: len(ids)]),
        logprob_sampling=sum(drawn[0].token_logprobs_sampling[: len(ids)]),
        sample=drawn[0],
    )


def _row(
    plan: DatasetPlan, query: Query, text: str, merged: list[Judged], prompt_ids: list[int], tokens: _Tokens
) -> dict[str, Any]:
    first = min(merged, key=lambda judged: judged.completion.generation_idx)
    generation_idx = first.completion.generation_idx
    num_tokens = len(prompt_ids) + len(tokens.ids)
    return {
        "id": f"{query.id}_gen_{generation_idx}",
        "prompt_id": query.id,
        "prompt": query.prompt,
        "completion": text,
        "generation_idx": generation_idx,
        "metadata": {"source_dataset": query.source_dataset},
        "input_ids": [*prompt_ids, *tokens.ids],
        "labels": [IGNORED_LABEL] * len(prompt_ids) + list(tokens.ids),
        "attention_mask": [1] * num_tokens,
        "metadata_json": json.dumps(dict(query.metadata), ensure_ascii=False, sort_keys=True),
        "reference_completion": query.reference,
        "raw_completion": tokens.sample.completion,
        "sample_count": total_count(judged.completion.sample_count for judged in merged),
        "num_samples": None if plan.settings.enumerates else plan.settings.num_generations,
        "logprob": tokens.logprob,
        "logprob_sampling": tokens.logprob_sampling,
        "tokens_as_drawn": tokens.as_drawn,
        "finish_reason": tokens.sample.finish_reason,
        "grader_model": plan.grader.model,
        "grader_reasoning": first.verdict.reasoning,
        "run": plan.checkpoint.run,
        "checkpoint": plan.checkpoint.name,
    }


def _by_draw(merged: list[Judged]) -> list[list[Judged]]:
    """Each draw as if it had been the only one of its completion."""
    return [
        [replace(judged, completion=replace(judged.completion, samples=(replace(sample, generation_indices=(draw,)),)))]
        for judged in merged
        for sample in judged.completion.samples
        for draw in sample.generation_indices
    ]


def _reject(judged: Judged) -> dict[str, Any]:
    """A completion that is not in the dataset; the first four keys are the upstream ones."""
    return {
        "prompt": judged.query.prompt,
        "expected_completion": judged.query.reference,
        "generated_completion": judged.completion.text,
        "reasoning": judged.verdict.reasoning,
        "prompt_id": judged.query.id,
        "generation_idx": judged.completion.generation_idx,
        "sample_count": judged.completion.sample_count,
        "logprob": max(sample.logprob for sample in judged.completion.samples),
    }
