"""The last stage: from the experiment's stored samples and verdicts to its datasets and their figures."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

from evalgen.assembly import assemble
from evalgen.experiment import Experiment
from evalgen.job import DatasetPlan
from evalgen.records import SamplingUnit
from evalgen.samples import samples_of
from evalgen.statistics import DatasetStatistics, PromptStatistics, dataset_statistics, prompt_statistics
from evalgen.timings import Timings
from evalgen.tokenization import load_tokenizer
from evalgen.unit_store import load_units
from evalgen.verdict_store import load_verdicts, verdict_from_row

log = logging.getLogger(__name__)


def write_datasets(
    experiment: Experiment, plans: Sequence[DatasetPlan], units: Iterable[SamplingUnit], timings: Timings
) -> tuple[list[DatasetStatistics], list[PromptStatistics]]:
    """Writes every dataset, from nothing but what is on disk. Adds the replicas' own seconds to `timings`.

    Returns the figures of each dataset, and those of each prompt of each dataset.
    """
    unit_ids: dict[str, list[str]] = defaultdict(list)
    for unit in units:
        unit_ids[unit.dataset].append(unit.id)
    rows = load_verdicts(experiment.verdicts)
    verdicts = {key: verdict_from_row(row) for key, row in rows.items()}
    datasets: list[DatasetStatistics] = []
    prompts: list[PromptStatistics] = []
    for plan in plans:
        table, costs = load_units(experiment.samples, unit_ids[plan.name])
        tokenizer = load_tokenizer(plan.checkpoint.tokenizer_path)
        assembled = assemble(plan, samples_of(table), verdicts, tokenizer)
        # A question that two datasets share was paid for once: it counts for the first.
        paid = [rows.pop(judged.question_key) for judged in assembled.judged if judged.question_key in rows]
        datasets.append(dataset_statistics(plan, assembled, costs, paid))
        prompts += prompt_statistics(plan, assembled)
        path = experiment.write_dataset(plan.name, assembled)
        log.info("%s: %d rows of %d distinct completions", path, len(assembled.rows), len(assembled.judged))
        timings.add("load_checkpoints_all_replicas", sum(cost.load_s for cost in costs))
        timings.add("sample_all_replicas", sum(cost.sample_s for cost in costs))
    return datasets, prompts
