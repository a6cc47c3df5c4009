"""The Grafana dashboard: it is what its panels' table makes, has the form of Ray's own, and shows every metric.

What a panel shows of given series Prometheus's own `promtool` says.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import ray.dashboard.modules.metrics as ray_metrics
from ray.dashboard.modules.metrics.grafana_dashboard_factory import generate_data_grafana_dashboard

from configs.grafana.make_dashboard import COLUMNS, DASHBOARD, text
from configs.grafana.panels import NO_JOB, ROWS
from configs.grafana.print_panels import interpolated, shown
from configs.grafana.queries import FAILING
from ray_jobs import metrics

Json = dict[str, Any]
NEEDED_ALWAYS = {"SessionName", "JobId"}  # variables
OF_THE_JUDGE = {"Judged", "Equivalent", "Cost", "Ungraded", "Asked again", "Failed requests", "Verdicts", "Tokens"}
IN_SESSION = 'SessionName="s",JobId="01000000"'
OF_CHECKPOINT = f'{IN_SESSION},run="r",checkpoint="c"'
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


def test_what_is_printed_is_in_the_panels_units_and_words() -> None:
    panels = {panel.title: panel for row in ROWS.values() for panel in row}
    printed = [("Sampled", 0.5), ("Judge's server", 0), ("Judge's server", 12), ("Cost", 0.1862), ("Cost", -1)]
    assert [shown(panels[title], value) for title, value in printed] == [
        *("50.0%", "well", "12 s of pause", "$0.1862", "cost unknown: no price")
    ]


@pytest.fixture
def promtool(dashboard: Json, tmp_path: Path) -> Checked:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    return Checked(dashboard, tmp_path / "test.json")


class Checked:
    """Panels over series that tests make up, a value each 10 s: `_` is none, and `stale` says that it is gone."""

    def __init__(self, dashboard: Json, file: Path) -> None:
        self._panels = {panel["title"]: panel for panel in panels_of(dashboard)}
        self._file = file

    def shows(self, series: Mapping[str, str], title: str, values: Mapping[int, float | None], query: int = 0) -> None:
        """`values`: at some seconds the one number that the panel has; None: it has none."""
        expression = interpolated(self._panels[title]["targets"][query]["expr"])
        checks = [
            {
                "expr": expression,
                "eval_time": f"{at}s",
                "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
            }
            for at, value in values.items()
        ]
        inputs = [{"series": f"ray_{name}", "values": told} for name, told in series.items()]
        of_panel = {"interval": "10s", "input_series": inputs, "promql_expr_test": checks}
        self._file.write_text(json.dumps({"evaluation_interval": "10s", "tests": [of_panel]}))
        done = subprocess.run(["promtool", "test", "rules", self._file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_store_that_died_leaves_sampling_and_judging_as_far_as_they_are_and_lets_them_end(promtool: Checked) -> None:
    """What it had counted stays exported, its gauges for some time. The next begins with what is stored."""
    a, b = f'{IN_SESSION},WorkerId="a"', f'{IN_SESSION},WorkerId="b"'
    of_a, of_b = f'{OF_CHECKPOINT},WorkerId="a"', f'{OF_CHECKPOINT},WorkerId="b"'
    series = {
        f"evalgen_units_planned{{{of_a}}}": "10 10 10 stale",
        f"evalgen_units_planned{{{of_b}}}": "_ _ 10 10 10 10",
        f"evalgen_units_done_total{{{of_a}}}": "0 4 4 4 4 4",
        f"evalgen_units_done_total{{{of_b}}}": "_ _ 5 5 7 10",
        f"evalgen_units_failed_total{{{of_a}}}": "0 1 1 1 1 1",
        f"evalgen_units_failed_total{{{of_b}}}": "_ _ 0 0 0 0",
        f"evalgen_sampling_seconds_total{{{of_a}}}": "0 40 40 40 40 40",
        f"evalgen_sampling_seconds_total{{{of_b}}}": "_ _ 50 50 70 100",
        f"evalgen_checkpoint_load_seconds_total{{{of_a}}}": "0 0 0 0 0 0",
        f"evalgen_checkpoint_load_seconds_total{{{of_b}}}": "_ _ 0 0 0 0",
        f'actors{{{IN_SESSION},Source="executor",Name="SamplingActor"}}': "2 2 2 2 2 2",
        f"evalgen_questions_waiting{{{a}}}": "9 9 9 stale",
        f"evalgen_questions_waiting{{{b}}}": "_ _ 9 6 3 0",
        f'evalgen_questions_answered_total{{{a},grader="j",verdict="equivalent"}}': "0 3 3 3 3 3",
        f'evalgen_questions_answered_total{{{b},grader="j",verdict="equivalent"}}': "_ _ 0 3 6 9",
    }
    promtool.shows(series, "Sampled", {0: 0, 10: 0.5, 30: 0.5, 40: 0.7, 50: 1})
    promtool.shows(series, "Time left", {0: None, 30: 5 * 10 / 2, 40: 3 * 10 / 2, 50: 0})
    promtool.shows(series, "Judged", {0: 0, 10: 3 / 12, 20: 3 / 12, 30: 6 / 12, 50: 1})
    promtool.shows(series, "Time left", {50: 0}, query=1)


def test_a_limiter_that_died_takes_no_money_with_it(promtool: Checked) -> None:
    a, b = f'{IN_SESSION},WorkerId="a"', f'{IN_SESSION},WorkerId="b"'
    series = {
        f'evalgen_cost_usd_total{{{a},grader="j"}}': "0 3 3 3 3 3",
        f'evalgen_cost_usd_total{{{b},grader="j"}}': "_ _ 0 0 0.5 1",
        f'evalgen_requests_unpriced_total{{{a},grader="j"}}': "0 0 0 0 0 0",
        f'evalgen_requests_unpriced_total{{{b},grader="j"}}': "_ _ 0 0 0 0",
        f"evalgen_requests_in_flight{{{a}}}": "4 4 stale",
        f"evalgen_requests_in_flight{{{b}}}": "_ _ 2 2 2 stale",
    }
    promtool.shows(series, "Cost", {0: 0, 10: 3, 20: 3, 30: 3, 40: 3.5, 50: None})


def test_a_cost_that_nobody_knows_is_said_to_be_unknown(promtool: Checked, dashboard: Json) -> None:
    dear, free = (f'{IN_SESSION},WorkerId="a",grader="{grader}"' for grader in ("dear", "unpriced"))
    series = {
        f"evalgen_cost_usd_total{{{dear}}}": "0 1 2",
        f"evalgen_cost_usd_total{{{free}}}": "0 0 0",
        f"evalgen_requests_unpriced_total{{{dear}}}": "0 0 0",
        f"evalgen_requests_unpriced_total{{{free}}}": "0 0 5",
        f'evalgen_questions_answered_total{{{free},verdict="equivalent"}}': "0 1 5",
        f'evalgen_questions_waiting{{{IN_SESSION},WorkerId="b"}}': "5 5 5",
        f'evalgen_requests_in_flight{{{IN_SESSION},WorkerId="a"}}': "1 1 1",
    }
    for title, known in (("Cost", 1), ("Cost of all that is sampled", 6)):
        promtool.shows(series, title, {10: known, 20: -1})
        (panel,) = [panel for panel in panels_of(dashboard) if panel["title"] == title]
        (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
        assert mapping["options"] == {"-1": {"text": "cost unknown: no price"}}


def test_the_judges_server_is_well_or_failing_or_wants_a_pause_of_so_many_seconds(
    promtool: Checked, dashboard: Json
) -> None:
    series = {
        f"evalgen_breaker_open{{{IN_SESSION}}}": "0 0 1 1",
        f"evalgen_held_seconds{{{IN_SESSION}}}": "0 37 27 0",
    }
    promtool.shows(series, "Judge's server", {0: 0, 10: 37, 20: FAILING, 30: FAILING})
    (panel,) = [panel for panel in panels_of(dashboard) if panel["title"] == "Judge's server"]
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    assert mapping["options"] == {"0": {"text": "well"}, str(FAILING): {"text": "failing"}}


def test_what_is_not_known_of_a_checkpoint_that_is_sampled_no_more_is_not_shown(promtool: Checked) -> None:
    promtool.shows({f"evalgen_kv_bytes{{{OF_CHECKPOINT}}}": "0 0"}, "Keys and values", {10: None})
    of_nothing = {f"evalgen_draws_total{{{OF_CHECKPOINT}}}": "0 0"}
    promtool.shows(of_nothing, "Distinct completions of the draws", {10: None})


def test_rays_metrics_are_those_of_rays_own_panels() -> None:
    """Those that need a GPU cannot be scraped here: at least Ray asks for them itself."""
    sources = Path(*ray_metrics.__path__).rglob("*.py")
    of_ray = "".join(path.read_text(encoding="utf-8") for path in sources)
    of_ray += (Path(*ray_metrics.__path__) / "dashboards/data_grafana_dashboard_base.json").read_text(encoding="utf-8")
    assert [name for name in RAYS_METRICS | RAYS_GPU_METRICS if name not in of_ray] == []
