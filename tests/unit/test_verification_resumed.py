"""A dataset whose job went on with other settings: what it is held against may not be its own, and is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from evalgen.eval_dataset import EvalDataset
from evalgen.experiment import Experiment
from evalgen.finish import write_datasets
from evalgen.job import resolve_job
from evalgen.load_config import load_config
from evalgen.statistics import summary
from evalgen.timings import Timings
from evalgen.verification.dataset import verify_dataset
from evalgen.verification.evidence import dataset_directories, gather
from evalgen.verification.findings import Check, Finding
from tests.unit.sampled_experiment import resumed_experiment, sampled_experiment
from tests.unit.tampering import Touched, half_the_weights

OF_THE_JOB = {Check.ORIGIN, Check.SUMMARY, Check.ASSEMBLY, Check.GRADER_DIGEST}


@pytest.fixture(scope="module")
def sampled(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return sampled_experiment(tiny_run, tmp_path_factory.mktemp("sampled"), num_generations=30)


@pytest.fixture
def copy(sampled: Experiment, tmp_path: Path) -> Experiment:
    return Experiment(shutil.copytree(sampled.directory, tmp_path / "experiment"))


def found(directory: Path) -> list[Finding]:
    return [it for it in verify_dataset(gather(directory), recompute=False) if it.check != Check.MODEL]


def rows_of(directory: Path) -> list[dict[str, Any]]:
    """Of the one dataset in `directory`."""
    (dataset,) = directory.iterdir()
    rows: list[dict[str, Any]] = EvalDataset.load(dataset).dataset.to_list()
    return rows


def begin_and_stop(experiment: Experiment, *flags: str) -> None:
    config = load_config(["--resume", str(experiment.directory), *flags], experiment.directory)
    with experiment.begun(config, resolve_job(config)):
        pass


@pytest.mark.parametrize(
    "flags",
    [
        ["--num_generations=60"],
        ["--grader_model=offline/person_name"],
        ["--deduplicate=false"],
        ["--exclusive=true"],
        [],
    ],
    ids=str,
)
def test_a_job_that_was_resumed_and_stopped_is_no_fault_of_its_datasets_and_no_proof_either(
    flags: list[str], copy: Experiment
) -> None:
    (directory,) = dataset_directories(copy.directory)
    assert {finding.outcome for finding in found(directory)} == {"ok"}
    begin_and_stop(copy, *flags)
    findings = found(directory)
    assert {it.check: it.outcome for it in findings if it.outcome != "ok"} == dict.fromkeys(OF_THE_JOB, "skipped")
    assert all("has not ended" in it.note and "--resume" in it.note for it in findings if it.outcome == "skipped")


def test_instructions_that_were_edited_before_the_job_was_resumed_are_no_fault_of_its_datasets(
    tiny_run: Path, tmp_path: Path
) -> None:
    """The configuration names the same file as before: it cannot tell."""
    instructions = tmp_path / "grader.json"
    instructions.write_text(json.dumps({"grader_instructions": "The same mayor."}), encoding="utf-8")
    experiment = sampled_experiment(
        tiny_run, tmp_path / "outputs", num_generations=5, grader_config_path=str(instructions)
    )
    instructions.write_text(json.dumps({"grader_instructions": "The same surname."}), encoding="utf-8")
    begin_and_stop(experiment)
    (directory,) = dataset_directories(experiment.directory)
    assert {it.check for it in found(directory) if it.outcome != "ok"} == OF_THE_JOB
    assert not any(it.outcome == "failed" for it in found(directory))


def test_what_contradicts_itself_fails_whatever_became_of_the_job(copy: Experiment) -> None:
    touched = Touched(copy)
    half_the_weights(touched)
    begin_and_stop(copy, "--num_generations=60")
    assert [it.check for it in found(touched.directory) if it.outcome == "failed"] == [Check.WEIGHTS]
    touched.change_rows(lambda rows: rows[1].update(grader_model="another"))
    assert Check.ORIGIN in {it.check for it in found(touched.directory) if it.outcome == "failed"}


def test_a_job_that_has_ended_is_held_against_its_settings_again(copy: Experiment) -> None:
    begin_and_stop(copy, "--num_generations=60")
    resumed_experiment(copy, num_generations=60)
    (directory,) = dataset_directories(copy.directory)
    assert {finding.outcome for finding in found(directory)} == {"ok"}
    assert {row["num_samples"] for row in rows_of(copy.datasets)} == {60}


def test_a_partial_dataset_holds_and_the_whole_one_before_it_is_neither_lost_nor_beside_it(copy: Experiment) -> None:
    before = rows_of(copy.datasets)
    (whole,) = dataset_directories(copy.directory)
    resumed_experiment(copy, num_missing=1, num_generations=60)
    (partial,) = dataset_directories(copy.directory)
    assert partial.name == f"{whole.name}.partial"
    assert {finding.outcome for finding in found(partial)} == {"ok"}
    earlier = copy.earlier_datasets / whole.name
    assert rows_of(copy.earlier_datasets) == before
    assert not any(finding.outcome == "failed" for finding in found(earlier))


def test_a_whole_dataset_beside_a_partial_one_of_an_older_version_is_not_held_against_what_is_not_its_own(
    copy: Experiment,
) -> None:
    (whole,) = dataset_directories(copy.directory)
    resumed_experiment(copy, num_missing=1, num_generations=60)
    (copy.earlier_datasets / whole.name).rename(whole)  # where older versions left it
    findings = found(whole)
    assert {it.check: it.outcome for it in findings if it.outcome != "ok"} == dict.fromkeys(OF_THE_JOB, "skipped")
    assert all(f"{whole.name}.partial" in it.note for it in findings if it.outcome == "skipped")


def test_datasets_that_were_written_before_their_figures_are_not_held_against_older_figures(copy: Experiment) -> None:
    """A kill between the two, after a part of the job that had prompts missing."""
    resumed_experiment(copy, num_missing=1, num_generations=60)
    config = load_config(["--resume", str(copy.directory)], copy.directory)
    plans = resolve_job(config)
    with copy.begun(config, plans):
        datasets, prompts = write_datasets(copy, plans, {}, Timings())
    (whole,) = dataset_directories(copy.directory)
    assert {it.check for it in found(whole) if it.outcome != "ok"} == OF_THE_JOB
    with copy.begun(config, plans):
        copy.write_summary(config, summary(datasets, prompts, {}))
    assert {finding.outcome for finding in found(whole)} == {"ok"}
