"""Another judge for an experiment that is sampled already: a new experiment over the same samples.

The old one is read and never written to. The new one is an ordinary experiment whose samples are all there: the job
that goes on with it samples nothing, grades, and writes its datasets.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalgen.config import JobConfig
from evalgen.errors import ConfigError
from evalgen.experiment import Experiment
from evalgen.files import whole_directory, write_json
from evalgen.job import DatasetPlan
from evalgen.journal import read_journal, rewrite_journal
from evalgen.plan_file import PLAN_FILE, check_same_prompts, plan_record
from evalgen.records import GraderSpec
from evalgen.resume import CONFIG_FILE
from evalgen.unit_store import LINES, UnitStore
from evalgen.units import plan_units

SOURCE_FILE = "regraded_from.json"  # in the new experiment: which one it has its samples from


def prepare(old: Experiment, config: JobConfig, plans: Sequence[DatasetPlan]) -> Experiment:
    """Makes the experiment of `config`, of which `plans` are resolved, with the samples of `old`; whole or not at all.

    They are hard links to the old files where the file system has them: no job writes into a file of samples again.

    Raises:
        ConfigError: `old` is not sampled to the end or does not name its graders, or the directory cannot be made.
        InputError: the prompts are not those that `old` was sampled for.
    """
    check_same_prompts(_stored_plan(old), plan_record(plans), str(old.directory))
    graders_of(old)
    new = Experiment.named(config)
    try:
        with whole_directory(new.directory) as directory:
            draft = Experiment(directory)
            _take_over(old.samples, draft.samples)
            _check_complete(draft, plans, old)
            write_json(directory / SOURCE_FILE, {"old_experiment": str(old.directory)})
            write_json(directory / CONFIG_FILE, config.resolved())
    except OSError as error:
        raise ConfigError(f"experiment: cannot make {new.directory}: {error.strerror}") from None
    return new


def source_of(new: Experiment) -> Experiment:
    """The experiment whose samples `new` has.

    Raises:
        ConfigError: it was not made by regrading, or that experiment is gone.
    """
    file = new.directory / SOURCE_FILE
    if not file.is_file():
        raise ConfigError(f"resume: {new.directory} has no {SOURCE_FILE}; give what regrade.py made, or --experiment")
    old = Experiment(Path(json.loads(file.read_text(encoding="utf-8"))["old_experiment"]))
    if not (old.directory / PLAN_FILE).is_file():
        raise ConfigError(
            f"resume: {old.directory}, to compare {new.directory} with, is gone; for the datasets alone: "
            f"generate_eval_datasets.py --resume {new.directory}"
        )
    return old


def graders_of(experiment: Experiment) -> dict[str, GraderSpec]:
    """Who judged each dataset last, by dataset name.

    Raises:
        ConfigError: the experiment does not say so.
    """
    plan = _stored_plan(experiment)
    if not all("grader" in dataset for dataset in plan.values()):
        raise ConfigError(
            f"experiment: {experiment.directory / PLAN_FILE} does not name the graders: an older version wrote it; go "
            f"on with it once, which samples nothing: generate_eval_datasets.py --resume {experiment.directory}"
        )
    return {name: GraderSpec(**dataset["grader"]) for name, dataset in plan.items()}


def _take_over(source: Path, target: Path) -> None:
    """Every stored unit's file and line. Whether they are intact, the store finds out that opens `target`."""
    target.mkdir()
    records, _ = read_journal(source / LINES)
    for unit_id in dict.fromkeys(record["unit_id"] for record in records):
        file = f"{unit_id}.parquet"
        if not (source / file).exists():  # it was put together with others
            continue
        try:
            os.link(source / file, target / file)
        except OSError:  # some file systems have no hard links, some allow them to the owner alone
            shutil.copyfile(source / file, target / file)
    rewrite_journal(target / LINES, records)


def _check_complete(draft: Experiment, plans: Sequence[DatasetPlan], old: Experiment) -> None:
    store = UnitStore(draft.samples)
    missing = plan_units(plans, 1, store.ranges())
    store.close()
    num_prompts = len({(unit.dataset, query.id) for unit in missing for query in unit.queries})
    if num_prompts:
        raise ConfigError(
            f"experiment: {num_prompts} prompts of {old.directory} are not sampled to the end, or their samples are "
            f"damaged; go on with it first: generate_eval_datasets.py --resume {old.directory}"
        )


def _stored_plan(experiment: Experiment) -> dict[str, dict[str, Any]]:
    plan: dict[str, dict[str, Any]] = json.loads((experiment.directory / PLAN_FILE).read_text(encoding="utf-8"))
    return plan
