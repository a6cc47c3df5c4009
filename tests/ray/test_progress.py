"""What one sees of a real job while it runs: its lines, its log, its metrics as Ray exports them, its actors' names."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import RayError

from evalgen.live_view import LINE_EVERY_S
from ray_jobs.noise import NOISE
from tests.chaos.limits import Limits
from tests.chaos.server import ChaosApi
from tests.chaos.settings import Faults, Price
from tests.ray.conftest import started_ray
from tests.ray.jobs import Experiment, FinishedJob, mayors_arguments, run_job
from tests.waiting import wait_until

MODEL = "claude-haiku-4-5-20251001"
REPORT_S = 60  # in which Ray has exported what its processes last said
COUNTERS = {
    "draws",
    "distinct_completions",
    "model_evaluations",
    "units_done",
    "checkpoint_load_seconds",
    "sampling_seconds",
    "questions_answered",
    "questions_asked",
    "requests",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "limiter_wait_seconds",
}
NEVER = {"units_failed", "units_retried", "out_of_memory_halvings", "questions_cached", "requests_unpriced"}
GAUGES = {
    "units_planned",
    "questions_waiting",
    "requests_in_flight",
    "limit_requests_per_minute",
    "breaker_open",
    "held_seconds",
}


@dataclass
class Seen:
    """Of a job in mid-run, by another thread."""

    names: set[str] = field(default_factory=set)
    metadata: dict[str, str] = field(default_factory=dict)
    # By metric and tags, as last exported: a gauge is gone some time after its process is.
    metrics: dict[str, dict[tuple[str, ...], float]] = field(default_factory=dict)


@contextmanager
def watching() -> Iterator[Seen]:
    seen, is_over, port = Seen(), Event(), 0

    def watch() -> None:
        nonlocal port
        while not is_over.wait(0.3):
            try:
                if ray.is_initialized():
                    seen.names |= {it["name"] for it in ray.util.list_named_actors(all_namespaces=True)}
                    port = ray.nodes()[0]["MetricsExportPort"]
                    seen.metadata = dict(ray._private.worker.global_worker.core_worker.get_job_config().metadata)
                if port:
                    seen.metrics = {**seen.metrics, **exported(port)}
            except (RayError, AttributeError, RuntimeError, OSError):  # it is about to begin, or to end
                continue

    thread = Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def exported(port: int) -> dict[str, dict[tuple[str, ...], float]]:
    """By metric, and by its tags' values in the order of their names, what Ray's agent exports of ours."""
    ours: dict[str, dict[tuple[str, ...], float]] = {}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        lines = [line for line in response.read().decode().splitlines(keepends=True) if PREFIX in line]
    for family in text_string_to_metric_families("".join(lines)):
        for sample in family.samples:
            tags = tuple(value for name, value in sorted(sample.labels.items()) if name in OUR_TAGS)
            values = ours.setdefault(sample.name.removeprefix(PREFIX), {})
            values[tags] = values.get(tags, 0) + sample.value
    return ours


PREFIX = "ray_evalgen_"
OUR_TAGS = ("run", "checkpoint", "grader", "verdict", "outcome")


@pytest.fixture(scope="module")
def seen_job(mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Experiment, Seen, ChaosApi]]:
    """One job with a judge that limits, bills and sometimes fails; its Ray exports the metrics of no other job."""
    output_dir = tmp_path_factory.mktemp("outputs")
    prices = {MODEL: Price(input_usd=1.0, output_usd=5.0)}
    settings = {"limits": Limits(requests_per_minute=6_000), "faults": Faults(overloaded=0.03)}
    with (
        ChaosApi(prices=prices, **settings) as api,
        started_ray(tmp_path_factory.mktemp("ray_of_one_job")) as cluster,
        pytest.MonkeyPatch.context() as patch,
        watching() as seen,
    ):
        for name, value in {**api.environment(), "RAY_ADDRESS": cluster.address}.items():
            patch.setenv(name, value)
        arguments = mayors_arguments(mayors_run, output_dir, grader_model=f"anthropic/{MODEL}", max_grading_cost_usd=5)
        yield run_job(arguments, output_dir), seen, api


def test_ray_exports_what_the_summary_says(seen_job: tuple[Experiment, Seen, ChaosApi]) -> None:
    experiment, seen, api = seen_job
    (figures,) = experiment.summary["datasets"]

    def is_told() -> bool:
        return sum(seen.metrics.get("questions_answered_total", {}).values()) >= figures["num_unique"]

    wait_until(is_told, REPORT_S, "all verdicts are exported")
    metrics = seen.metrics
    assert {f"{name}_total" for name in COUNTERS} | GAUGES <= metrics.keys()
    of_checkpoint = (figures["checkpoint"], figures["run"])
    assert metrics["draws_total"] == {of_checkpoint: figures["num_draws"]}
    assert metrics["model_evaluations_total"] == {of_checkpoint: figures["model_evaluations"]}
    assert metrics["distinct_completions_total"] == {of_checkpoint: figures["num_unique"]}
    assert metrics["units_done_total"] == metrics["units_planned"]
    answered = metrics["questions_answered_total"]
    grader = f"anthropic/{MODEL}"
    assert answered[grader, "equivalent"] == figures["num_equivalent"]
    assert sum(answered.values()) == figures["num_unique"]
    assert metrics["questions_asked_total"] == {(grader,): figures["num_unique"]}
    assert metrics["questions_waiting"] == {(): 0} and metrics["requests_in_flight"] == {(): 0}
    assert sum(metrics["input_tokens_total"].values()) == figures["input_tokens"]
    assert sum(metrics["output_tokens_total"].values()) == figures["output_tokens"]
    assert sum(metrics["cost_usd_total"].values()) == pytest.approx(figures["cost_usd"])
    assert sum(metrics["requests_total"].values()) == figures["api_calls"] == api.stats().calls
    assert {value for name in NEVER for value in metrics[f"{name}_total"].values()} == {0}
    assert metrics["requests_total"][grader, "rejected"] == 0
    assert metrics["questions_ungraded_total"] == {(grader,): figures["num_ungraded"]}
    assert metrics["limit_requests_per_minute"][()] == pytest.approx(0.99 * 6_000)


def test_actors_have_names_for_people_and_the_job_has_its_experiment(
    seen_job: tuple[Experiment, Seen, ChaosApi],
) -> None:
    experiment, seen, _ = seen_job
    ours = {name for name in seen.names if name.startswith("evalgen ")}
    (job_id,) = {name.rsplit(" ", 1)[1] for name in ours}
    kinds = ("store", "rate limiter", "sampling replica 0", "grading actor 0")
    assert ours == {f"evalgen {kind} of {job_id}" for kind in kinds}
    assert seen.metadata["evalgen_experiment"] == str(experiment.path)


def test_the_log_is_complete_structured_and_nobody_elses(seen_job: tuple[Experiment, Seen, ChaosApi]) -> None:
    experiment, _, _ = seen_job
    (figures,) = experiment.summary["datasets"]
    lines = (experiment.path / "experiment.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING) ", line) for line in lines)
    (learned,) = [line for line in lines if "requests a minute" in line]
    assert "6000" in learned and 'actor="rate limiter"' in learned, "what another process logged"
    progress = [line for line in lines if " INFO progress " in line]
    assert f"num_answered={figures['num_unique']} " in progress[-1]
    assert f"num_draws={figures['num_draws']} " in progress[-1]
    for event in ("sampled", "graded"):
        assert [line for line in lines if f" INFO {event} unit_id=" in line and "dataset=sampled_mayors" in line]
    assert " INFO done num_datasets=1 total_s=" in lines[-1]
    (written,) = [line for line in lines if " INFO written " in line]
    assert f"num_items={figures['num_items']} num_unique={figures['num_unique']}" in written


def test_without_a_terminal_there_are_few_lines(mayors_job: FinishedJob) -> None:
    summary, lines = mayors_job.experiment.summary, mayors_job.stderr.splitlines()
    assert all(line.startswith("sampled ") for line in lines), "nobody else writes there"
    assert 1 <= len(lines) <= 2 + summary["timings"]["sample_and_grade"] / LINE_EVERY_S
    (figures,) = summary["datasets"]
    assert f"graded {figures['num_unique']} of {figures['num_unique']}," in lines[-1]
    assert NOISE not in mayors_job.stderr + mayors_job.stdout
