"""Where others may read of a submitted job: the process list, Ray's dashboard, its metrics, files."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.ray.conftest import RayCluster

STATES = ("actors", "jobs", "nodes", "tasks", "workers", "runtime_envs", "objects", "placement_groups")


def process_list() -> Iterator[bytes]:
    """What `ps` shows anybody."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ") + b"\n"
        except OSError:  # it has ended
            continue


def dashboard(cluster: RayCluster) -> Iterator[bytes]:
    """The answers that its pages are made of."""
    jobs = _answer(cluster, "/api/jobs/")
    yield jobs
    for job in json.loads(jobs):
        if job["submission_id"]:
            yield _answer(cluster, f"/api/jobs/{job['submission_id']}")
            yield _answer(cluster, f"/api/jobs/{job['submission_id']}/logs")
        if job["job_id"]:
            yield _answer(cluster, f"/api/data/datasets/{job['job_id']}")
    for state in STATES:
        yield _answer(cluster, f"/api/v0/{state}?detail=1&limit=10000")
    for node in json.loads(_answer(cluster, "/api/v0/nodes"))["data"]["result"]["result"]:
        yield _answer(cluster, f"/nodes/{node['node_id']}")
    for path in ("/logical/actors", "/nodes?view=summary", "/api/cluster_status?format=1", "/events"):
        yield _answer(cluster, path)


def _answer(cluster: RayCluster, path: str) -> bytes:
    request = urllib.request.Request(
        cluster.dashboard + path, headers={"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        content: bytes = response.read()
        return content


def exported(cluster: RayCluster) -> Iterator[bytes]:
    """What Prometheus would scrape."""
    discovered: list[dict[str, Any]] = json.loads(
        (cluster.temp_dir / "prom_metrics_service_discovery.json").read_text()
    )
    for target in (target for group in discovered for target in group["targets"]):
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=60) as response:
            yield response.read()


def files(directory: Path) -> Iterator[bytes]:
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            try:
                yield path.read_bytes()
            except FileNotFoundError:  # Ray tidies up
                continue
            if path.suffix == ".parquet":  # compressed, its bytes may hide what its rows say
                yield repr(pq.read_table(path).to_pylist()).encode()
