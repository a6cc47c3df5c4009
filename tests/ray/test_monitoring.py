"""The dashboard of `configs/grafana` over a real job: the real Prometheus scrapes Ray, and answers what panels ask."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
import ray
import torch
import yaml

from configs.grafana.print_panels import interpolated
from configs.grafana.queries import PLANNED, or_zero
from evalgen import units
from evalgen.records import SamplingUnit
from evalgen.sampling import replica
from evalgen.sampling.model import LoadedModel, load_model
from evalgen.unit_store import SamplingCost
from ray_jobs import generate_eval_datasets
from tests.messages_api import API_KEY, HeldRequest, MessagesApi, error, overloaded, rate_limited
from tests.ray.conftest import REPOSITORY, RayCluster
from tests.ray.jobs import Experiment, mayors_arguments, run_job
from tests.waiting import wait_until

DASHBOARD = json.loads((REPOSITORY / "configs/grafana/evalgen_dashboard.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
NEED_A_GPU = {"GPUs at work", "GPU memory"}
MODEL = "anthropic/claude-haiku-4-5-20251001"
NUM_GENERATIONS = 200
PATIENCE_S = 180
pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")

Series = list[tuple[float, float]]  # seconds since 1970, value


@dataclass(frozen=True)
class Prometheus:
    """A running server, and how to ask it what Grafana would."""

    url: str
    asked_from: float  # seconds since 1970

    def range(self, query: str) -> list[Series]:
        """Every series of the answer, from `asked_from` to now, second by second."""
        times = {"start": str(self.asked_from), "end": str(time.time()), "step": "1"}
        form = urllib.parse.urlencode({"query": query, **times}).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query_range", form, timeout=30) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as refusal:
            raise AssertionError(f"{query}\n{refusal.read().decode()}") from None
        return [[(at, float(value)) for at, value in each["values"]] for each in answer["data"]["result"]]

    def label_values(self, metric: str, label: str) -> list[str]:
        form = urllib.parse.urlencode({"match[]": metric, "start": str(self.asked_from)})
        with urllib.request.urlopen(f"{self.url}/api/v1/label/{label}/values?{form}", timeout=30) as response:
            values: list[str] = json.load(response)["data"]
            return values

    def panel(self, title: str, job: str = ".+") -> dict[str, list[Series]]:
        """What a panel shows, by its series' legends; all of everything else where the panel has a choice."""
        return {each["legendFormat"]: self.range(interpolated(each["expr"], job)) for each in PANELS[title]["targets"]}

    def number(self, title: str, job: str = ".+") -> float | None:
        """What a panel of one number shows: the last, as its reducer says."""
        ((_, series),) = self.panel(title, job).items()
        return series[0][-1][1] if series else None


@contextmanager
def prometheus(cluster: RayCluster, directory: Path) -> Iterator[Prometheus]:
    """With `configs/prometheus.yml`, but for where this cluster's nodes are listed and how often they are asked."""
    config = yaml.safe_load((REPOSITORY / "configs/prometheus.yml").read_text())
    (scrape,) = config["scrape_configs"]
    (discovery,) = scrape["file_sd_configs"]
    discovery["files"] = [str(cluster.temp_dir / Path(discovery["files"][0]).name)]
    config["global"]["scrape_interval"] = "1s"
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={directory / 'prometheus.yml'}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={directory / 'tsdb'}", "--log.level=warn"]
    process = subprocess.Popen(command)
    server = Prometheus(f"http://{address}", asked_from=time.time())
    try:
        wait_until(lambda: is_up(server), PATIENCE_S, "Prometheus scrapes Ray")
        yield server
    finally:
        process.terminate()
        process.wait()


def is_up(server: Prometheus) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/-/ready", timeout=30):
            return bool(server.range("up == 1"))
    except OSError:
        return False


class TroubledReplica:
    """A real replica that cannot sample one prompt, and whose memory runs out once."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._replica = replica.Replica(replica.own_device())

    def sample(self, unit: SamplingUnit, next_checkpoint: str) -> tuple[pa.Table, SamplingCost]:
        if any("Tokyo" in query.prompt for query in unit.queries):
            raise ValueError("this prompt is not to be sampled")
        with patch.object(replica, "load_model", short_of_memory):
            return self._replica.sample(unit, next_checkpoint)


def short_of_memory(*arguments: Any) -> LoadedModel:
    loaded = load_model(*arguments)
    return replace(loaded, model=_ShortOnce(loaded.model))  # type: ignore[arg-type]


class _ShortOnce:
    def __init__(self, model: Any) -> None:
        self._model, self._is_short = model, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *, input_ids: torch.Tensor, **options: Any) -> Any:
        if self._is_short and len(input_ids) > 1:
            self._is_short = False
            raise torch.OutOfMemoryError("simulated")
        return self._model(input_ids=input_ids, **options)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A job that is over, and the server that has scraped it."""

    figures: dict[str, Any]  # of the one dataset
    printed: str  # by `configs.grafana.print_panels` in mid-run
    server: Prometheus


@pytest.fixture(scope="module")
def watched(ray_cluster: RayCluster, mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A job with every trouble that needs no GPU, after one that has paid for some of its verdicts."""
    output_dir = tmp_path_factory.mktemp("outputs")
    settings = {"grader_model": MODEL, "num_generations": NUM_GENERATIONS, "max_connections": 2}
    limits = {f"{it}_per_minute": 600_000 for it in ("requests", "input_tokens", "output_tokens")}
    arguments = partial(mayors_arguments, mayors_run, output_dir, **settings, **limits)
    with MessagesApi() as api, pytest.MonkeyPatch.context() as patched:
        patched.setenv("ANTHROPIC_BASE_URL", api.base_url)
        patched.setenv("ANTHROPIC_API_KEY", API_KEY)
        patched.setenv("RAY_ADDRESS", ray_cluster.address)
        with prometheus(ray_cluster, tmp_path_factory.mktemp("prometheus")) as server:
            earlier = run_job(arguments(num_generations=10), output_dir)
            api.script(rate_limited(0.3), overloaded(), error(400, "invalid_request_error", "not this one"))
            held = api.hold(api.calls + 20)
            printed: list[str] = []
            with released_when(held, lambda: is_printed_in_mid_run(server, printed)), troubled_replicas():
                assert generate_eval_datasets.main(arguments()) == 1
            (directory,) = set(output_dir.iterdir()) - {earlier.path}
            (figures,) = Experiment(directory).summary["datasets"]
            wait_until(lambda: is_told(server, figures), PATIENCE_S, "the end of the job is scraped")
            yield Watched(figures=figures, printed=printed[0], server=server)


@contextmanager
def troubled_replicas() -> Iterator[None]:
    run = partial(generate_eval_datasets.run_job, make_engine=TroubledReplica)
    with patch.object(units, "MAX_DRAWS", NUM_GENERATIONS), patch.object(generate_eval_datasets, "run_job", run):
        yield  # units of one prompt each


@contextmanager
def released_when(held: HeldRequest, condition: Callable[[], bool]) -> Iterator[None]:
    """Another thread waits for `condition` while the block runs; what it ends with, this ends with."""
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            wait_until(condition, PATIENCE_S, "the job in mid-run is scraped")
        except BaseException as failure:
            failures.append(failure)
        finally:
            held.release()

    thread = Thread(target=wait)
    thread.start()
    yield
    thread.join()
    if failures:
        raise failures[0]


def is_seen_in_mid_run(server: Prometheus) -> bool:
    """The job of this process."""
    if not ray.is_initialized():
        return False
    job = ray.get_runtime_context().get_job_id()
    shown = (server.panel(title, job) for title in ("Requests in flight", "Completions that wait for a verdict"))
    return all(value_seen(series) for panel in shown for series in panel.values())


def is_printed_in_mid_run(server: Prometheus, printed: list[str]) -> bool:
    if not is_seen_in_mid_run(server):
        return False
    command = [sys.executable, "-m", "configs.grafana.print_panels", "--prometheus", server.url]
    printed.append(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)
    return True


def value_seen(series: list[Series]) -> bool:
    return any(value > 0 for each in series for _, value in each)


def is_told(server: Prometheus, figures: dict[str, Any]) -> bool:
    cost = server.number("Cost")
    return server.number("Judged") == 1 and cost is not None and cost == pytest.approx(figures["cost_usd"])


@pytest.mark.parametrize("title", PANELS)
def test_every_panel_has_data(watched: Watched, title: str) -> None:
    if title in NEED_A_GPU and not torch.cuda.is_available():
        pytest.skip("no GPU")
    shown = watched.server.panel(title)
    assert all(shown.values()), f"nothing for {[legend for legend, series in shown.items() if not series]}"


def test_without_grafana_a_command_prints_what_the_panels_show(watched: Watched) -> None:
    assert all(title in watched.printed for title in PANELS)
    assert re.search(r"Sampled +[\d.]+%", watched.printed) and re.search(r"Judged +[\d.]+%", watched.printed)
    assert re.search(r"Requests in flight +in flight +[12]\b", watched.printed)


def test_the_numbers_are_those_of_the_job(watched: Watched) -> None:
    figures, number = watched.figures, watched.server.number
    assert number("Sampled") == 1 and number("Judged") == 1
    assert number("Cost") == pytest.approx(figures["cost_usd"])
    assert number("Cost of all that is sampled") == pytest.approx(figures["cost_usd"])
    assert number("Equivalent") == pytest.approx(figures["num_equivalent"] / figures["num_graded"])
    questions = watched.server.panel("Questions asked, and paid for earlier")
    asked, paid_for_earlier = (series[0][-1][1] for series in questions.values())
    assert paid_for_earlier > 0 and asked + paid_for_earlier == figures["num_unique"]


def test_what_never_happened_is_0_as_long_as_it_would_be_told(watched: Watched) -> None:
    never, server = "sum(ray_evalgen_never_total)", watched.server
    ((*_, (_, last)),) = server.range(interpolated(or_zero(never, PLANNED)))
    assert last == 0 and not server.range(never) and not server.range(or_zero(never, never))


def test_a_job_is_told_from_the_one_before(watched: Watched) -> None:
    (variable,) = [it for it in DASHBOARD["templating"]["list"] if it["name"] == "JobId"]
    costs = [watched.server.number("Cost", job) for job in choices(watched.server, variable)]
    assert len(costs) >= 2 and costs.count(pytest.approx(watched.figures["cost_usd"])) == 1


def test_what_went_wrong_is_told(watched: Watched) -> None:
    number = watched.server.number
    assert number("Units given up") == 1
    assert number("Units tried again") == 2
    assert number("Out of memory") == 1
    assert number("429s") == 1
    assert number("Ungraded") == watched.figures["num_ungraded"] == 1
    assert (asked_again := number("Asked again")) is not None and asked_again >= 1


def test_the_choices_are_filled_from_what_is_scraped(watched: Watched) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["name"] in ("SessionName", "Run", "Checkpoint"):
            label, values = variable["name"].lower(), choices(watched.server, variable)
            assert values == [watched.figures[label]] if label in watched.figures else len(values) == 1


def choices(server: Prometheus, variable: dict[str, Any]) -> list[str]:
    metric, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
    return server.label_values(interpolated(metric), label)
