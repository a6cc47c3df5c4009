"""Finished experiments, for the tests of what is written about them: real stores and datasets, no Ray, no model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from evalgen.card import DatasetFacts, dataset_card
from evalgen.config import JobConfig
from evalgen.dataset_files import CARD_FILE
from evalgen.experiment import Experiment
from evalgen.finish import write_datasets
from evalgen.grading.breaker import Breaker
from evalgen.grading.desk import GradingDesk
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.grading.shared_verdicts import SharedVerdicts
from evalgen.job import DatasetPlan
from evalgen.load_config import load_config
from evalgen.provenance import Provenance
from evalgen.records import Checkpoint, GraderSpec, Query, SampledSequence
from evalgen.samples import samples_table
from evalgen.statistics import DatasetStatistics, summary
from evalgen.timings import Timings
from evalgen.unit_store import UnitStore
from evalgen.units import plan_units
from evalgen.verdict_store import VerdictStore
from tests.benchmarks.scale_stores import COST
from tests.unit.tiny import EOS

# Each would end a cell, a line, a block of code, a tag or the head of a card, or turn the line around.
HOSTILE = (
    "a|b`c``d```\n````\n~~~\n---\n# x\r\n\n<script>alert(1)</script><!-- --></code>&lt;&#60; "
    "*e* __f__ [g](javascript:h) ![i](j) \\| \\ $k$ :smile: www.l.m \u202en\u2066\x1b[31m\x00\x85\u2028{{ 7*7 }}{% x %}"
)
PROVENANCE = Provenance(weights_digest="1" * 64, tokenizer_digest="2" * 64, grader_digest="3" * 64)
AT = datetime(2026, 1, 21, 3, 12, 40, tzinfo=UTC)


def finished_experiment(
    directory: Path, tokenizer: PreTrainedTokenizerFast, runs: Sequence[Mapping[str, Any]], queries: Sequence[Query]
) -> tuple[Experiment, list[DatasetPlan], list[DatasetStatistics]]:
    """An experiment that has a dataset for each of `runs`, with cards, as a job leaves it."""
    experiment = Experiment(directory)
    directory.mkdir(parents=True)
    tokenizer.save_pretrained(directory / "tokenizer")
    config = job_config(directory, runs)
    plans = [plan_of_run(directory, config, number, queries) for number in range(len(runs))]
    with experiment.begun(config, plans):
        _sample(experiment, plans, tokenizer)
        _grade(experiment, plans)
        figures, prompts = write_datasets(experiment, plans, {}, Timings())
        experiment.write_summary(config, summary(figures, prompts, {"assemble": 1.25}))
    for plan, figure in zip(plans, figures, strict=True):
        write_card(experiment, plan, figure)
    return experiment, plans, figures


def write_card(experiment: Experiment, plan: DatasetPlan, figures: DatasetStatistics) -> str:
    dataset = experiment.datasets / plan.name
    card = dataset_card(plan, figures, PROVENANCE, DatasetFacts.of_directory(dataset), AT)
    (dataset / CARD_FILE).write_text(card, encoding="utf-8")
    return card


def job_config(directory: Path, runs: Sequence[Mapping[str, Any]]) -> JobConfig:
    file = directory / "job.json"
    shared = {"data_model_path": str(directory / "run"), "grader_model": "offline/exact", "num_generations": 12}
    file.write_text(json.dumps(shared | {"runs": [dict(run) for run in runs]}), encoding="utf-8")
    return load_config(["--config", str(file), "--output_dir", str(directory.parent)], directory)


def plan_of_run(directory: Path, config: JobConfig, number: int, queries: Sequence[Query]) -> DatasetPlan:
    settings = config.run_configs()[number]
    return DatasetPlan(
        name=f"{settings.output_dataset_prefix}_checkpoint_final",
        checkpoint=Checkpoint(
            run="run", name="checkpoint_final", path="none", tokenizer_path=str(directory / "tokenizer")
        ),
        queries=tuple(queries),
        grader=GraderSpec(model="offline/exact", instructions=f"The same.\n{HOSTILE}"),
        settings=settings,
    )


def _sample(experiment: Experiment, plans: Sequence[DatasetPlan], tokenizer: PreTrainedTokenizerFast) -> None:
    """Of each prompt's 12 draws 7 are the reference, 3 that and more, and 2 something else; the last one drawn once."""
    store = UnitStore(experiment.samples)
    for unit in plan_units(plans, 1, {}):
        sequences = []
        for query in unit.queries:
            texts = {query.reference: 7, f"{query.reference}, who": 3, f" no{query.reference}": 1, " Nobody": 1}
            first = 0
            for text, count in texts.items():
                ids = (*tokenizer.encode(text, add_special_tokens=False), EOS)
                sequences.append(
                    SampledSequence(
                        prompt_id=query.id,
                        token_ids=ids,
                        token_logprobs=(-0.25,) * len(ids),
                        logprob=-0.25 * len(ids),
                        logprob_sampling=-0.125 * len(ids),
                        token_logprobs_sampling=(-0.125,) * len(ids),
                        generation_indices=tuple(range(first, first + count)),
                        finish_reason="eos",
                        is_greedy=first == 0,
                    )
                )
                first += count
        store.save(unit, samples_table(unit, sequences, tokenizer), replace(COST, out_of_memory_halvings=2))
    store.close()


def _grade(experiment: Experiment, plans: Sequence[DatasetPlan]) -> None:
    store, verdicts = UnitStore(experiment.samples), VerdictStore(experiment.verdicts)
    desk = GradingDesk(
        SharedVerdicts(verdicts), RateLimiter(max_connections=1, breaker=Breaker(900)), max_connections=1
    )
    for plan in plans:
        queries = {query.id: query for query in plan.queries}
        for unit in store.stored:
            if unit.dataset == plan.name:
                rows = store.load(unit.unit_id).select(["prompt_id", "completion"]).to_pylist()
                questions = [plan.question(queries[row["prompt_id"]], row["completion"]) for row in rows]
                asyncio.run(desk.grade(questions))
    store.close()
    verdicts.close()


def summary_of(experiment: Experiment) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((experiment.directory / "summary.json").read_text(encoding="utf-8"))
    return content
