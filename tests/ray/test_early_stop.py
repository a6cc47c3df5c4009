"""A signal while Ray starts ends the job, with nothing created and nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import started_here, titled
from tests.ray.jobs import DRIVER, mayors_arguments
from tests.waiting import wait_until

PATIENCE_S = 120.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_starts_leaves_nothing(mayors_run: Path, tmp_path: Path, number: signal.Signals) -> None:
    output_dir = tmp_path / "outputs"
    before = set(started_here())
    job = subprocess.Popen(
        [sys.executable, str(DRIVER), *mayors_arguments(mayors_run, output_dir)],
        env=os.environ | {"RAY_ADDRESS": "local"},  # one of its own
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: set(titled("gcs_server")) - before != set(), PATIENCE_S, "Ray starts")
    job.send_signal(number)
    said, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 128 + number
    assert said == f"\n{number.name}: stopping. Nothing was begun\n"
    assert not output_dir.exists()
    left = psutil.wait_procs(list(set(started_here()) - before), timeout=PATIENCE_S)[1]
    assert not left, left
