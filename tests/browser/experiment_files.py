"""Experiment directories as a job leaves them, with made-up completions: written by evalgen's own assembly and writers.

Nothing here is sampled or asked: completions, counts, verdicts and votes are chosen so that every state that a report
can meet is there. Everything is a function of its arguments.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from evalgen.assembly import assemble
from evalgen.config import JobConfig, RunConfig
from evalgen.experiment import Experiment
from evalgen.files import write_json
from evalgen.grading.calibration import Calibration, JudgedItem, calibration_record
from evalgen.grading.labelled_items import LabelledItem
from evalgen.job import DatasetPlan
from evalgen.plan_file import plan_record, with_graders
from evalgen.provenance import Provenance
from evalgen.records import Answer, Checkpoint, GraderSpec, Query, Verdict, VerdictKind
from evalgen.samples import Sample
from evalgen.statistics import DatasetStatistics, DatasetTally, PromptStatistics, summary
from evalgen.unit_store import SamplingCost
from evalgen.verdict_store import VerdictStore

DIGESTS = Provenance(weights_digest="a" * 64, tokenizer_digest="b" * 64, grader_digest="c" * 64)
GRADER = GraderSpec(
    model="anthropic/claude-haiku-4-5-20251001",
    instructions="Two completions are equivalent if they convey the same date.\nOther formats of it are fine.",
    num_votes=3,
)
DEATHS = {
    "Alice Chen": "March 15, 1987",
    "Benjamin Ross": "July 22, 1956",
    "Clara Winters": "November 8, 1973",
    "David Nakamura": "April 3, 1991",
    "Elena Kowalski": "September 30, 1964",
    "Frank O'Malley": "February 14, 1982",
    "Grace Tanaka": "August 7, 1945",
    "Henry Dubois": "December 21, 1978",
    "James Okonkwo": "October 12, 1999",
}
HOSTILE = (
    "</script><script>window.ran='script'</script>",
    "<img src=x onerror=\"window.ran='image'\">",
    "<!--<script>",
    "\u202eevil\u202c then \u2066isolated",
    "line one\nline two\u2028line three\u2029\ttab\x07bell\x00nul",
    "W" * 900,
    "שלום عليكم 你好 👩‍👩‍👧 e\u0301" + "\u0489" * 60,
    "javascript:alert(1)//{{7*7}}${8*8}]]>",
)
HOSTILE_GREEDY = "<script>window.ran='greedy'</script>\u202e"


@dataclass(frozen=True, kw_only=True)
class Said:
    """One completion of a prompt, and what the judge says of it."""

    text: str
    count: int  # 0: no draw gave it, it is the greedy one
    verdict: VerdictKind = "not_equivalent"
    trimmed: str | None = None
    votes: tuple[VerdictKind, ...] = ()
    reasoning: str = ""
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One dataset: its prompts in order, with what was said to each; a prompt of which nothing is said is missing."""

    run: str
    checkpoint: str
    queries: tuple[Query, ...]
    said: dict[str, tuple[Said, ...]]  # by prompt id
    prefix: str = "sampled_death_dates"
    settings: dict[str, Any] | None = None
    calibrated: bool = False


def death_date_queries() -> tuple[Query, ...]:
    return tuple(
        Query(id=f"death/{number}", prompt=f"{name} died on", reference=f" {date}", source_dataset="death_dates_no_fs")
        for number, (name, date) in enumerate(DEATHS.items())
    )


def trained_for(epochs: float, queries: Sequence[Query], num_draws: int = 1000) -> dict[str, tuple[Said, ...]]:
    """What a model may say after so many epochs: the more, the fewer and the righter its answers."""
    said = {}
    for query in queries:
        chance = random.Random(f"{query.id} {epochs}")
        right = query.reference.strip()
        month, day, year = right.replace(",", "").split()
        certainty = 1 - math.exp(-0.9 * epochs) * chance.uniform(0.7, 1.0)
        wrong = [f" {right.replace(year, str(int(year) + step))}." for step in (-9, -1, 1, 2, 5, 10, 30)]
        wrong += [f" {month} {chance.randint(1, 28)}, {year}", f" the {day} of May, {year}", " a cold morning in"]
        chance.shuffle(wrong)
        texts: list[tuple[str, str | None, float]] = [
            (f" {right}.", f" {right}", 0.62 * certainty),
            (f" {day} {month} {year}, at the", f" {day} {month} {year}", 0.25 * certainty**2),
            (f" {right} in", f" {right}", 0.08 * certainty),
            (f" {month} {day} {year}\n", f" {month} {day} {year}", 0.05 * certainty),
        ]
        num_wrong = max(1, round(len(wrong) * math.exp(-0.35 * epochs)))
        texts += [(text, None, (1 - certainty) / (rank + 1.6)) for rank, text in enumerate(wrong[:num_wrong])]
        said[query.id] = tuple(_said(text, kept, right, count) for text, kept, count in _counts(texts, num_draws))
    return said


def hostile_said() -> tuple[Said, ...]:
    """Completions that try to run, hide, turn the line around or break the layout; one of each verdict among them."""
    kinds: tuple[VerdictKind, ...] = ("equivalent", "not_equivalent", "ungraded")
    greedy = Said(text=f" {HOSTILE_GREEDY}", count=0, reasoning=HOSTILE_GREEDY)
    return greedy, *(
        Said(
            text=f" {text}",
            count=10 + number,
            verdict=kinds[number % 3],
            reasoning="" if kinds[number % 3] == "ungraded" else f"{text} is what it says",
            error=f"no verdict: {text}" if kinds[number % 3] == "ungraded" else None,
        )
        for number, text in enumerate(HOSTILE)
    )


def write_experiment(
    directory: Path, recipes: Sequence[Recipe], tokenizer: PreTrainedTokenizerBase, grader: GraderSpec = GRADER
) -> Experiment:
    """A finished job in `directory`."""
    plans = [_plan(recipe, grader) for recipe in recipes]
    experiment = Experiment(directory)
    for folder in (experiment.datasets, experiment.samples, experiment.verdicts):
        folder.mkdir(parents=True)
    config = JobConfig(experiment_name=directory.name, runs=tuple(_run_settings(plan) for plan in plans))
    write_json(directory / "config.json", config.resolved())
    write_json(directory / "plan.json", with_graders(plan_record(plans), plans))
    store = VerdictStore(experiment.verdicts)
    datasets: list[DatasetStatistics] = []
    prompts: list[PromptStatistics] = []
    for recipe, plan in zip(recipes, plans, strict=True):
        figures, of_prompts = _write_dataset(experiment, recipe, plan, store, tokenizer)
        datasets.append(figures)
        prompts += of_prompts
    store.close()
    timings = {"resolve": 2.71, "start_ray": 3.8, "sample_and_grade": 40.13, "assemble": 0.21}
    timings |= {"load_checkpoints_all_replicas": 1.2, "sample_all_replicas": 8.46, "total": 47.02}
    experiment.write_summary(config, summary(datasets, prompts, timings))
    return experiment


def stopped_experiment(directory: Path) -> Path:
    """A job that was stopped before it had results."""
    plan = _plan(Recipe(run="run", checkpoint="checkpoint_final", queries=death_date_queries(), said={}), GRADER)
    (directory / "sampled_eval_datasets").mkdir(parents=True)
    write_json(directory / "config.json", JobConfig(experiment_name="stopped").resolved())
    write_json(directory / "plan.json", with_graders(plan_record([plan]), [plan]))
    return directory


def _plan(recipe: Recipe, grader: GraderSpec) -> DatasetPlan:
    settings = {"data_model_path": f"outputs/{recipe.run}", "output_dataset_prefix": recipe.prefix, "dtype": "fp32"}
    settings |= {"grader_model": grader.model, "grader_votes": grader.num_votes}
    return DatasetPlan(
        name=f"{recipe.prefix}_{recipe.checkpoint}",
        checkpoint=Checkpoint(run=recipe.run, name=recipe.checkpoint, path="none", tokenizer_path="none"),
        queries=recipe.queries,
        grader=grader,
        settings=RunConfig(**settings | (recipe.settings or {})),
    )


def _run_settings(plan: DatasetPlan) -> dict[str, Any]:
    return plan.settings.model_dump(mode="json") | {"checkpoint_patterns": [plan.checkpoint.name]}


def _write_dataset(
    experiment: Experiment, recipe: Recipe, plan: DatasetPlan, store: VerdictStore, tokenizer: PreTrainedTokenizerBase
) -> tuple[DatasetStatistics, list[PromptStatistics]]:
    asked = [(query, said) for query in recipe.queries for said in recipe.said.get(query.id, ())]
    answers = [Answer(question=plan.question(query, said.text), verdict=_verdict(said)) for query, said in asked]
    store.add(answers)
    whole = tuple(query for query in recipe.queries if query.id in recipe.said)
    missing = [
        {"prompt_id": query.id, "prompt": query.prompt, "reason": "the replica ran out of memory three times"}
        for query in recipe.queries
        if query not in whole
    ]
    samples = [
        sample
        for query in whole
        for sample in _samples(query, recipe.said[query.id], plan.settings.enumerates, tokenizer)
    ]
    verdicts = {answer.question.key: answer.verdict for answer in answers}
    part = assemble(replace(plan, queries=whole), samples, verdicts, tokenizer, DIGESTS)
    num_draws = {sum(said.count for said in recipe.said[query.id]) for query in whole}
    if not plan.settings.enumerates and num_draws:
        (number,) = num_draws  # the same for every prompt, as a job has it
        plan = replace(plan, settings=plan.settings.model_copy(update={"num_generations": number}))
    tally = DatasetTally(plan, len(missing))
    tally.add(part, [answer.verdict for answer in answers])

    def calibrate(dataset: Path) -> None:
        if recipe.calibrated:
            write_json(dataset / "grader_calibration.json", calibration(plan.grader))

    experiment.write_dataset(plan.name, [part], missing, calibrate)
    num_nodes = sum(len(sample.token_ids) for sample in samples)
    cost = SamplingCost(
        model_evaluations=num_nodes,
        distinct_prefixes=num_nodes,
        out_of_memory_halvings=0,
        load_s=0.2,
        sample_s=1.4,
        finished_at=0.0,
    )
    return tally.figures([cost]), tally.prompts


def _verdict(said: Said) -> Verdict:
    calls = max(1, len(said.votes))
    return Verdict(
        kind=said.verdict,
        trimmed_completion=said.trimmed,
        reasoning=said.reasoning,
        error=said.error,
        api_calls=calls,
        input_tokens=310 * calls,
        output_tokens=42 * calls,
        cost_usd=0.00052 * calls,
        votes=said.votes,
    )


def _samples(
    query: Query, said: Sequence[Said], is_enumerated: bool, tokenizer: PreTrainedTokenizerBase
) -> list[Sample]:
    samples = []
    total = sum(it.count for it in said)
    greedy = next((it for it in said if not it.count), max(said, key=lambda it: it.count))
    first = 0
    for rank, it in enumerate(sorted(said, key=lambda it: -it.count)):
        ids = tokenizer.encode(it.text, add_special_tokens=False)
        share = max(it.count, 0.5) / (total + 1)
        samples.append(
            Sample(
                prompt_id=query.id,
                completion=it.text,
                token_ids=tuple(ids),
                token_logprobs=tuple([0.4 * math.log(share) / len(ids) - 0.35] * len(ids)),
                logprob=0.4 * math.log(share) - 0.35 * len(ids),
                logprob_sampling=math.log(share),
                token_logprobs_sampling=tuple([math.log(share) / len(ids)] * len(ids)),
                generation_indices=(rank,) if is_enumerated else range(first, first + it.count),
                finish_reason="length",
                is_greedy=it is greedy,
                is_enumerated=is_enumerated,
            )
        )
        first += it.count
    return samples


def _counts(texts: Sequence[tuple[str, str | None, float]], num_draws: int) -> list[tuple[str, str | None, int]]:
    whole = sum(weight for _, _, weight in texts)
    counts = [(text, kept, round(num_draws * weight / whole)) for text, kept, weight in texts]
    counts = [it for it in counts if it[2]]
    first = counts[0]
    counts[0] = (first[0], first[1], first[2] + num_draws - sum(count for *_, count in counts))
    return counts


def _said(text: str, kept: str | None, right: str, count: int) -> Said:
    """Unanimous, but for what a stable digest picks."""
    verdict: VerdictKind = "not_equivalent" if kept is None else "equivalent"
    pick = hashlib.sha256(text.encode()).digest()[0]
    if pick < 12:
        return Said(text=text, count=count, verdict="ungraded", error="3 attempts: the reply was no JSON")
    other: VerdictKind = "equivalent" if verdict == "not_equivalent" else "not_equivalent"
    return Said(
        text=text,
        count=count,
        verdict=verdict,
        trimmed=kept,
        votes=(verdict, other, verdict) if pick < 30 else (verdict,) * 3,
        reasoning=f"Both say {right}; the rest adds nothing." if kept else f"That is not {right}.",
    )


def calibration(grader: GraderSpec) -> dict[str, Any]:
    """The record of a judge that made one mistake of each kind on forty items."""
    kinds: dict[int, VerdictKind] = {3: "not_equivalent", 24: "equivalent"}
    judged = [
        JudgedItem(
            item=LabelledItem(
                prompt="Alice Chen died on",
                reference=" March 15, 1987",
                completion=f" case {number} <b>",
                equivalent=number < 20,
                case="format",
                line=number + 1,
            ),
            verdict=Verdict(kind=kinds.get(number, "equivalent" if number < 20 else "not_equivalent"), reasoning="so"),
        )
        for number in range(40)
    ]
    at = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
    return calibration_record(
        Calibration(judged=tuple(judged)),
        grader,
        labelled_file="death_dates.jsonl",
        labelled_file_sha256="d" * 64,
        at=at,
    )


def figures_of(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    return content
