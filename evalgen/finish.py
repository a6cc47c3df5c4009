"""The last stage: from the experiment's stored samples and verdicts to its datasets and their figures.

Datasets are assembled prompt by prompt, so that memory is that of one sampling unit and of the rows of one prompt, and
of where each verdict is found. A prompt has as many rows as it has distinct completions, however often they were drawn;
with `--deduplicate false` one for each draw.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from evalgen.assembly import AssembledDataset, assemble
from evalgen.card import DatasetFacts, dataset_card
from evalgen.dataset_files import CALIBRATION_FILE, CARD_FILE
from evalgen.experiment import Experiment
from evalgen.files import write_text
from evalgen.grading.calibration import is_calibration_of
from evalgen.grading.grader_digest import grader_digest
from evalgen.job import DatasetPlan
from evalgen.job_log import fields
from evalgen.provenance import Provenance, weights_digests
from evalgen.samples import samples_of
from evalgen.statistics import DatasetStatistics, DatasetTally, PromptStatistics
from evalgen.timings import Timings
from evalgen.tokenization import load_tokenizer, tokenizer_digest
from evalgen.unit_store import Ranges, SamplingCost, UnitStore
from evalgen.verdict_table import VerdictTable

log = logging.getLogger(__name__)

DAMAGED = "its stored samples are damaged"


def write_datasets(
    experiment: Experiment,
    plans: Sequence[DatasetPlan],
    missing: Mapping[str, Mapping[str, str]],
    timings: Timings,
) -> tuple[list[DatasetStatistics], list[PromptStatistics]]:
    """Writes every dataset, from nothing but what is on disk. Adds the replicas' own seconds to `timings`.

    `missing` says why a prompt is not sampled, or not wholly, by dataset and prompt id. Its dataset is written without
    it, and its name ends in `.partial`; so it is for a prompt whose samples turn out to be damaged.

    Returns the figures of each dataset, and those of each prompt that each dataset has.

    Raises:
        JobStopped: verdicts are missing or damaged, or a checkpoint was changed between parts of the job.
    """
    verdicts = VerdictTable.of_experiment(experiment.verdicts)
    store = UnitStore(experiment.samples)
    weights = weights_digests(plans, store.stored, experiment.samples)
    datasets: list[DatasetStatistics] = []
    prompts: list[PromptStatistics] = []
    for plan in plans:
        store.compact(plan.name)
        reasons = _missing(plan, store.ranges_of(plan.name), missing.get(plan.name, {}))
        tally = DatasetTally(plan, len(reasons))
        tokenizer = load_tokenizer(plan.checkpoint.tokenizer_path)
        provenance = _provenance(plan, tokenizer, weights[plan.name])
        absent = [
            {"prompt_id": q.id, "prompt": q.prompt, "reason": reasons[q.id]} for q in plan.queries if q.id in reasons
        ]
        whole = [query for query in plan.queries if query.id not in reasons]
        costs = store.costs(plan.name)
        path = experiment.write_dataset(
            plan.name,
            _parts(replace(plan, queries=tuple(whole)), store, verdicts, tally, tokenizer, provenance),
            absent,
            then=partial(_write_card, plan, tally, costs, provenance),
        )
        figures = tally.figures(costs)
        _log(path, figures, experiment.earlier_datasets / plan.name)
        datasets.append(figures)
        prompts += tally.prompts
        timings.add("load_checkpoints_all_replicas", sum(cost.load_s for cost in costs))
        timings.add("sample_all_replicas", sum(cost.sample_s for cost in costs))
    store.close()
    return datasets, prompts


def _parts(
    plan: DatasetPlan,
    store: UnitStore,
    verdicts: VerdictTable,
    tally: DatasetTally,
    tokenizer: PreTrainedTokenizerBase,
    provenance: Provenance,
) -> Iterator[AssembledDataset]:
    """The dataset, query by query; each is counted before it is handed on."""
    tables = store.samples_of_prompts(plan.name, [query.id for query in plan.queries])
    for query, table in zip(plan.queries, tables, strict=True):
        part = assemble(replace(plan, queries=(query,)), samples_of(table), verdicts, tokenizer, provenance)
        # A question that two datasets share was paid for once: it counts for the first.
        asked = (*part.judged, *part.undrawn)
        tally.add(part, [it.verdict for it in asked if verdicts.is_first_use(it.question_key)])
        yield part


def _provenance(plan: DatasetPlan, tokenizer: PreTrainedTokenizerBase, weights_digest: str) -> Provenance:
    return Provenance(
        weights_digest=weights_digest,
        tokenizer_digest=tokenizer_digest(tokenizer),
        grader_digest=grader_digest(plan.grader),
    )


def _write_card(
    plan: DatasetPlan, tally: DatasetTally, costs: Sequence[SamplingCost], provenance: Provenance, directory: Path
) -> None:
    """Dated by its last unit, so that a dataset that is assembled again is the same to the byte.

    A calibration of another grader, from before the dataset was graded again, goes.
    """
    calibration = directory / CALIBRATION_FILE
    if calibration.exists() and not is_calibration_of(json.loads(calibration.read_text("utf-8")), plan.grader):
        calibration.unlink()
    sampled_at = datetime.fromtimestamp(max((cost.finished_at for cost in costs), default=time.time()), UTC)
    facts = DatasetFacts.of_directory(directory)
    card = dataset_card(plan, tally.figures(costs), provenance, facts, sampled_at)
    write_text(directory / CARD_FILE, card)


def _missing(plan: DatasetPlan, stored: Mapping[str, Ranges], reported: Mapping[str, str]) -> dict[str, str]:
    """Why prompts are missing, by prompt id: what was reported, and what is not on disk all the same."""
    num_draws = 0 if plan.settings.enumerates else plan.settings.num_generations
    reasons = {}
    for query in plan.queries:
        ranges = stored.get(query.id, ())
        assert all(stop <= num_draws for _, stop in ranges), f"{plan.name}: {query.id!r} has draws {ranges}"
        if query.id in reported:
            reasons[query.id] = reported[query.id]
        elif ranges != ((0, num_draws),):
            reasons[query.id] = DAMAGED
    return reasons


def _log(path: Path, figures: DatasetStatistics, earlier: Path) -> None:
    counts = {"num_items": figures.num_items, "num_unique": figures.num_unique}
    log.info("written", extra=fields(dataset=figures.name, **counts, path=path))
    num_left_out = figures.num_left_out + figures.num_ungraded
    if num_left_out:
        log.warning("%s: %d completions left out; left_out.json says why", figures.name, num_left_out)
    if figures.num_missing_prompts:
        log.warning("%s: %d prompts are missing; missing.json says why", path, figures.num_missing_prompts)
    if earlier.exists():
        log.warning("%s: the whole dataset that an earlier part of the job made is kept in %s", path.name, earlier)
