"""Whole jobs with a judge that bills, limits and fails: what its books say, and what the datasets hold."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from ray_jobs.generate_eval_datasets import main
from tests.chaos.server import ChaosApi
from tests.chaos.settings import Faults, Price
from tests.ray.conftest import METRICS_EACH_SECOND, RayCluster
from tests.ray.jobs import Experiment, mayors_arguments, run_as_process, run_job
from tests.waiting import wait_until

MODEL = "claude-haiku-4-5-20251001"
OURS = "ray_evalgen_"
REPORT_S = 60.0
NAME = "sampled_mayors_checkpoint_final"
PRICES = {MODEL: Price(input_usd=1.0, output_usd=5.0)}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChaosApi]:
    with ChaosApi(prices=PRICES) as api:
        for name, value in api.environment().items():
            monkeypatch.setenv(name, value)
        yield api


def arguments(run: Path, output_dir: Path, **settings: object) -> list[str]:
    return mayors_arguments(run, output_dir, **{"grader_model": f"anthropic/{MODEL}", **settings})


def rows(experiment: Experiment, name: str = NAME) -> list[tuple[str, str, int]]:
    return [(row["id"], row["completion"], row["sample_count"]) for row in experiment.dataset(name).to_list()]


def test_a_job_stops_at_its_cap_and_goes_on_with_a_larger_one_and_batches_give_its_dataset_for_half_the_money(
    joined_cluster: RayCluster, mayors_run: Path, tmp_path: Path, api: ChaosApi, capfd: pytest.CaptureFixture[str]
) -> None:
    cap_usd = 0.06
    one_by_one, in_batches = tmp_path / "1", tmp_path / "2"
    assert main(arguments(mayors_run, one_by_one, max_grading_cost_usd=cap_usd, max_connections=2)) == 1
    last_line = capfd.readouterr().err.strip().splitlines()[-1]
    assert "--max_grading_cost_usd 0.06" in last_line and "--resume" in last_line
    stopped = api.stats()
    assert 0 < stopped.billed_usd <= cap_usd
    (directory,) = one_by_one.iterdir()
    assert main(["--resume", str(directory), "--max_grading_cost_usd", "5"]) == 0
    books = api.stats()
    dear_job = Experiment(directory)
    (dear,) = dear_job.summary["datasets"]
    assert dear["num_ungraded"] == 0
    # What was in flight at the cap may have been asked without its answer being kept; all else was asked once.
    assert dear["num_unique"] == dear["api_calls"] <= books.calls <= dear["num_unique"] + 2
    assert dear["cost_usd"] <= books.billed_usd + 1e-9

    # A process of its own: a driver's metrics are exported several times by one that has joined Ray several times.
    to_wandb = {"logging_type": "wandb", "wandb_project": "evalgen"}
    asked = arguments(mayors_run, in_batches, grader_model=f"anthropic-batch/{MODEL}", **to_wandb)
    settings = {**METRICS_EACH_SECOND, "WANDB_MODE": "offline"}
    finished = run_as_process(asked, in_batches, joined_cluster.address, settings)
    cheap_job = finished.experiment
    batched = api.stats()
    assert batched.calls == books.calls and batched.batch_calls["create"] == 1
    assert rows(cheap_job) == rows(dear_job)
    (cheap,) = cheap_job.summary["datasets"]
    assert cheap["api_calls"] == dear["api_calls"]
    assert cheap["cost_usd"] == pytest.approx(dear["cost_usd"] / 2)
    assert batched.billed_usd == pytest.approx(books.billed_usd + cheap["cost_usd"])
    with ray.init(log_to_driver=False):
        port = ray.nodes()[0]["MetricsExportPort"]

    def is_told() -> bool:
        return exported_of_batches(port)["questions_answered"] >= cheap["num_unique"]

    wait_until(is_told, REPORT_S, "the verdicts from batches are exported")
    metrics = exported_of_batches(port)
    assert metrics == metrics | {
        "questions_answered": cheap["num_unique"],
        "questions_asked": cheap["num_unique"],
        "requests": cheap["api_calls"],
        "input_tokens": cheap["input_tokens"],
        "output_tokens": cheap["output_tokens"],
        "cost_usd": pytest.approx(cheap["cost_usd"]),
        "draws": cheap["num_draws"],
    }
    num, printed = cheap["num_unique"], finished.stderr
    assert f"2,000 draws, {num} distinct completions;" in printed and f"graded {num} of" not in printed
    assert f"1 of 1 batches have ended; {num} of {num} questions are answered; " in printed
    log = (cheap_job.path / "experiment.log").read_text(encoding="utf-8")
    assert f"batches num_batches=1 num_batches_ended=1 num_questions={num} " in log
    (to_wandb_offline,) = cheap_job.path.glob("wandb/offline-run-*/run-*.wandb")
    content = to_wandb_offline.read_bytes()
    assert all(word in content for word in (b"progress/num_draws", b"progress/num_batches", b"timings/total_s"))
    assert cheap_job.summary["timings"]["log_to_wandb"] > 0 and f": {cheap_job.path}/wandb\n" in finished.stdout


def exported_of_batches(port: int) -> Counter[str]:
    """What Ray's agent exports of the job that asked in batches: each counter of ours, summed over its tags."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    samples = [sample for family in families for sample in family.samples if sample.name.startswith(OURS)]
    jobs = {it.labels["JobId"] for it in samples if it.labels.get("grader") == f"anthropic-batch/{MODEL}"}
    sums: Counter[str] = Counter()
    for sample in samples:
        if sample.name.endswith("_total") and sample.labels["JobId"] in jobs:
            sums[sample.name.removeprefix(OURS).removesuffix("_total")] += sample.value
    return sums


def test_votes_packs_and_several_actors_ask_no_question_twice_and_lose_none_to_faults(
    joined_cluster: RayCluster, mayors_run: Path, tmp_path: Path, api: ChaosApi, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two checkpoints, so that two grading actors meet the same questions."""
    settings = {"num_generations": 50, "max_connections": 150, "grader_pack_size": 4}
    asked = arguments(mayors_run, tmp_path, checkpoint_patterns="checkpoint_*", **settings)
    calm = run_job([*asked, "--grader_votes", "3"], tmp_path)
    books = api.stats()
    assert set(books.times_asked) == {3}
    datasets = calm.summary["datasets"]
    assert len(datasets) >= 2 and all(it["num_ungraded"] == 0 for it in datasets)
    assert sum(it["api_calls"] for it in datasets) == books.calls < 3 * books.num_questions
    assert sum(it["input_tokens"] for it in datasets) == books.input_tokens
    assert {it["grader_alpha"] for it in datasets} in ({1.0}, {1.0, None})
    api.set(faults=Faults(overloaded=0.1, reset=0.1, malformed=0.05, pack_missing=0.1, pack_malformed=0.1))
    capfd.readouterr()
    rough = run_job([*asked, "--use_grader_cache", "false", "--logging_type", "stdout"], tmp_path)
    printed = capfd.readouterr()
    logged = (rough.path / "experiment.log").read_text(encoding="utf-8").splitlines()
    assert printed.err == "" and all(f" INFO {event} " in "\n".join(logged) for event in ("sampled", "graded", "done"))
    lines = [line for line in printed.out.splitlines() if re.match(r"[\d-]+T[\d:.]+Z ", line)]
    assert sorted(lines) == sorted(logged)
    assert api.stats().calls > books.calls
    for name in calm.dataset_names:
        assert rows(rough, name) == rows(calm, name)
        for figure in ("num_unique", "num_equivalent", "num_ungraded"):
            assert rough.figures(name)[figure] == calm.figures(name)[figure]
    assert rough.dataset_names == calm.dataset_names


def test_a_dry_run_says_what_the_job_may_cost_and_makes_nothing(
    mayors_run: Path, tmp_path: Path, api: ChaosApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(mayors_run, tmp_path, num_generations=1000), "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "10,010 questions" in printed and NAME in printed
    likely, most = (float(usd.replace(",", "")) for usd in re.findall(r"(?:about|more than) \$([\d,]+\.\d\d)", printed))
    assert 0 < likely < most
    assert list(tmp_path.iterdir()) == [] and api.stats().calls == 0


def test_a_cap_on_a_judge_of_unknown_price_is_refused_before_anything_is_made(
    mayors_run: Path, tmp_path: Path, api: ChaosApi, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = arguments(mayors_run, tmp_path, grader_model="anthropic/some-model", max_grading_cost_usd=1)
    assert main(unknown) == 2
    assert "some-model" in (error := capsys.readouterr().err) and "--prices_path" in error
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        json.dumps({"as_of": "2026-11-24", "usd_per_million_tokens": {"some-model": {"input": 1, "output": 2}}})
    )
    assert main([*unknown, "--prices_path", str(prices), "--dry_run"]) == 0
    assert list(tmp_path.iterdir()) == [prices]
