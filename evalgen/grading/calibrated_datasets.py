"""May a calibration be kept with a dataset? Only if the dataset was judged by the very grader that was calibrated."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from evalgen.dataset_files import PARTIAL
from evalgen.errors import ConfigError
from evalgen.experiment import Experiment
from evalgen.grading.calibration import instructions_sha256
from evalgen.plan_file import PLAN_FILE
from evalgen.records import GraderSpec
from evalgen.regrading import graders_of


def check_judged_by(grader: GraderSpec, dataset: Path) -> None:
    """Whether a dataset was judged by `grader`, by what its experiment says; Message Batches are the same judge.

    Raises:
        ConfigError: it was not, or it is no dataset of an experiment, or a job is at work there.
    """
    experiment = Experiment(dataset.parent.parent)
    if not (dataset / "eval_dataset").is_dir() or not (experiment.directory / PLAN_FILE).is_file():
        raise ConfigError(
            f"attach_to: {dataset} is no dataset of an experiment; give .../sampled_eval_datasets/<name> with an "
            f"eval_dataset/ in it and a {PLAN_FILE} in the experiment's directory"
        )
    with experiment.left_alone():
        judge = graders_of(experiment).get(dataset.name.removesuffix(PARTIAL))
    if judge is None:
        raise ConfigError(f"attach_to: {experiment.directory / PLAN_FILE} knows no dataset {dataset.name}")
    judge, grader = replace(judge, model=judge.judge), replace(grader, model=grader.judge)
    if judge != grader and replace(judge, template_digest=grader.template_digest) == grader:
        raise ConfigError(
            f"attach_to: {dataset} was judged by this grader in the words of another version of evalgen; have it "
            "judged in today's by ray_jobs/regrade.py, or calibrate with that version"
        )
    if judge != grader:
        raise ConfigError(
            f"attach_to: {dataset} was judged by {_described(judge)}, and this calibrates {_described(grader)}; give "
            "--grader_model and --grader_config_path as that experiment has them"
        )


def _described(grader: GraderSpec) -> str:
    settings = asdict(grader) | {"options": dict(grader.options)}
    others = {name: settings[name] for name in ("options", "num_votes", "pack_size")}
    return f"{grader.model} with instructions {instructions_sha256(grader)[:12]} and {json.dumps(others)}"
