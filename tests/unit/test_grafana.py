"""The Grafana dashboard: it is what its panels' table makes, has the form of Ray's own, and shows every metric."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import ray.dashboard.modules.metrics as ray_metrics
from ray.dashboard.modules.metrics.grafana_dashboard_factory import generate_data_grafana_dashboard

from configs.grafana.make_dashboard import COLUMNS, DASHBOARD, text
from configs.grafana.panels import NO_JOB
from ray_jobs import metrics

Json = dict[str, Any]
NEEDED_ALWAYS = {"SessionName", "JobId"}  # variables
OF_THE_JUDGE = {"Judged", "Equivalent", "Cost", "Ungraded", "Asked again", "Failed requests", "Verdicts", "Tokens"}
RAYS_METRICS = {"ray_actors", "ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total"}
RAYS_GPU_METRICS = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_network_receive_speed"}


@pytest.fixture(scope="module")
def dashboard() -> Json:
    parsed: Json = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return parsed


@pytest.fixture(scope="module")
def rays() -> Json:
    """A dashboard as Ray writes it for Grafana to provision."""
    content, _ = generate_data_grafana_dashboard()
    parsed: Json = json.loads(content)
    return parsed


def panels_of(dashboard: Json) -> list[Json]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries_of(dashboard: Json) -> Iterator[str]:
    for panel in panels_of(dashboard):
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        yield variable.get("definition", "")


def test_the_file_is_what_the_table_of_panels_makes() -> None:
    assert DASHBOARD.read_text(encoding="utf-8") == text(), "run: python -m configs.grafana.make_dashboard"


def test_it_has_the_form_of_rays_own(dashboard: Json, rays: Json) -> None:
    ours_alone = {"gnetId", "iteration", "rayMeta"}  # of Grafana's site, of an export, and of Ray's own page
    assert dashboard.keys() - {"description"} == rays.keys() - ours_alone
    assert dashboard["schemaVersion"] == rays["schemaVersion"]
    of_ray = {variable["name"]: variable for variable in rays["templating"]["list"]}
    for variable in dashboard["templating"]["list"]:
        alike = of_ray.get(variable["name"], of_ray["DatasetID"])
        assert variable.keys() <= alike.keys()
        assert variable["type"] == alike["type"] and variable.get("datasource") == alike.get("datasource")
    assert {"datasource", "SessionName", "Cluster"} <= {it["name"] for it in dashboard["templating"]["list"]}
    (row, *_) = [panel for panel in rays["panels"] if panel["type"] == "row"]
    assert all(panel.keys() == row.keys() for panel in dashboard["panels"] if panel["type"] == "row")


def test_every_panel_says_what_it_shows_in_which_unit_and_what_no_data_means(dashboard: Json) -> None:
    for panel in panels_of(dashboard):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["description"].endswith(".") and defaults["unit"] and defaults["noValue"]
        assert panel["datasource"] == "${datasource}"
        assert all(target["legendFormat"] for target in panel["targets"])
    titles = [panel["title"] for panel in panels_of(dashboard)]
    assert len(set(titles)) == len(titles)


def test_every_query_keeps_to_the_chosen_session_and_cluster(dashboard: Json) -> None:
    for query in (target["expr"] for panel in panels_of(dashboard) for target in panel["targets"]):
        selectors = re.findall(r"ray_\w+(\{[^}]*\})?", query)
        assert selectors and all("$SessionName" in it and "$Cluster" in it for it in selectors), query


def test_no_panel_lies_on_another_and_ids_are_unique(dashboard: Json) -> None:
    cells: list[set[tuple[int, int]]] = []
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS
        cells.append(set(product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))))
    assert all(one.isdisjoint(other) for one, other in combinations(cells, 2))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def exported_by(monkeypatch: pytest.MonkeyPatch, *exporters: type) -> set[str]:
    """The names of their metrics in Prometheus."""
    exported: set[str] = set()

    class Recorded:
        ending = ""

        def __init__(self, name: str, *_: Any, **__: Any) -> None:
            exported.add(f"ray_{name}{self.ending}")

    monkeypatch.setattr(metrics, "Counter", type("RecordedCounter", (Recorded,), {"ending": "_total"}))
    monkeypatch.setattr(metrics, "Gauge", Recorded)
    for exporter in exporters:
        exporter()
    return exported


def asked_for_by(queries: Iterable[str]) -> set[str]:
    return {name for query in queries for name in re.findall(r"ray_\w+", query)} - {"ray_io_cluster"}


def test_it_shows_every_metric_of_the_job_and_asks_for_none_that_nobody_exports(
    dashboard: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporters = (metrics.StoreMetrics, metrics.LimiterMetrics, metrics.ReplicaMetrics, metrics.BatchMetrics)
    asked_for = asked_for_by(queries_of(dashboard))
    assert asked_for - RAYS_METRICS - RAYS_GPU_METRICS == exported_by(monkeypatch, *exporters)


def test_a_job_that_waits_for_batches_can_be_chosen_and_no_panel_says_that_there_is_none(
    dashboard: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its store and limiter have ended; the driver alone exports."""
    of_driver = exported_by(monkeypatch, metrics.BatchMetrics)
    for variable in dashboard["templating"]["list"]:
        if variable["name"] in NEEDED_ALWAYS:
            assert asked_for_by([variable["definition"]]) <= of_driver, variable["name"]
    for panel in panels_of(dashboard):
        others = asked_for_by(target["expr"] for target in panel["targets"]) - of_driver
        if panel["title"] in OF_THE_JUDGE:
            assert not others, panel["title"]
        elif others:
            assert panel["fieldConfig"]["defaults"]["noValue"] not in (NO_JOB, "none"), panel["title"]


def test_rays_metrics_are_those_of_rays_own_panels() -> None:
    """Those that need a GPU cannot be scraped here: at least Ray asks for them itself."""
    sources = Path(*ray_metrics.__path__).rglob("*.py")
    of_ray = "".join(path.read_text(encoding="utf-8") for path in sources)
    of_ray += (Path(*ray_metrics.__path__) / "dashboards/data_grafana_dashboard_base.json").read_text(encoding="utf-8")
    assert [name for name in RAYS_METRICS | RAYS_GPU_METRICS if name not in of_ray] == []
