"""The main job with Claude as the judge: the real SDK in real actors, against a real server on loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from evalgen.records import GraderSpec
from ray_jobs.generate_eval_datasets import main
from ray_jobs.pipeline import _graded_units
from ray_jobs.stages import block_bytes
from tests.messages_api import MessagesApi
from tests.processes import titled
from tests.ray.conftest import RayCluster
from tests.ray.jobs import DRIVER, Experiment, mayors_arguments, run_job, several_runs
from tests.ray.submission import REFUSAL, SubmittedJob
from tests.waiting import wait_until

MODEL = "anthropic/claude-haiku-4-5-20251001"
NAME = "sampled_mayors_checkpoint_final"
KEY = "sk-ant-test-key-of-this-test"
SAMPLING_PROCESS = "ray::MapWorker(MapBatches(SamplingActor)"
PATIENCE_S = 180


@pytest.fixture
def arguments(mayors_run: Path, tmp_path: Path) -> list[str]:
    return mayors_arguments(mayors_run, tmp_path, grader_model=MODEL, max_connections=3)


def point_sdk_at(api: MessagesApi, monkeypatch: pytest.MonkeyPatch, key: str = KEY) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", api.base_url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A finished experiment, its judge, and what that had been asked when the experiment was done."""

    experiment: Experiment
    api: MessagesApi
    calls: int
    most_in_flight: int


@pytest.fixture(scope="module")
def judged(ray_cluster: RayCluster, mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    """One job of two runs, of which the second has more than a thousand questions."""
    output_dir, file = tmp_path_factory.mktemp("judged"), tmp_path_factory.mktemp("config") / "job.yaml"
    arguments = mayors_arguments(mayors_run, output_dir, grader_model=MODEL, max_connections=3)
    hot = {"output_dataset_prefix": "sampled_hot", "num_generations": 150, "temperature": 3.0}
    with MessagesApi(api_key=KEY) as api, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", ray_cluster.address)
        point_sdk_at(api, patch)
        experiment = run_job(several_runs(arguments, file, {}, hot), output_dir)
        yield Judged(experiment=experiment, api=api, calls=api.calls, most_in_flight=api.max_in_flight)


def test_each_distinct_completion_is_asked_once_through_the_job_wide_limit(judged: Judged) -> None:
    datasets = judged.experiment.summary["datasets"]
    questions = {(row["prompt"], row["completion"]) for row in judged.experiment.rows_of("samples")}
    assert judged.calls == len(questions) == sum(figures["api_calls"] for figures in datasets)
    assert 1 <= judged.most_in_flight <= 3
    for figures in datasets:
        assert figures["cost_usd"] > 0
        assert figures["num_ungraded"] == 0
    for row in judged.experiment.dataset(NAME).to_list():
        assert row["raw_completion"].startswith(row["completion"])
    everything = b"".join(path.read_bytes() for path in judged.experiment.path.rglob("*") if path.is_file())
    assert KEY.encode() not in everything


def test_a_thousand_questions_may_wait_at_once(judged: Judged) -> None:
    """An actor of Ray runs a thousand calls at once; were they all waiting for a lease, none could be returned."""
    figures = judged.experiment.figures("sampled_hot_checkpoint_final")
    assert figures["num_unique"] > 1000
    assert figures["num_ungraded"] == 0


def test_a_second_experiment_pays_for_nothing(
    judged: Judged, joined_cluster: RayCluster, mayors_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output_dir, api = judged.experiment.path.parent, judged.api
    point_sdk_at(api, monkeypatch)
    arguments = mayors_arguments(mayors_run, output_dir, grader_model=MODEL, max_connections=3)
    second = run_job(arguments, output_dir)
    assert api.calls == judged.calls
    assert second.dataset(NAME).to_list() == judged.experiment.dataset(NAME).to_list()
    assert second.summary["datasets"][0]["api_calls"] == 0
    assert all(row["from_cache"] for row in second.rows_of("verdicts"))


def test_a_refused_question_is_ungraded_and_not_judged_wrong(submitted_job: SubmittedJob) -> None:
    experiment = submitted_job.experiment
    (figures,) = experiment.summary["datasets"]
    assert figures["num_ungraded"] == 1
    assert figures["num_unique"] == figures["num_graded"] + 1
    (left_out,) = experiment.rejects(NAME, "left_out.json")
    assert REFUSAL in left_out["reason"]
    rejected = {(row["prompt_id"], row["generated_completion"]) for row in experiment.rejects(NAME)}
    assert (left_out["prompt_id"], left_out["generated_completion"]) not in rejected


def test_a_wrong_key_stops_the_job_with_one_line_that_names_the_variable(
    joined_cluster: RayCluster,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with MessagesApi(api_key=KEY) as api:
        point_sdk_at(api, monkeypatch, key="sk-ant-wrong-key")
        assert main(arguments) == 1
    last_line = capfd.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("error: ")
    assert "ANTHROPIC_API_KEY" in last_line
    assert "sk-ant-wrong-key" not in last_line


def test_without_a_key_nothing_is_created(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "ANTHROPIC_API_KEY" in message
    assert "offline/person_name" in message
    assert list(tmp_path.iterdir()) == []


def test_the_first_verdict_comes_before_the_last_unit_is_sampled(
    joined_cluster: RayCluster, mayors_run: Path, tmp_path: Path
) -> None:
    """The replica is frozen after its second unit: a pipeline with a barrier would never grade anything."""
    # One draw at a time, so that units take long enough to be caught before the last.
    settings = {"sampler": "independent", "num_generations": 1000}
    job = subprocess.Popen(_driver_command(mayors_run, tmp_path, **settings))
    try:
        # A unit is stored before its questions move on; once the second is, those of the first have left the replica.
        wait_until(lambda: _stored(tmp_path, "samples/*.parquet") >= 2, PATIENCE_S, "the second unit is stored")
        (replica,) = titled(SAMPLING_PROCESS)
        replica.suspend()
        units_before = _stored(tmp_path, "samples/*.parquet")
        wait_until(lambda: _num_verdicts(tmp_path) > 0, PATIENCE_S, "the first verdict is stored")
        units_after = _stored(tmp_path, "samples/*.parquet")
        replica.resume()
        assert job.wait(timeout=PATIENCE_S) == 0
    finally:
        job.kill()
    num_units = _stored(tmp_path, "samples/*.parquet")
    assert units_before <= units_after < num_units


def test_a_unit_is_graded_once_all_of_its_blocks_are_in_whatever_order_they_come() -> None:
    sizes = {"a": 4, "b": 2, "c": 1, "d": 2}

    def block(*verdicts: tuple[str, str]) -> pa.Table:
        rows = [
            {"unit_id": unit, "dataset": "mayors", "num_questions": sizes[unit], "verdict": verdict}
            for unit, verdict in verdicts
        ]
        return pa.Table.from_pylist(rows)

    begun = []

    def blocks() -> Iterator[pa.Table]:
        for some in (
            block(("a", "equivalent"), ("a", "ungraded")),
            block(("b", "equivalent"), ("b", "asked later")),
            block(("c", "equivalent")),
            block(("a", "not_equivalent"), ("a", "equivalent")),
            block(("d", "equivalent")),  # the rest of it is lost with a process
        ):
            begun.append(some)
            yield some

    graded = [
        (unit.unit_id, unit.num_questions, unit.num_equivalent, unit.num_ungraded, len(begun))
        for unit in _graded_units(blocks())
    ]
    assert graded == [("b", 1, 1, 0, 2), ("c", 1, 1, 0, 3), ("a", 4, 2, 1, 4)]


def test_actors_share_a_unit_but_never_a_pack() -> None:
    single, packed = (GraderSpec(model=MODEL, instructions="", pack_size=size) for size in (1, 10))
    questions_of_long_prompts = 200 * 16_000
    assert block_bytes([single]) < questions_of_long_prompts < block_bytes([single, packed])


def _driver_command(run: Path, output_dir: Path, **overrides: object) -> list[str]:
    return [sys.executable, str(DRIVER), *mayors_arguments(run, output_dir, **overrides)]


def _stored(output_dir: Path, pattern: str) -> int:
    return len(list(output_dir.glob(f"*/{pattern}")))


def _num_verdicts(output_dir: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in output_dir.glob("*/verdicts/journal.jsonl"))
