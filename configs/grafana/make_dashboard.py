"""Makes `evalgen_dashboard.json` beside this file: Grafana's form round the panels of `panels.py`.

    python -m configs.grafana.make_dashboard

The form is that of the dashboards that Ray provisions, with its variables `datasource`, `SessionName` and `Cluster`
(the label that KubeRay adds). A panel of a single number shows the last one in the time range.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.grafana.panels import ROWS, Panel
from configs.grafana.queries import JOBS, NODES

DASHBOARD = Path(__file__).with_name("evalgen_dashboard.json")
COLUMNS = 24

Json = dict[str, Any]


def dashboard() -> Json:
    """The whole of the JSON file."""
    placed: list[Json] = []
    bottom = 0
    for title, panels in ROWS.items():
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": bottom}
        placed.append(
            {"type": "row", "title": title, "collapsed": False, "gridPos": place, "id": len(placed) + 1, "panels": []}
        )
        bottom += 1
        left, height = 0, 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                left, bottom = 0, bottom + height
            height = 8 if panel.kind == "timeseries" else 5
            place = {"h": height, "w": panel.width, "x": left, "y": bottom}
            placed.append({**panel_json(panel), "gridPos": place, "id": len(placed) + 1})
            left += panel.width
        bottom += height
    return {
        "annotations": {"list": []},
        "description": "How far an evalgen job is, what it costs and what is wrong with it.",
        "editable": True,
        "graphTooltip": 1,
        "links": [{"title": "Ray's own dashboard", "type": "link", "url": "/d/rayDefaultDashboard", "keepTime": True}],
        "panels": placed,
        "refresh": "10s",
        "schemaVersion": 27,  # Ray's; Grafana brings it up to date on import
        "style": "dark",
        "tags": ["evalgen", "ray"],
        "templating": {"list": variables()},
        "time": {"from": "now-30m", "to": "now"},
        "timepicker": {},
        "timezone": "",
        "title": "evalgen",
        "uid": "evalgenDashboard",
        "version": 1,
    }


def panel_json(panel: Panel) -> Json:
    """Of one panel, without its place."""
    defaults: Json = {"unit": panel.unit, "noValue": panel.no_data, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.words:
        defaults["mappings"] = [
            {"type": "value", "options": {str(value): {"text": text} for value, text in panel.words}},
        ]
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    options: Json = {"reduceOptions": reduced}
    if panel.kind == "timeseries":
        stacking = {"group": "A", "mode": "normal" if panel.is_stacked else "none"}
        defaults["custom"] = {"drawStyle": "line", "fillOpacity": 30 if panel.is_stacked else 0, "stacking": stacking}
        options = {
            "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        steps: list[Json] = [{"color": color, "value": value} for value, color in ((None, "green"), *panel.colors)]
        defaults |= {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "stat":
        is_bad = bool(panel.colors)
        options |= {"colorMode": "background" if is_bad else "value", "graphMode": "none" if is_bad else "area"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": "${datasource}",
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"expr": query, "legendFormat": name, "refId": chr(ord("A") + index), "exemplar": False, "interval": ""}
            for index, (name, query) in enumerate(panel.queries)
        ],
    }


def variables() -> list[Json]:
    # What exports this gauge is there as long as the job: the store, and after it the driver that waits for batches.
    every_job = "ray_evalgen_questions_waiting"
    of_jobs = f"ray_evalgen_units_planned{{{JOBS}}}"
    return [
        {
            "name": "datasource",
            "type": "datasource",
            "query": "prometheus",
            "description": "The Prometheus that scrapes Ray.",
            "hide": 2,
            "includeAll": False,
            "multi": False,
            "refresh": 1,
            "regex": "",
        },
        variable("SessionName", "A start of Ray. All but one old.", f"label_values({every_job}, SessionName)"),
        variable(
            "Cluster",
            "A cluster of KubeRay; elsewhere metrics have no such label.",
            "label_values(ray_node_network_receive_speed, ray_io_cluster)",
            all_value=".*",
        ),
        variable(
            "JobId",
            "A job, by its ID on Ray's own dashboard. Figures of several add up.",
            f"label_values({every_job}{{{NODES}}}, JobId)",
            is_multi=True,
        ),
        variable("Run", "A fine-tuning run.", f"label_values({of_jobs}, run)", is_multi=True),
        variable("Checkpoint", "A checkpoint of it.", f"label_values({of_jobs}, checkpoint)", is_multi=True),
    ]


def variable(name: str, description: str, query: str, *, all_value: str = ".+", is_multi: bool = False) -> Json:
    return {
        "name": name,
        "type": "query",
        "description": description,
        "datasource": "${datasource}",
        "definition": query,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "allValue": all_value,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]} if is_multi else {"selected": False},
        "hide": 0,
        "includeAll": True,
        "multi": is_multi,
        "refresh": 2,
        "regex": "",
        "sort": 2,
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(text(), encoding="utf-8")
