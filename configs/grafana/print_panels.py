"""Prints what the dashboard's panels show now, from Prometheus alone: where there is no Grafana.

    python -m configs.grafana.print_panels [--prometheus http://localhost:9090] [--job 01000000]

`--job` is the ID that Ray's Jobs page has; without it, all jobs that run or ran a moment ago.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configs.grafana.panels import ROWS, Panel

SCRAPED_WITHIN = "40s"  # of a rate, as Grafana takes it: four times what `configs/prometheus.yml` has between scrapes
WIDTH = 120  # where the output is no terminal

FORMS = {
    "percentunit": "{:.1%}",
    "percent": "{:.1f}%",
    "currencyUSD": "${:,.4f}",
    "s": "{:,.1f} s",
    "cps": "{:,.2f} a second",
    "bytes": "{:,.0f} bytes",
}


def interpolated(query: str, job: str = ".+") -> str:
    """As Grafana asks it where everything else is chosen."""
    chosen = {"SessionName": ".+", "Cluster": ".*", "JobId": job, "Run": ".+", "Checkpoint": ".+"}
    for name, value in chosen.items():
        query = query.replace(f"${name}", value)
    return query.replace("$__rate_interval", SCRAPED_WITHIN)


def answers(prometheus: str, query: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each series that Prometheus has for a query now.

    Raises:
        OSError: it cannot be reached, or refuses the query.
    """
    form = urllib.parse.urlencode({"query": query}).encode()
    with urllib.request.urlopen(f"{prometheus}/api/v1/query", form, timeout=30) as response:
        series: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return [(each["metric"], float(each["value"][1])) for each in series]


def lines_of(panel: Panel, prometheus: str, job: str) -> list[tuple[str, str]]:
    """What each series of a panel is called, and its value."""
    lines = []
    for legend, query in panel.queries:
        for labels, value in answers(prometheus, interpolated(query, job)):
            name = re.sub(r"{{\s*(\w+)\s*}}", lambda label, labels=labels: labels.get(label[1], ""), legend)
            lines.append(("" if name == panel.title else name, shown(panel, value)))
    return lines or [("", panel.no_data)]


def shown(panel: Panel, value: float) -> str:
    """In the panel's words or its unit."""
    if math.isnan(value):  # 0 of 0
        return panel.no_data
    words = [word for at, word in panel.words if value == at]
    _, _, suffix = panel.unit.partition("suffix:")
    number = "{:,.0f}" if abs(value) >= 1_000 else "{:,.4g}"
    return words[0] if words else FORMS.get(panel.unit, number).format(value) + suffix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://localhost:9090", help="its address")
    parser.add_argument("--job", default=".+", help="ID of one job")
    arguments = parser.parse_args()
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=WIDTH)
    for row, panels in ROWS.items():
        table = Table("panel", "series", "now", title=row, title_justify="left", box=SIMPLE_HEAD)
        for panel in panels:
            try:
                lines = lines_of(panel, arguments.prometheus.rstrip("/"), arguments.job)
            except urllib.error.HTTPError as refusal:
                sys.exit(f"error: {arguments.prometheus} refuses a query: {refusal.read(500).decode(errors='replace')}")
            except (OSError, ValueError, KeyError) as error:
                sys.exit(f"error: no Prometheus at {arguments.prometheus} ({error}); `make monitoring` starts one")
            for number, (name, value) in enumerate(lines):
                table.add_row("" if number else panel.title, escape(name), escape(value))
        console.print(table)


if __name__ == "__main__":
    main()
