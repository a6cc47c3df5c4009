"""Another judge over a finished experiment: no model, no new sample, and the datasets of a job that had it at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from ray_jobs.regrade import main
from tests.ray.conftest import RayCluster
from tests.ray.jobs import MAYORS_GRADER, Experiment, mayors_arguments, run_job, several_runs

ENUMERATED = "sampled_enumerated_checkpoint_final"
NEW_GRADER = ["--grader_model", "offline/person_name", "--grader-config-path", str(MAYORS_GRADER)]


@pytest.fixture(scope="module")
def experiments(ray_cluster: RayCluster, mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Jobs named `exact` and `named` over a run whose weights are nothing but headers by now; drawn and enumerated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", ray_cluster.address)
        directory = tmp_path_factory.mktemp("regrade")
        run, out = directory / "run", directory / "outputs"
        shutil.copytree(mayors_run, run)
        drawn = {"num_generations": 100, "checkpoint_patterns": ["checkpoint_*"]}
        enumerated = {"sampler": "enumerate", "min_probability": 0.01, "output_dataset_prefix": "sampled_enumerated"}
        for name, grader in (("exact", "offline/exact"), ("named", "offline/person_name")):
            arguments = mayors_arguments(run, out, experiment_name=name, grader_model=grader)
            run_job(several_runs(arguments, directory / "job.yaml", drawn, enumerated), out)
        for weights in run.glob("all_docs_runs/*/*/*.safetensors"):
            save_file({}, weights, {"format": "pt"})  # whole, as far as its header goes; a model it is none
        yield out


def named(experiments: Path, name: str) -> Experiment:
    (path,) = experiments.glob(f"*_?????_{name}")
    return Experiment(path)


def content_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def kinds_in(experiment: Experiment) -> dict[tuple[str, str], str]:
    return {(row["prompt"], row["completion"]): row["verdict"] for row in experiment.rows_of("verdicts")}


def datasets_of(experiment: Experiment) -> dict[str, list[dict[str, Any]]]:
    return {name: experiment.dataset(name).to_list() for name in experiment.dataset_names}


def changes_in(experiment: Experiment) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((experiment.path / "verdict_changes.json").read_text())
    return content


def test_another_judge_makes_the_datasets_of_a_job_that_had_it_at_once(
    joined_cluster: RayCluster, experiments: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old, at_once = named(experiments, "exact"), named(experiments, "named")
    before = content_of(old.path)
    assert main(["--experiment", str(old.path), *NEW_GRADER]) == 0
    printed = capfd.readouterr().out
    new = named(experiments, "exact_regraded")
    assert content_of(old.path) == before
    for file in (old.path / "samples").glob("*.parquet"):
        assert file.samefile(new.path / "samples" / file.name)
    assert content_of(new.path / "samples") == content_of(old.path / "samples")
    assert new.dataset_names == at_once.dataset_names and len(new.dataset_names) > 2
    for name in new.dataset_names:
        assert new.dataset(name).to_list() == at_once.dataset(name).to_list()
        assert new.rejects(name) == at_once.rejects(name)

    was, now = kinds_in(old), kinds_in(at_once)
    assert kinds_in(new) == now and was.keys() == now.keys()
    content = changes_in(new)
    changed = {key for key in was if was[key] != now[key]}
    assert changed == {(row["prompt"], row["completion"]) for row in content["changes"]}
    assert all(
        (row["old_verdict"], row["new_verdict"]) == (was[key], now[key])
        and row["old_reasoning"] != row["new_reasoning"]
        for row in content["changes"]
        for key in [(row["prompt"], row["completion"])]
    )
    for figures, old_summary, new_summary in zip(
        content["datasets"], old.summary["datasets"], at_once.summary["datasets"], strict=True
    ):
        for rate in ("equivalence_rate", "draw_equivalence_rate"):
            assert figures[f"old_{rate}"] == pytest.approx(old_summary[rate])
            assert figures[f"new_{rate}"] == pytest.approx(new_summary[rate])
        assert f"{figures['num_became_equivalent']:,}" in printed
    assert f"{len(content['changes'])} verdicts changed" in printed
    assert str(new.path / "verdict_changes.json") in printed


def test_what_is_stopped_goes_on_and_the_same_judge_changes_nothing(
    joined_cluster: RayCluster, experiments: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old = named(experiments, "exact")
    arguments = ["--experiment", str(old.path), "--grader_model", "offline/exact", "--experiment_name", "same"]
    assert main(arguments) == 0
    assert "No verdict changed." in capfd.readouterr().out
    new = named(experiments, "same")
    assert changes_in(new)["changes"] == []
    datasets = datasets_of(new)
    assert datasets == datasets_of(old)
    assert datasets[ENUMERATED][0]["sample_count"] is None

    for folder in ("verdicts", "sampled_eval_datasets"):  # as if it had been stopped before anything was judged
        shutil.rmtree(new.path / folder)
    (new.path / "verdict_changes.json").unlink()
    assert main(["--resume", str(new.path)]) == 0
    assert datasets_of(new) == datasets
    assert changes_in(new)["changes"] == []


def test_mistakes_that_only_the_runs_show_are_one_line_and_nothing_is_created(
    experiments: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    old = named(experiments, "exact")
    before = sorted(experiments.iterdir())
    damaged = tmp_path / "damaged"
    shutil.copytree(old.path, damaged)
    file = next(iter(sorted((damaged / "samples").glob("*.parquet"))))
    file.write_bytes(file.read_bytes()[:-1])
    (tmp_path / "bad.json").write_text("{}")
    for directory, flags, message in (
        (old.path, ["--grader_model", "openai/x"], "grader_model: found 'openai/x'"),
        (old.path, ["--grader_model", "anthropic/claude-haiku-4-5-20251001"], "ANTHROPIC_API_KEY is not set"),
        (old.path, ["--grader_config_path", str(tmp_path / "bad.json")], "grader_instructions: field required"),
        (old.path, ["--grader_config_path", "nowhere.json"], "cannot read"),
        (damaged, NEW_GRADER, "go on with it first: generate_eval_datasets.py --resume"),
    ):
        assert main(["--experiment", str(directory), *flags]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line
    assert sorted(experiments.iterdir()) == before
    assert {path.name for path in tmp_path.iterdir()} == {"damaged", "bad.json"}
