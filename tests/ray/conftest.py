"""One real local Ray for the whole session, started as its users start it: `ray start --head`."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.faults.cases import Undisturbed
    from tests.ray.jobs import FinishedJob
    from tests.ray.submission import SubmittedJob

# Before Ray is imported, which reads them once: the session's cluster wants a token, and this process has it.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

REPOSITORY = Path(__file__).parents[2]
START_TIMEOUT_S = 120
METRICS_EACH_SECOND = {"RAY_metrics_report_interval_ms": "1000"}  # by itself Ray tells its agent every 10 s


@dataclass(frozen=True, kw_only=True)
class RayCluster:
    """Addresses of the running cluster, and the directory in which it was started."""

    address: str
    dashboard: str
    started_in: Path
    temp_dir: Path


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head node with two CPUs and a dashboard; drivers join it through RAY_ADDRESS."""
    with started_ray(tmp_path_factory.mktemp("ray_started_here"), METRICS_EACH_SECOND) as cluster:
        yield cluster


@contextmanager
def started_ray(started_in: Path, settings: Mapping[str, str] = {}) -> Iterator[RayCluster]:
    """As `ray_cluster`, which no other test uses. `settings`: of its environment."""
    ray_directory = Path(tempfile.mkdtemp(prefix="ray-"))  # short: it holds Unix sockets
    port, dashboard_port, client_port = _free_ports(3)
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={port}", f"--dashboard-port={dashboard_port}", f"--ray-client-server-port={client_port}"]
    # Any worker ports: by itself every Ray of a machine would try the same ones in turn.
    command += ["--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--temp-dir={ray_directory}", "--disable-usage-stats"]
    head = subprocess.Popen(command, cwd=started_in, env=_environment() | settings, stdout=subprocess.DEVNULL)
    try:
        _wait_for_dashboard(head, dashboard_port)
        # It refuses a job for which the node's agent is not there within 10 s.
        agent = "session_latest/dashboard_agent_listen_port_*"
        wait_until(lambda: any(ray_directory.glob(agent)), START_TIMEOUT_S, "the agent listens")
        yield RayCluster(
            address=f"127.0.0.1:{port}",
            dashboard=f"http://127.0.0.1:{dashboard_port}",
            started_in=started_in,
            temp_dir=ray_directory,
        )
    finally:
        # At once: on SIGTERM a node drains for half a minute first.
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                process.kill()
        head.wait()
        shutil.rmtree(ray_directory, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def leaves_ray() -> Iterator[None]:
    """A call of an actor joins a Ray by itself, and the next module's drivers join theirs."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture
def joined_cluster(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """Drivers that this test runs join the session's cluster."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    return ray_cluster


@pytest.fixture(scope="session")
def mayors_job(ray_cluster: RayCluster, mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """One finished job over the mayors, for every test that only reads: `mayors_arguments` as they are."""
    from tests.ray.jobs import mayors_arguments, run_as_process

    output_dir = tmp_path_factory.mktemp("mayors_job")
    return run_as_process(mayors_arguments(mayors_run, output_dir), output_dir, ray_cluster.address)


@pytest.fixture(scope="session")
def submitted_job(ray_cluster: RayCluster, mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> SubmittedJob:
    """One finished submission with a judge that wants a key, and all that others saw of it."""
    from tests.ray.submission import submitted_and_seen

    return submitted_and_seen(ray_cluster, mayors_run, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def undisturbed(ray_cluster: RayCluster, mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The job that no fault struck."""
    from tests.faults.cases import Undisturbed

    directory = tmp_path_factory.mktemp("undisturbed") / "job"
    return Undisturbed.run(mayors_run, directory, {"RAY_ADDRESS": ray_cluster.address})


def _environment() -> dict[str, str]:
    """Of a user whose virtual environment is active, and who has no Anthropic account."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for_dashboard(head: subprocess.Popen[bytes], port: int) -> None:
    def is_up() -> bool:
        assert head.poll() is None, f"ray start ended with exit code {head.returncode}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(is_up, START_TIMEOUT_S, "the dashboard listens")
