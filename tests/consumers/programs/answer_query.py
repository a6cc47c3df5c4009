"""Writes DuckDB's answer to a query as JSON: a list of rows. Runs in the environment `duckdb`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb


def main(sql: str, target: str) -> None:
    Path(target).write_text(json.dumps(duckdb.execute(sql).fetchall()))


if __name__ == "__main__":
    main(*sys.argv[1:])
