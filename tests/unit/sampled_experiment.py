"""A whole experiment without Ray: a real run, really sampled, judged by a rule, assembled and summed up."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from evalgen.config import JobConfig
from evalgen.experiment import Experiment
from evalgen.finish import write_datasets
from evalgen.job import DatasetPlan, resolve_job
from evalgen.load_config import load_config
from evalgen.records import Answer, Question, Verdict
from evalgen.sampling.replica import Replica
from evalgen.statistics import summary
from evalgen.timings import Timings
from evalgen.unit_store import UnitStore
from evalgen.units import plan_units
from evalgen.verdict_store import VerdictStore

SETTINGS = {
    "extract_from_eval_datasets": "_qa_1_no_fs",
    "output_dataset_prefix": "sampled_test",
    "grader_model": "offline/exact",
    "dtype": "fp32",
    "num_generations": 60,
    "temperature": 1.3,
    "max_new_tokens": 12,
}


def sampled_experiment(run: Path, output_dir: Path, **changed: Any) -> Experiment:
    """The experiment of a run with one checkpoint; `changed` are flags."""
    flags = SETTINGS | {"data_model_path": run, "output_dir": output_dir} | changed
    config = load_config([f"--{name}={value}" for name, value in flags.items()], output_dir)
    experiment = Experiment.named(config)
    experiment.make_directory()
    _run(experiment, config, num_missing=0)
    return experiment


def resumed_experiment(experiment: Experiment, num_missing: int = 0, **changed: Any) -> None:
    """Goes on with it to its end, at which so many prompts are given up; `changed` are flags."""
    flags = [f"--{name}={value}" for name, value in changed.items()]
    config = load_config(["--resume", str(experiment.directory), *flags], experiment.directory)
    _run(experiment, config, num_missing)


def _run(experiment: Experiment, config: JobConfig, num_missing: int) -> None:
    (plan,) = plans = resolve_job(config)
    with experiment.begun(config, plans):
        store, replica = UnitStore(experiment.samples), Replica(torch.device("cpu"))
        for unit in plan_units(plans, 1, store.ranges()):
            store.save(unit, *replica.sample(unit))
        _judge(experiment, plan, store)
        store.close()
        missing = {query.id: "out of memory" for query in plan.queries[:num_missing]}
        datasets, prompts = write_datasets(experiment, plans, {plan.name: missing}, Timings())
        experiment.write_summary(config, summary(datasets, prompts, {}))


def lenient_verdict(question: Question) -> Verdict:
    """Of a judge that is content with a name's first letters, trims where it likes, and now and then says nothing.

    So a few draws give all that a dataset can hold: rows that begin with each other, and rows cut inside a token.
    """
    text = question.completion
    if not text.startswith(question.reference[:3]):
        return Verdict(kind="not_equivalent", reasoning="another name")
    mood = hashlib.sha256(text.encode()).digest()[0] % 6
    if mood == 0:
        return Verdict(kind="ungraded", error="the judge said nothing")
    if mood == 1:
        return Verdict(kind="equivalent", reasoning="cut anywhere", trimmed_completion=text[: len(text) // 2])
    trimmed = question.reference if text.startswith(question.reference) and mood < 5 else None
    return Verdict(kind="equivalent", reasoning="close enough", trimmed_completion=trimmed)


def _judge(experiment: Experiment, plan: DatasetPlan, store: UnitStore) -> None:
    verdicts = VerdictStore(experiment.verdicts)
    queries = {query.id: query for query in plan.queries}
    for unit in store.stored:
        rows = store.load(unit.unit_id).select(["prompt_id", "completion"]).to_pylist()
        questions = [plan.question(queries[row["prompt_id"]], row["completion"]) for row in rows]
        unique = {question.key: question for question in questions}.values()
        verdicts.add([Answer(question=question, verdict=lenient_verdict(question)) for question in unique])
    verdicts.close()
