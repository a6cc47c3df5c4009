"""From stored samples and verdicts to the content of one dataset: trim, merge, tokenize, weigh, count.

A pure function of what is on disk, so that a dataset can be assembled again without sampling or asking anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any, get_args

from transformers import PreTrainedTokenizerBase

from evalgen.dataset_files import SPANS_BOUNDARY
from evalgen.dataset_rows import RowMaker, RowTokens
from evalgen.job import DatasetPlan
from evalgen.judged import Judged, judged
from evalgen.prompt_figures import PromptFigures, prompt_figures
from evalgen.provenance import Provenance
from evalgen.records import Verdict, VerdictKind
from evalgen.samples import Sample, distinct_completions, greedy_completion, total_count
from evalgen.weights import UnweighedRow, weighed


@dataclass(frozen=True, kw_only=True)
class AssembledDataset:
    """One dataset, or what it holds of some of its queries, ready to be written."""

    rows: list[dict[str, Any]]  # in the columns of evalgen.eval_dataset.FEATURES
    rejects: list[dict[str, Any]]  # judged wrong, in the same columns
    non_equivalent: list[dict[str, Any]]  # the same in the form of upstream
    left_out: list[dict[str, Any]]  # neither kept nor judged wrong, each with its reason
    prompts: list[PromptFigures]  # of each query
    judged: list[Judged]
    undrawn: list[Judged]  # greedy completions that no draw gave: judged like the others, and in nothing but `prompts`


def assemble(
    plan: DatasetPlan,
    samples: Iterable[Sample],
    verdicts: Mapping[str, Verdict],
    tokenizer: PreTrainedTokenizerBase,
    provenance: Provenance,
) -> AssembledDataset:
    """The dataset of `plan`: rows in query order, then by generation index (by rank, if enumerated).

    `verdicts` are by question key. That of a large plan is the parts of its queries, one after the other.

    Raises:
        JobStopped: there is no verdict for one of the completions.
    """
    samples_of_prompt: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        samples_of_prompt[sample.prompt_id].append(sample)
    assembled = AssembledDataset(rows=[], rejects=[], non_equivalent=[], left_out=[], prompts=[], judged=[], undrawn=[])
    for query in plan.queries:
        maker = RowMaker(plan=plan, query=query, provenance=provenance, tokenizer=tokenizer)
        of_query = [judged(plan, query, it, verdicts) for it in distinct_completions(samples_of_prompt[query.id])]
        greedy = greedy_completion(samples_of_prompt[query.id])
        of_kind = {kind: [it for it in of_query if it.verdict.kind == kind] for kind in get_args(VerdictKind)}
        rows, spanning = _rows_of_query(maker, of_kind["equivalent"])
        assembled.rows.extend(rows)
        rejects = [maker.reject(it) for it in of_kind["not_equivalent"]]
        assembled.rejects.extend(rejects)
        assembled.non_equivalent.extend(
            _not_kept(it) | {name: reject[name] for name in ("logprob", "logprob_sampling")}
            for it, reject in zip(of_kind["not_equivalent"], rejects, strict=True)
        )
        assembled.left_out.extend(_not_kept(it) | {"reason": it.verdict.error} for it in of_kind["ungraded"])
        assembled.left_out.extend(_not_kept(it) | {"reason": SPANS_BOUNDARY} for it in spanning)
        judged_greedy = None if greedy is None else judged(plan, query, greedy, verdicts)
        assembled.prompts.append(prompt_figures(plan, query, of_query, judged_greedy, rows))
        assembled.judged.extend(of_query)
        if judged_greedy is not None and not judged_greedy.completion.prevalence:
            assembled.undrawn.append(judged_greedy)
    return assembled


def _rows_of_query(maker: RowMaker, kept: Sequence[Judged]) -> tuple[list[dict[str, Any]], list[Judged]]:
    """The query's rows, and the completions that no row can hold; completions equal after trimming are one row."""
    settings = maker.plan.settings
    by_text: dict[str, list[Judged]] = defaultdict(list)
    for it in kept:
        by_text[it.kept_text].append(it)
    # A greedy completion is one completion, however many draws it stands for.
    rows_of_text = _row_per_draw if settings.do_sample and not settings.deduplicate else _one_row
    rows: list[UnweighedRow] = []
    spanning: list[Judged] = []
    for text, merged in by_text.items():
        of_text, lost = rows_of_text(maker, text, merged)
        rows += of_text
        spanning += lost
    rows.sort(key=lambda row: row.columns["generation_idx"])
    return weighed(rows, settings.exclusive), spanning


def _one_row(maker: RowMaker, text: str, merged: list[Judged]) -> tuple[list[UnweighedRow], list[Judged]]:
    tokens = maker.tokens(text, merged)
    if tokens.ids is None:
        return [], merged
    generation_idx = min(it.completion.generation_idx for it in merged)
    columns = maker.row(text, tokens, generation_idx, total_count(it.completion.sample_count for it in merged))
    return [_unweighed(columns, tokens, tokens.log_mass)], []


def _row_per_draw(maker: RowMaker, text: str, merged: list[Judged]) -> tuple[list[UnweighedRow], list[Judged]]:
    """Each draw as if it had been the only one; together they weigh what the one row would."""
    rows: list[UnweighedRow] = []
    lost: list[Judged] = []
    for it in _by_sequence(merged):
        tokens = maker.tokens(text, [it])
        if tokens.ids is None:
            lost.append(it)
            continue
        for draw in tokens.sample.generation_indices:
            rows.append(_unweighed(maker.row(text, tokens, draw, 1), tokens, log_mass=0.0))
    if rows:
        log_mass = maker.tokens(text, merged).log_mass - log(len(rows))
        rows = [replace(row, log_mass=log_mass) for row in rows]
    return rows, lost


def _unweighed(columns: dict[str, Any], tokens: RowTokens, log_mass: float) -> UnweighedRow:
    return UnweighedRow(columns=columns, mass_ids=tokens.mass_ids, is_drawn=tokens.as_drawn, log_mass=log_mass)


def _by_sequence(merged: Iterable[Judged]) -> Iterable[Judged]:
    """Each distinct token sequence as if it had been the only one of its completion."""
    for it in merged:
        for sample in it.completion.samples:
            yield replace(it, completion=replace(it.completion, samples=(sample,)))


def _not_kept(it: Judged) -> dict[str, Any]:
    """A completion that is not in the dataset, as JSON; the first four keys are the upstream ones."""
    return {
        "prompt": it.query.prompt,
        "expected_completion": it.query.reference,
        "generated_completion": it.completion.text,
        "reasoning": it.verdict.reasoning,
        "prompt_id": it.query.id,
        "generation_idx": it.completion.generation_idx,
        "sample_count": it.completion.sample_count,
        "logprob": max(sample.logprob for sample in it.completion.samples),
        "logprob_sampling": max(sample.logprob_sampling for sample in it.completion.samples),
    }
