"""The key of the judge's account is nowhere to be read: a submitted job, and everything that others see of it.

As the README says to do it, the key is in a file of the user's on the head node, which the entrypoint reads.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.messages_api import MessagesApi
from tests.ray.conftest import REPOSITORY, RayCluster
from tests.ray.jobs import mayors_arguments
from tests.ray.test_monitoring import temp_dir_of
from tests.waiting import wait_until

KEY = f"sk-ant-canary-{secrets.token_hex(24)}"
MODEL = "anthropic/claude-haiku-4-5-20251001"
PATIENCE_S = 300
STATES = ("actors", "jobs", "nodes", "tasks", "workers", "runtime_envs", "objects", "placement_groups")
# By place, what the job has surely left there: without it nothing was looked at.
MARKS = {
    "process list": b"generate_eval_datasets.py",
    "submission's output": b"Grading statistics",
    "dashboard in mid-run": b"GradingActor",
    "dashboard": b"GradingActor",
    "metrics in mid-run": b"ray_evalgen_units_planned",
    "metrics": b"ray_evalgen_requests_total",
    "experiment": MODEL.encode(),
    "Ray's directory": b"GradingActor",
}


@pytest.fixture(scope="module")
def places(
    ray_cluster: RayCluster, mayors_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, bytes]]:
    """All that can be read in each place."""
    home, output_dir = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("outputs")
    with MessagesApi(api_key=KEY) as api:
        key_file = home / ".anthropic.env"
        key_file.touch(mode=0o600)
        key_file.write_text(f"export ANTHROPIC_API_KEY={KEY} ANTHROPIC_BASE_URL={api.base_url} NO_PROXY=127.0.0.1\n")
        held = api.hold(5)
        arguments = mayors_arguments(mayors_run, output_dir, grader_model=MODEL, max_connections=3)
        job = submitted(ray_cluster, key_file, arguments)
        try:
            wait_until(lambda: held.has_arrived or job.poll() is not None, PATIENCE_S, "the judge is asked")
            seen = {"process list": b"".join(process_list())}
            metrics: list[bytes] = []

            def is_exported() -> bool:
                metrics[:] = exported(ray_cluster)
                return MARKS["metrics in mid-run"] in b"".join(metrics)

            wait_until(is_exported, PATIENCE_S, "the job's metrics are exported")
            seen["metrics in mid-run"] = b"".join(metrics)
            seen["dashboard in mid-run"] = b"".join(dashboard(ray_cluster))
            held.release()
            printed, _ = job.communicate(timeout=PATIENCE_S)
        finally:
            job.kill()
        assert job.returncode == 0, printed.decode()
        assert api.calls > 5, "the server takes no other key"
    seen["submission's output"] = printed
    seen["dashboard"] = b"".join(dashboard(ray_cluster))
    seen["metrics"] = b"".join(exported(ray_cluster))
    seen["experiment"] = b"".join(files(output_dir))
    seen["Ray's directory"] = b"".join(files(temp_dir_of(ray_cluster)))
    assert is_in(b"".join(files(home))), "the search finds a key where there is one"
    yield seen


def submitted(cluster: RayCluster, key_file: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    command = shlex.join(["python", "ray_jobs/generate_eval_datasets.py", *arguments])
    ray = str(Path(sys.executable).with_name("ray"))
    submission = [ray, "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--"]
    return subprocess.Popen(
        [*submission, "bash", "-c", f". {shlex.quote(str(key_file))} && exec {command}"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def process_list() -> Iterator[bytes]:
    """What `ps` shows anybody."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ") + b"\n"
        except OSError:  # it has ended
            continue


def dashboard(cluster: RayCluster) -> Iterator[bytes]:
    """The answers that its pages are made of."""
    jobs = answer(cluster, "/api/jobs/")
    yield jobs
    for job in json.loads(jobs):
        if job["submission_id"]:
            yield answer(cluster, f"/api/jobs/{job['submission_id']}")
            yield answer(cluster, f"/api/jobs/{job['submission_id']}/logs")
        if job["job_id"]:
            yield answer(cluster, f"/api/data/datasets/{job['job_id']}")
    for state in STATES:
        yield answer(cluster, f"/api/v0/{state}?detail=1&limit=10000")
    for node in json.loads(answer(cluster, "/api/v0/nodes"))["data"]["result"]["result"]:
        yield answer(cluster, f"/nodes/{node['node_id']}")
    for path in ("/logical/actors", "/nodes?view=summary", "/api/cluster_status?format=1", "/events"):
        yield answer(cluster, path)


def answer(cluster: RayCluster, path: str) -> bytes:
    request = urllib.request.Request(
        cluster.dashboard + path, headers={"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        content: bytes = response.read()
        return content


def exported(cluster: RayCluster) -> Iterator[bytes]:
    """What Prometheus would scrape."""
    discovered: list[dict[str, Any]] = json.loads(
        (temp_dir_of(cluster) / "prom_metrics_service_discovery.json").read_text()
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


def is_in(content: bytes) -> bool:
    return any(form in content for form in forms_of_key())


def forms_of_key() -> Iterable[bytes]:
    """As it is, and as base64 has it wherever it begins in what was encoded."""
    yield KEY.encode()
    for before in range(3):
        encoded = base64.b64encode(b"." * before + KEY.encode())
        yield encoded[4:-4]  # the ends depend on what is beside it


@pytest.mark.parametrize("place", MARKS)
def test_the_key_is_not_to_be_read(places: dict[str, bytes], place: str) -> None:
    assert MARKS[place] in places[place]
    assert not is_in(places[place])
